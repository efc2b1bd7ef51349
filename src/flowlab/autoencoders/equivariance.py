"""What equivariance regularisers do to a latent and, in the same way, to the image that it should decode to.

EQ-VAE (Kouzelis et al. 2025, arXiv 2502.09509) scales and turns the latent; scale equivariance (Skorokhodov
et al. 2025, arXiv 2502.14831) halves or quarters it. A draw is one for the whole batch, because sizes differ.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from flowlab.core.seeds import Streams

__all__ = ["IDENTITY", "Plan", "Transform", "admissible_sides", "draw_plan", "draw_reduction"]


@dataclass(frozen=True, kw_only=True)
class Transform:
    """Scale both sides by side / whole, then turn; the same for a latent and for its image."""

    side: int = 1
    """What `whole` becomes."""
    whole: int = 1
    """The latent's side before."""
    turns: int = 0
    """Quarter turns, anticlockwise."""

    def __call__(self, x: Tensor) -> Tensor:
        """(B, c, H, W) => (B, c, H side / whole, W side / whole), bilinear without antialias as published."""
        if self.side != self.whole:
            height, width = (length * self.side // self.whole for length in x.shape[2:])
            x = F.interpolate(x, size=(height, width), mode="bilinear", align_corners=False)
        return torch.rot90(x, self.turns, (2, 3)) if self.turns else x


IDENTITY = Transform()


@dataclass(frozen=True, kw_only=True)
class Plan:
    """One step's images and latents; every network of the step shares it."""

    before: Transform = IDENTITY
    """Of the pixels that are encoded."""
    between: Transform = IDENTITY
    """Of the latent, and of the encoded pixels as the target of its decoding."""


def admissible_sides(whole: int, multiple: int) -> list[int]:
    """Sides below `whole`, from a quarter of it (EQ-VAE: 8 to 31 of 32), that are multiples of `multiple`."""
    sides = [side for side in range(multiple, whole, multiple) if 4 * side >= whole]
    if not sides:
        raise ValueError(
            f"a latent of side {whole} has no smaller side in steps of {multiple}; take a larger"
        )
    return sides


def draw_plan(
    stream: Streams, sides: Sequence[int], whole: int, probability: float, downscale_probability: float
) -> Plan:
    """EQ-VAE's mixture, from one stream: with `probability` the latent is scaled and turned by 90, 180 or 270
    degrees; of the other steps a share `downscale_probability` is a plain one on smaller images."""
    first, second = stream.uniform(2)[0].tolist()
    side, turns = sides[int(stream.integers(len(sides)))], 1 + int(stream.integers(3))
    if first < probability:
        return Plan(between=Transform(side=side, whole=whole, turns=turns))
    if second < downscale_probability:
        return Plan(before=Transform(side=side, whole=whole))
    return Plan()


def draw_reduction(stream: Streams, sides: Sequence[int], whole: int) -> Transform:
    """Half or quarter of the sides, whichever of them are admissible."""
    known = [whole // factor for factor in (2, 4) if whole % factor == 0 and whole // factor in sides]
    if not known:
        raise ValueError(
            f"a latent of side {whole} can be neither halved nor quartered; turn scale_weight off"
        )
    return Transform(side=known[int(stream.integers(len(known)))], whole=whole)
