"""The named sizes of each family, and `build`, which makes a fresh model of one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from flowlab.backbones.sit import SiT, SiTSpec
from flowlab.core.choices import lookup

__all__ = ["SIZES", "Size", "build"]


@dataclass(frozen=True)
class Size:
    """Of a transformer's trunk."""

    width: int
    depth: int
    heads: int
    mlp: str = "gelu"
    """A key of MLPS. The two CPU sizes take the exact GELU: the tanh form costs a quarter of a forward
    there."""


# Parameters with 4 latent channels, patch 2, a 32 x 32 latent, 1000 classes; position table included.
SIZES = {
    #            width  depth  heads     parameters
    "tiny": Size(96, 3, 4, "gelu_exact"),  # 678,448
    "mini": Size(192, 6, 6, "gelu_exact"),  # 4,406,800
    "S": Size(384, 12, 6),  #            32,957,200
    "B": Size(768, 12, 12),  #          130,500,112
    "L": Size(1024, 24, 16),  #         458,086,416
    "XL": Size(1152, 28, 16),  #        675,111,184
}


def build(size: str, *, channels: int, grid: int, num_classes: int, **options: Any) -> SiT:
    """A freshly initialised SiT of a named size for latents (B, channels, grid, grid).

    `options` are the other fields of SiTSpec. An unknown size or option is a ValueError that lists the known
    ones.
    """
    trunk = lookup(SIZES, size, "backbone size")
    known = {name: name for name in SiTSpec.__dataclass_fields__}
    for name in options:
        lookup(known, name, "backbone option")
    sizes = {"width": trunk.width, "depth": trunk.depth, "heads": trunk.heads, "mlp": trunk.mlp}
    return SiT(SiTSpec(channels=channels, grid=grid, num_classes=num_classes, **{**sizes, **options}))
