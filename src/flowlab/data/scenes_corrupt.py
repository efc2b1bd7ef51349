"""Pictures as a generator or a file spoils them, keyed per image: what a reader of scenes must survive."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from flowlab.core.seeds import Streams

__all__ = ["CORRUPTIONS", "corrupted", "mixed"]


def corrupted(images: Tensor, name: str, streams: Streams, strength: float = 1.0) -> Tensor:
    """uint8 (B, 3, H, W) under one of CORRUPTIONS at full strength, or a share of it."""
    strengths = torch.full((len(images),), strength)
    return _rounded(CORRUPTIONS[name](images.float(), strengths, streams))


def mixed(images: Tensor, streams: Streams) -> Tensor:
    """uint8 (B, 3, H, W) with each corruption absent in half of the images, else of uniform strength."""
    pixels = images.float()
    for change in CORRUPTIONS.values():
        draw = streams.uniform(1)[:, 0]
        pixels = change(pixels, (2 * draw - 1).clamp(min=0), streams)
    return _rounded(pixels)


def _rounded(pixels: Tensor) -> Tensor:
    return pixels.round().clamp(0, 255).to(torch.uint8)


# ---- (pixels float (B, 3, H, W) in 0..255, strengths (B,) in [0, 1], streams) -> pixels --------------------


def _warp(pixels: Tensor, strengths: Tensor, streams: Streams) -> Tensor:
    """Outlines wobble: a smooth field of shifts, up to about a pixel of 64."""
    side = pixels.shape[-1]
    shifts = streams.normal(2, 7, 7) * (strengths * 0.8 / 64)[:, None, None, None]  # half-widths x 2
    field = F.interpolate(shifts, size=(side, side), mode="bicubic", align_corners=True)
    base = F.affine_grid(torch.eye(2, 3).expand(len(pixels), 2, 3), list(pixels.shape), align_corners=False)
    return F.grid_sample(
        pixels, base + 2 * field.permute(0, 2, 3, 1), padding_mode="border", align_corners=False
    )


def _blur(pixels: Tensor, strengths: Tensor, streams: Streams) -> Tensor:
    """Gaussian, up to a standard deviation of 1.2 pixels of 64."""
    sigma = (strengths * 1.2 * pixels.shape[-1] / 64).clamp(min=1e-3)
    radius = math.ceil(3 * float(sigma.max()))
    kernels = torch.exp(-torch.arange(-radius, radius + 1).square() / (2 * sigma[:, None] ** 2))
    kernels = (kernels / kernels.sum(1, keepdim=True)).repeat_interleave(3, 0)  # (3B, taps)
    flat = F.pad(pixels.flatten(0, 1)[None], (radius,) * 4, mode="replicate")  # (1, 3B, H + 2r, W + 2r)
    rows = F.conv2d(flat, kernels[:, None, None, :], groups=len(kernels))
    return F.conv2d(rows, kernels[:, None, :, None], groups=len(kernels)).view_as(pixels)


def _blocks(pixels: Tensor, strengths: Tensor, streams: Streams) -> Tensor:
    """JPEG's loss: the cosine transform of 8 x 8 blocks, coarser the higher the frequency."""
    k = torch.arange(8.0)
    basis = torch.cos(math.pi / 8 * (k[None] + 0.5) * k[:, None]) * math.sqrt(2 / 8)
    basis[0] /= math.sqrt(2)
    b, c, height, width = pixels.shape
    blocks = pixels.view(b, c, height // 8, 8, width // 8, 8)
    spectrum = torch.einsum("bchyws,ky,ls->bchwkl", blocks, basis, basis)
    step = 1e-3 + strengths[:, None, None, None, None, None] * (6 + 5 * (k[:, None] + k[None]))
    spectrum = (spectrum / step).round() * step
    return torch.einsum("bchwkl,ky,ls->bchyws", spectrum, basis, basis).reshape(pixels.shape)


def _clouds(pixels: Tensor, strengths: Tensor, streams: Streams) -> Tensor:
    """Uneven colour: smooth noise, standard deviation up to 6 of 255."""
    noise = streams.normal(3, 8, 8) * (strengths * 6)[:, None, None, None]
    return pixels + F.interpolate(noise, size=pixels.shape[2:], mode="bilinear")


def _tiles(pixels: Tensor, strengths: Tensor, streams: Streams) -> Tensor:
    """Errors of a latent: one shift of colour for each tile of 8 x 8, standard deviation up to 10 of 255."""
    shifts = streams.normal(3, pixels.shape[2] // 8, pixels.shape[3] // 8)
    return pixels + F.interpolate(shifts * (strengths * 10)[:, None, None, None], scale_factor=8)


def _noise(pixels: Tensor, strengths: Tensor, streams: Streams) -> Tensor:
    """White noise, standard deviation up to 6 of 255."""
    return pixels + streams.normal(*pixels.shape[1:]) * (strengths * 6)[:, None, None, None]


CORRUPTIONS: dict[str, Callable[[Tensor, Tensor, Streams], Tensor]] = {
    "warp": _warp,
    "blur": _blur,
    "blocks": _blocks,
    "clouds": _clouds,
    "tiles": _tiles,
    "noise": _noise,
}
