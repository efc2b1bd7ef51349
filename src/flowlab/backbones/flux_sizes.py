"""The named sizes of both FLUX families, and `build_flux`, which makes a fresh model of one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from flowlab.backbones.flux1 import Flux1, Flux1Spec
from flowlab.backbones.flux2 import Flux2, Flux2Spec
from flowlab.core.choices import lookup

__all__ = ["FLUX_SIZES", "build_flux", "flux_of"]


def _flux2(width: int, heads: int, double: int, single: int, text: int, **options: Any) -> Flux2Spec:
    return Flux2Spec(
        width=width,
        heads=heads,
        double_blocks=double,
        single_blocks=single,
        text_width=text,
        **{"guidance": False, **options},
    )


def _flux1(double: int, in_channels: int = 64, guidance: bool = True) -> Flux1Spec:
    return Flux1Spec(
        width=3072,
        heads=24,
        double_blocks=double,
        single_blocks=38,
        in_channels=in_channels,
        guidance=guidance,
    )


_SCENES = {"channels": 32, "axes": (8, 8, 8, 8)}

FLUX_SIZES: dict[str, Flux1Spec | Flux2Spec] = {
    #                        width  heads  double  single  text         parameters
    "flux2_dev": _flux2(6144, 48, 8, 48, 15360, guidance=True),  #  32,223,281,152
    "flux2_klein_9b": _flux2(4096, 32, 8, 24, 12288),  #             9,078,581,248
    "flux2_klein_4b": _flux2(3072, 24, 5, 20, 7680),  #              3,875,544,576
    "flux2_medium": _flux2(1024, 8, 4, 12, 1024),  #                     293,082,112
    "flux2_small": _flux2(512, 4, 2, 4, 512),  #                        32,507,904
    "flux2_scenes": _flux2(192, 6, 2, 4, 128, **_SCENES),  #             4,583,936
    "flux2_tiny": _flux2(64, 2, 1, 1, 128, channels=32, axes=(8, 8, 8, 8)),  # 262,336; for rehearsals
    #                  double  in
    "flux1_dev": _flux1(19),  #                         11,901,408,320; Kontext and Krea too
    "flux1_schnell": _flux1(19, guidance=False),  #     11,891,178,560
    "flux1_fill": _flux1(19, 384),  #                   11,902,391,360
    "flux1_canny": _flux1(19, 128),  #                  11,901,604,928; Depth too
    "flux1_lite": _flux1(8),  #                          8,163,264,064
}


def build_flux(name: str, **overrides: Any) -> Flux1 | Flux2:
    """A freshly initialised model of a named size; `overrides` are fields of its spec.

    An unknown name or field is a ValueError that lists the known ones.
    """
    spec = lookup(FLUX_SIZES, name, "FLUX size")
    for field in overrides:
        lookup(dict.fromkeys(spec.__dataclass_fields__), field, f"field of {name}")
    return flux_of(replace(spec, **overrides))


def flux_of(spec: Flux1Spec | Flux2Spec) -> Flux1 | Flux2:
    """A freshly initialised model of the spec's family."""
    return Flux1(spec) if isinstance(spec, Flux1Spec) else Flux2(spec)
