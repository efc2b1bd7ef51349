"""The contract of every autoencoder: pixels => moments => final latent => pixels."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from flowlab.core.seeds import Streams
from flowlab.core.weights import tensors_id

__all__ = ["Autoencoder", "LatentSpec", "Moments"]


class Moments(NamedTuple):
    """What an encoder emits before sampling; both (B, c, H / s, W / s), before patchify and normalisation."""

    mean: Tensor
    logvar: Tensor | None
    """None where the encoder is deterministic."""


@dataclass(frozen=True, kw_only=True)
class LatentSpec:
    """The shape of a final latent, and the family that it belongs to."""

    name: str
    family: str
    """A key of families.FAMILIES, such as "flux2"; "kl" of the small ones that ship, "rae", or "zoo"."""
    stride: int
    """Pixels per token side: the final latent of H x W pixels is (channels, H / stride, W / stride)."""
    channels: int
    """Per token, after patchify."""
    resolution: int
    """Pixels per side that it was trained at."""
    fixed_grid: bool = False
    """Whether only that size works (positions or a whitening per position)."""

    def __post_init__(self) -> None:
        """A resolution between two multiples of the stride would count fewer tokens than its images have."""
        if self.stride < 1 or self.resolution < 1:
            raise ValueError(
                f"{self.name}: stride {self.stride}, resolution {self.resolution}; give 1 or more"
            )
        if self.resolution % self.stride:
            near = " or ".join(sizes_near(self.resolution, self.resolution, self.stride))
            raise ValueError(
                f"resolution is {self.resolution}; {self.name} takes multiples of {self.stride},"
                f" nearest {near}"
            )

    @property
    def grid(self) -> int:
        """Tokens per side at the training resolution."""
        return self.resolution // self.stride

    @property
    def num_tokens(self) -> int:
        """Tokens per image at the training resolution."""
        return self.grid**2

    @property
    def bits_per_pixel(self) -> float:
        """Size of a bfloat16 latent over the number of pixels."""
        return 16 * self.channels / self.stride**2


class Autoencoder(nn.Module, ABC):
    """Pixels are float32 NCHW in [-1, 1]; a final latent is (B, channels, h, w) of about unit scale."""

    spec: LatentSpec

    @abstractmethod
    def encode(self, pixels: Tensor) -> Moments:
        """(B, 3, H, W) in [-1, 1] => moments; a size that would be cropped in silence is a ValueError."""

    @abstractmethod
    def to_latent(self, moments: Moments, generators: Streams | None = None) -> Tensor:
        """Moments => final latent, sampled where `generators` are given, at the mean otherwise."""

    @abstractmethod
    def decode(self, latent: Tensor) -> Tensor:
        """Final latent => (B, 3, H, W), about [-1, 1] and not clamped."""

    @abstractmethod
    def decode_raw(self, z: Tensor) -> Tensor:
        """A raw latent, shaped as the moments' mean => pixels; training works on it, before normalisation."""

    @abstractmethod
    def fit_normalisation(self, means: Tensor) -> None:
        """Set the normalisation's statistics from posterior means (n, c, h, w) of training images."""

    def latents(self, pixels: Tensor) -> Tensor:
        """Pixels => final latent at the posterior mean."""
        self.check(pixels)
        return self.to_latent(self.encode(pixels))

    def check(self, pixels: Tensor) -> None:
        """One clear line for the shapes that cannot work."""
        if pixels.ndim != 4 or pixels.shape[1] != 3:
            raise ValueError(
                f"pixels have shape {tuple(pixels.shape)}; expected (batch, 3, height, width): RGB, no alpha"
            )
        if not pixels.is_floating_point():
            raise ValueError(
                f"pixels are {pixels.dtype}; expected float in [-1, 1] (core.pixels.to_float converts)"
            )
        spec, (height, width) = self.spec, pixels.shape[2:]
        found = f"{height} x {width} pixels; {spec.name} takes"
        if spec.fixed_grid and (height, width) != (spec.resolution, spec.resolution):
            raise ValueError(f"{found} {spec.resolution} x {spec.resolution} only: crop or resize first")
        if height % spec.stride or width % spec.stride or not height or not width:
            near = " or ".join(sizes_near(height, width, spec.stride))
            raise ValueError(f"{found} multiples of {spec.stride}, nearest {near}: crop or resize first")

    def check_latent(self, latent: Tensor) -> None:
        """As `check`, for `decode`: one channel would silently be spread over all of the statistics'."""
        spec = self.spec
        sides = (spec.grid, spec.grid) if spec.fixed_grid else tuple(latent.shape[2:])
        if latent.ndim != 4 or tuple(latent.shape[1:]) != (spec.channels, *sides):
            takes = f"{spec.grid}, {spec.grid}" if spec.fixed_grid else "height, width"
            raise ValueError(
                f"the latent has shape {tuple(latent.shape)}; {spec.name} decodes (batch, {spec.channels},"
                f" {takes})"
            )

    @property
    def identity(self) -> str:
        """Twelve hex digits of the weights: names the encoder in caches and result rows."""
        return tensors_id(self.state_dict())


def sizes_near(height: int, width: int, stride: int) -> list[str]:
    """The size in multiples of `stride` that fits into height x width, if any does, and the one around it."""
    below = [side // stride * stride for side in (height, width)]
    above = [max(1, -(-side // stride)) * stride for side in (height, width)]
    return [f"{h} x {w}" for h, w in (below, above) if h and w]


def sample(moments: Moments, generators: Streams | None) -> Tensor:
    """mean + std * noise, or the mean without generators or variance."""
    if generators is None or moments.logvar is None:
        return moments.mean
    noise = generators.normal(*moments.mean.shape[1:]).to(moments.mean)
    return moments.mean + torch.exp(0.5 * moments.logvar) * noise
