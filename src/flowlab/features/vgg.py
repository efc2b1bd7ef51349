"""VGG16 as a perceptual ruler: LPIPS with its trained heads, and the unweighted PSIM, from one pass.

The two are named apart everywhere, because they differ about sevenfold on the same images:
`lpips_vgg` (Zhang et al. 2018, arXiv 1801.03924, eq. 1) weighs channels by trained heads, `psim_vgg16` does
not, and is the scale on which autoencoders were published at 0.27 to 1.67. Simonyan and Zisserman 2014
(arXiv 1409.1556), configuration D, is the trunk. No weights ship: both files come from the user's disk.
"""

from __future__ import annotations

import hashlib
import pickle
import warnings
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flowlab.core.weights import load_strict, read_weights, tensors_id

__all__ = ["VGG16", "load", "random"]

STAGES = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))  # width and convolutions; a tap after each stage
PIXEL_SHIFT, PIXEL_SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)  # LPIPS' ScalingLayer, on [-1, 1]
SMALLEST = 2 ** (len(STAGES) - 1)  # pixels per side that four halvings need

TRUNK_SHA256 = "397923af8e79cdbb6a7127f12361acd7a2f83e06b05044ddf496e83de57a5bf0"  # vgg16-397923af.pth
HEADS_SHA256 = "a78928a0af1e5f0fcb1f3b9e8f8c3a2a5a3de244d830ad5c1feddc79b8432868"  # lpips v0.1 vgg.pth
CLASSIFIER = ("classifier.", "pre_logits.", "head.")  # what published trunks hold beside the convolutions


class VGG16(nn.Module):
    """Thirteen convolutions with a tap after each of the five stages, and perhaps LPIPS' heads.

    `width` scales every stage (64 is VGG16 itself; tests use less). `published`: whether the weights are the
    published ones, by their hashes; a result row says so through `name`.
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, *, width: int = 64, heads: bool = True, published: bool = False):
        super().__init__()
        self.published = published
        widths = [width * channels // 64 for channels, num in STAGES for _ in range(num)]
        self.convs = nn.ModuleList(
            nn.Conv2d(before, after, 3, padding=1) for before, after in pairwise([3, *widths])
        )
        taps = [width * channels // 64 for channels, _ in STAGES]
        self.heads = nn.ModuleList(nn.Conv2d(channels, 1, 1, bias=False) for channels in taps if heads)
        self.register_buffer("shift", torch.tensor(PIXEL_SHIFT).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("scale", torch.tensor(PIXEL_SCALE).view(1, 3, 1, 1), persistent=False)

    def layers(self, pixels: Tensor) -> list[Tensor]:
        """(B, 3, H, W) in [-1, 1] => relu1_2, 2_2, 3_3, 4_3, 5_3: maps (B, c, h, w) of H to H / 16 rows."""
        if pixels.ndim != 4 or pixels.shape[1] != 3 or min(pixels.shape[2:]) < SMALLEST:
            raise ValueError(
                f"VGG16 was given pixels {tuple(pixels.shape)}; "
                f"it takes (batch, 3, height, width) of {SMALLEST} pixels and more"
            )
        h, maps, convs = (pixels - self.shift) / self.scale, [], iter(self.convs)
        for stage, (_, num) in enumerate(STAGES):
            h = F.max_pool2d(h, 2) if stage else h
            for _ in range(num):
                h = F.relu(next(convs)(h), inplace=True)
            maps.append(h)
        return maps

    def distances(self, a: Tensor, b: Tensor) -> dict[str, Tensor]:
        """Images (B, 3, H, W) in [-1, 1], as they are (no rounding) => one (B,) float32 for each distance.

        `psim_vgg16`: sum over layers of 1 - mean cosine similarity, 0 to 5. `lpips_vgg`, where heads are
        loaded. Each side passes the trunk once. Differentiable.
        """
        psim, lpips = a.new_zeros(len(a)), a.new_zeros(len(a))
        for layer, (x, y) in enumerate(self._pairs(a, b)):
            psim = psim + _one_minus_cosine(x, y)
            if self.heads:
                lpips = lpips + self._weighted(layer, x, y)
        return {"psim_vgg16": psim} | ({"lpips_vgg": lpips} if self.heads else {})

    def lpips(self, a: Tensor, b: Tensor) -> Tensor:
        """LPIPS of images (B, 3, H, W) in [-1, 1] => (B,); the loss. Without heads it is a ValueError."""
        if not self.heads:
            raise ValueError(
                "this VGG16 has no LPIPS heads; load it with `heads`, the path of lpips' vgg.pth"
            )
        parts = [self._weighted(layer, x, y) for layer, (x, y) in enumerate(self._pairs(a, b))]
        return torch.stack(parts).sum(dim=0)

    @property
    def name(self) -> str:
        """What a result row calls the weights: the published file, or the identity of others."""
        return "vgg16-397923af" if self.published else f"vgg16 {tensors_id(self.state_dict())}"

    def _pairs(self, a: Tensor, b: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Both sides' maps, channels at unit length."""
        if a.shape != b.shape:
            raise ValueError(f"images {tuple(a.shape)} against {tuple(b.shape)}; give two equal shapes")
        return [(_unit(x), _unit(y)) for x, y in zip(self.layers(a), self.layers(b), strict=True)]

    def _weighted(self, layer: int, x: Tensor, y: Tensor) -> Tensor:
        return self.heads[layer]((x - y).square()).mean(dim=(1, 2, 3))  # (B,)


