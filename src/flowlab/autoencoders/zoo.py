"""Any autoencoder class of diffusers behind the contract: the one file that touches diffusers.

The classes agree on little: what `encode` returns, whether there is a frame axis, how the latent is brought
to unit scale. Stride and channels are measured on a blank image rather than read from settings.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from flowlab.autoencoders.base import Autoencoder, LatentSpec, Moments, sample
from flowlab.autoencoders.normalise import patchify, unpatchify
from flowlab.core.choices import lookup
from flowlab.core.seeds import Streams
from flowlab.core.weights import check_finite

__all__ = ["ZooAutoencoder", "ZooSpec", "from_folder", "to_folder"]

PROBE = 128
"""Side in pixels of the blank image; the coarsest known class has a stride of 128."""


@dataclass(frozen=True, kw_only=True)
class ZooSpec:
    """What a diffusers class leaves open."""

    patch: int | None = None
    """Side of the patchify that makes tokens; None makes tokens 16 px wide, or as wide as the class does."""
    resolution: int = 256
    """Pixels per side at training."""


class ZooAutoencoder(Autoencoder):
    """A model of diffusers; final latent = patchify((z - mean) scale / std)."""

    mean: Tensor
    std: Tensor

    def __init__(self, model: nn.Module, spec: ZooSpec):
        super().__init__()
        self.model, self.options = model, spec
        self.class_name = type(model).__name__
        self.frames = _first_kernel(model, self.class_name).ndim == 5  # video: (B, c, frames, h, w)
        channels, stride = self._measured()
        self.patch = spec.patch or max(1, 16 // stride)
        self.spec = LatentSpec(
            name=f"{self.class_name}_f{stride}c{channels}",
            family="zoo",
            stride=stride * self.patch,
            channels=channels * self.patch**2,
            resolution=spec.resolution,
        )
        mean, std = constants(model, channels)
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)

    def encode(self, pixels: Tensor) -> Moments:
        self.check(pixels)
        return self._encoded(pixels)

    def to_latent(self, moments: Moments, generators: Streams | None = None) -> Tensor:
        z = (sample(moments, generators) - self.mean) / self.std  # (B, c, h, w)
        return patchify(z, self.patch)

    def decode(self, latent: Tensor) -> Tensor:
        self.check_latent(latent)
        return self.decode_raw(unpatchify(latent, self.patch) * self.std + self.mean).float()

    def decode_raw(self, z: Tensor) -> Tensor:
        z = z.to(next(self.model.parameters()).dtype)
        extra = _decode_settings(self.model, self.class_name, z)
        output = self.model.decode(z[:, :, None] if self.frames else z, **extra)  # pyright: ignore
        return self._still(output["sample"] if isinstance(output, Mapping) else output)

    def fit_normalisation(self, means: Tensor) -> None:
        self.mean.copy_(means.mean((0, 2, 3), keepdim=True)[0])
        self.std.copy_(means.std((0, 2, 3), keepdim=True)[0])

    def _encoded(self, pixels: Tensor) -> Moments:
        """Without the check, which knows the sizes that work only after the blank image was measured."""
        pixels = pixels.to(next(self.model.parameters()).dtype)
        moments = _moments(self.model.encode(pixels[:, :, None] if self.frames else pixels))  # pyright: ignore
        logvar = None if moments.logvar is None else self._still(moments.logvar)
        return Moments(self._still(moments.mean), logvar)

    def _still(self, x: Tensor) -> Tensor:
        """Drop the frame axis of one."""
        if x.ndim == 5 and x.shape[2] != 1:
            raise ValueError(f"{self.class_name} makes {x.shape[2]} frames of one image; only 1 can be used")
        return x[:, :, 0] if x.ndim == 5 else x

    @torch.no_grad()
    def _measured(self) -> tuple[int, int]:
        """Channels of a raw latent, and pixels per side of its positions."""
        like = next(self.model.parameters())
        try:
            z = self._encoded(torch.zeros(1, 3, PROBE, PROBE, device=like.device, dtype=like.dtype)).mean
        except (RuntimeError, TypeError, IndexError) as problem:
            reason = str(problem).strip().splitlines()[0]
            raise ValueError(
                f"{self.class_name} does not encode an image of three colours ({reason})"
            ) from problem
        if z.ndim != 4 or z.shape[2] != z.shape[3] or PROBE % z.shape[2]:
            raise ValueError(f"{self.class_name} makes {tuple(z.shape)} of {PROBE} px; expected a square map")
        return z.shape[1], PROBE // z.shape[2]


# ---- files -------------------------------------------------------------------------------------------------


def from_folder(folder: Path, class_name: str, dtype: torch.dtype, spec: ZooSpec) -> ZooAutoencoder:
    """A frozen model of the diffusers class `class_name` from the folder that its save_pretrained wrote.

    A missing, unknown or misshapen tensor, and one that is not finite, is a ValueError.
    """
    try:
        import diffusers
    except ImportError as problem:
        raise ValueError(
            f"{folder} holds a {class_name}, which needs diffusers: install the extra flowlab[zoo]"
        ) from problem
    known = {
        name: name for name in dir(diffusers) if "Autoencoder" in name or name.endswith(("VAE", "VQModel"))
    }
    kind = getattr(diffusers, lookup(known, class_name, "autoencoder class of the installed diffusers"))
    try:
        model, report = kind.from_pretrained(
            folder, torch_dtype=dtype, output_loading_info=True, low_cpu_mem_usage=False
        )
    except (OSError, RuntimeError) as problem:
        reason = str(problem).strip().splitlines()[0]
        raise ValueError(f"{folder} cannot be loaded as {class_name} ({reason})") from problem
    _check_whole(report, folder, class_name)
    check_finite(model.state_dict(), str(folder))
    return ZooAutoencoder(model, spec).eval().requires_grad_(False)


def to_folder(autoencoder: ZooAutoencoder, folder: Path) -> None:
    """Write the folder that diffusers loads; it has no place for a fitted normalisation: a ValueError."""
    mean, std = constants(autoencoder.model, len(autoencoder.mean))
    if not (torch.equal(mean, autoencoder.mean.cpu()) and torch.equal(std, autoencoder.std.cpu())):
        raise ValueError(
            f"the normalisation of {autoencoder.spec.name} was fitted; no setting of it holds that"
        )
    autoencoder.model.save_pretrained(folder)  # pyright: ignore


def _check_whole(report: Mapping[str, Any], folder: Path, class_name: str) -> None:
    """diffusers fills what is missing with random values and skips what it does not know."""
    for kind, verb in (
        ("missing", "lacks"),
        ("unexpected", "has the unknown"),
        ("mismatched", "has a misshapen"),
    ):
        if names := report.get(f"{kind}_keys"):
            raise ValueError(f"{folder} {verb} tensor {sorted(map(str, names))[0]!r} of {class_name}")


# ---- differences between the classes -----------------------------------------------------------------------


def constants(model: nn.Module, channels: int) -> tuple[Tensor, Tensor]:
    """Mean and std of the raw latent, (channels, 1, 1) float32 each, from settings or stored statistics.

    Pipelines of diffusers compute (z - mean) scaling_factor / std, with shift_factor for mean in some.
    """
    config: Mapping[str, Any] = model.config  # pyright: ignore
    stored = dict(model.named_buffers())  # LTX keeps its statistics there
    found = {key: config.get(key, stored.get(key)) for key in ("latents_mean", "latents_std")}
    mean = found["latents_mean"] if found["latents_mean"] is not None else config.get("shift_factor") or 0.0
    std = found["latents_std"] if found["latents_std"] is not None else 1.0
    mean, std = (_per_channel(x, channels) for x in (mean, std))
    return mean.float(), (std / (config.get("scaling_factor") or 1.0)).float()


def _per_channel(values: Any, channels: int) -> Tensor:
    """(channels, 1, 1) float64 from one number, one per channel, or (Cosmos) per channel and frame."""
    values = torch.as_tensor(values, dtype=torch.float64).detach().cpu().flatten()
    values = values.expand(channels) if len(values) == 1 else values.unflatten(0, (channels, -1))[:, 0]
    return values.reshape(channels, 1, 1)


def _moments(output: Any) -> Moments:
    """What the classes return: a distribution, a latent under one of two names, or a tuple."""
    if not isinstance(output, Mapping):
        return Moments(output[0], None)
    if "latent_dist" not in output:
        return Moments(output["latent" if "latent" in output else "latents"], None)
    from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution

    posterior = output["latent_dist"]
    gaussian = isinstance(posterior, DiagonalGaussianDistribution) and not posterior.deterministic
    return Moments(posterior.mode(), posterior.logvar if gaussian else None)


def _decode_settings(model: nn.Module, class_name: str, z: Tensor) -> dict[str, Any]:
    """What `decode` of some classes wants beside the latent (B, c, h, w)."""
    if class_name == "AutoencoderKLTemporalDecoder":
        return {"num_frames": 1}
    if class_name == "ConsistencyDecoderVAE":  # it samples: the same noise for every image of every batch
        return {"generator": [torch.Generator().manual_seed(0) for _ in z]}
    config: Mapping[str, Any] = model.config  # pyright: ignore
    if config.get("timestep_conditioning"):  # LTX from 0.9.1; time 0 adds no noise
        return {"temb": torch.zeros(len(z), device=z.device, dtype=z.dtype)}
    return {}


def _first_kernel(model: nn.Module, class_name: str) -> Tensor:
    """The weight of the first convolution, 4-D for images and 5-D for video."""
    for module in model.modules():
        if isinstance(module, (nn.Conv2d, nn.Conv3d)):
            return module.weight
        if isinstance(module, nn.Conv1d):
            break
    raise ValueError(f"{class_name} has no convolution of images; only autoencoders of pictures are adapted")