def load(trunk: Path | str, heads: Path | str | None = None, *, check_hash: bool = True) -> VGG16:
    """A frozen VGG16 from local files, in evaluation mode on the CPU.

    `trunk`: torchvision's vgg16-397923af.pth, or a .safetensors file with its names (`features.N.weight`).
    `heads`: `weights/v0.1/vgg.pth` of the package lpips; None leaves `lpips_vgg` out. The bytes must be the
    published ones; `check_hash=False` takes others and warns, and `VGG16.name` then says which.
    """
    trunk, heads = Path(trunk), Path(heads) if heads is not None else None
    published = _is_published(trunk, TRUNK_SHA256, "torchvision's vgg16-397923af.pth", check_hash)
    if heads is not None:
        published &= _is_published(heads, HEADS_SHA256, "lpips' v0.1 vgg.pth", check_hash)
    tensors = {
        TRUNK_NAMES.get(name, name): tensor
        for name, tensor in _read(trunk).items()
        if not name.startswith(CLASSIFIER)
    }
    _only_known(tensors, TRUNK_NAMES, trunk, "a VGG16 trunk (no `features.0.weight` to `features.28.bias`)")
    if heads is not None:
        found = {HEAD_NAMES.get(name, name): tensor for name, tensor in _read(heads).items()}
        _only_known(
            found, HEAD_NAMES, heads, "LPIPS heads (no `lin0.model.1.weight` to `lin4.model.1.weight`)"
        )
        tensors |= found
    where = f"{trunk} with {heads}" if heads else str(trunk)
    model = _unfilled(64, heads is not None, published)
    load_strict(model, {name: tensor.float() for name, tensor in tensors.items()}, where=where)
    return model.eval().requires_grad_(False)


def random(seed: int = 0, *, width: int = 64, heads: bool = True) -> VGG16:
    """An untrained VGG16 that depends on the seed alone: for tests, and for runs without the files.

    Convolutions are He-normal, so that signals keep their size; heads are uniform on [0, 0.2], about the
    published heads' range.
    """
    model, generator = _unfilled(width, heads, False), torch.Generator().manual_seed(seed)
    for conv in model.convs:
        assert isinstance(conv, nn.Conv2d) and conv.bias is not None
        nn.init.kaiming_normal_(conv.weight, nonlinearity="relu", generator=generator)
        nn.init.zeros_(conv.bias)
    for head in model.heads:
        assert isinstance(head, nn.Conv2d)
        nn.init.uniform_(head.weight, 0.0, 0.2, generator=generator)
    return model.eval().requires_grad_(False)


# ---- files -------------------------------------------------------------------------------------------------

_CONV_PLACES = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)  # in torchvision's list of layers
TRUNK_NAMES = {
    f"features.{place}.{kind}": f"convs.{i}.{kind}"
    for i, place in enumerate(_CONV_PLACES)
    for kind in ("weight", "bias")
}
HEAD_NAMES = {f"lin{i}.model.1.weight": f"heads.{i}.weight" for i in range(len(STAGES))}


def _is_published(path: Path, sha256: str, what: str, check_hash: bool) -> bool:
    """Whether the file's bytes are the published ones; others are an error, or a warning on request."""
    if not path.is_file():
        raise ValueError(f"no weights at {path}; give the path of {what}")
    with open(path, "rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found == sha256:
        return True
    complaint = f"{path} is not {what}: its sha256 begins {found[:8]}, not {sha256[:8]}"
    if check_hash:
        raise ValueError(f"{complaint}; fetch it again, or pass check_hash=False to use it all the same")
    warnings.warn(f"{complaint}; its distances compare with nothing published", stacklevel=3)
    return False


def _read(path: Path) -> dict[str, Tensor]:
    """Tensors of a .safetensors file or of a .pth file, which is read without running any code in it."""
    if path.suffix == ".safetensors":
        return read_weights(path)[0]
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, OSError, ValueError, pickle.UnpicklingError) as problem:
        reason = str(problem).splitlines()[0] if str(problem) else type(problem).__name__
        raise ValueError(f"{path} is not a whole file of weights ({reason}); fetch it again") from problem
    if not isinstance(found, Mapping) or not all(isinstance(value, Tensor) for value in found.values()):
        raise ValueError(f"{path} holds no table of tensors; give a state dict")
    return dict(found)


def _only_known(tensors: dict[str, Tensor], names: dict[str, str], path: Path, what: str) -> None:
    """One line for a file of another network, before the strict load names single tensors."""
    if not set(names.values()) & tensors.keys():
        held = ", ".join(sorted(tensors)[:3]) or "nothing"
        raise ValueError(f"{path} is not {what}; it holds {held}")


def _unfilled(width: int, heads: bool, published: bool) -> VGG16:
    """The network before its weights; torch's global generator stays where it was."""
    with torch.random.fork_rng(devices=[]):
        return VGG16(width=width, heads=heads, published=published)


# ---- small maths -------------------------------------------------------------------------------------------


def _unit(features: Tensor) -> Tensor:
    """Map (B, c, h, w) with each position's channels at unit length; a position without signal stays zero.

    `vector_norm` has gradient 0 at 0, where the square root of a sum of squares has none.
    """
    return features / (torch.linalg.vector_norm(features, dim=1, keepdim=True) + 1e-10)


def _one_minus_cosine(x: Tensor, y: Tensor) -> Tensor:
    """1 - mean cosine similarity of unit maps (B, c, h, w) => (B,).

    Computed as |x - y|^2 / 2, which is exactly 0 for equal maps where 1 - cos is rounding error. Where one
    side alone has no signal the cosine is 0 and the missing half is added; where neither has, they agree.
    """
    one_is_dead = x.detach().any(dim=1) != y.detach().any(dim=1)  # (B, h, w)
    return (0.5 * (x - y).square().sum(dim=1) + 0.5 * one_is_dead).mean(dim=(1, 2))
