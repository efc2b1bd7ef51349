"""What shapes do not tell of a FLUX model: its steps, its guidance, its schedule, the sizes that it makes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from flowlab.core.choices import lookup
from flowlab.flow.schedules import flux1_grid, flux2_grid, sampling_grid

__all__ = [
    "VARIANTS",
    "Variant",
    "check_size",
    "settle_guidance",
    "settle_steps",
    "times_of",
    "within_aspect",
]

MAX_ASPECT = 8
FOUR_MEGAPIXELS = 4 * 1024**2


@dataclass(frozen=True, kw_only=True)
class Variant:
    """How a model wants to be sampled."""

    num_steps: int
    """Updates unless the user says otherwise."""
    guidance: float
    """Scale unless the user says otherwise; 1 where there is none."""
    kind: str
    """"embedded": the scale is an input of the network; "cfg": classifier-free, two forwards a step, with a
    negative prompt; "none"."""
    locked: bool = False
    """Whether other steps or another scale are refused: the model is distilled to these."""
    schedule: str
    """A key of SCHEDULES, or "shift:ALPHA"."""
    width: int = 1360
    """Pixels, where neither the user nor a reference says."""
    height: int = 768
    """As `width`."""
    min_side: int = 64
    """Pixels; of images made, given, and referred to."""
    max_pixels: int = FOUR_MEGAPIXELS
    """Of an image made."""
    max_references: int = 10
    """0 = the model does not know references."""
    reference_sizes: str = "flux2"
    """A key of references.SIZES."""
    reference_cap: int | None = None
    """Pixels of a reference; None = as the published code caps them."""
    image: str = "start"
    """What a given image is: "start" of sampling, "fill" (its masked latent and mask are inputs), "control"
    (an edge or depth map whose latent is an input)."""
    text_length: int = 512
    """Tokens of a prompt; T5 (FLUX.1) is told, the encoders of FLUX.2 have it fixed."""
    loading: Mapping[str, Any] = field(default_factory=dict)
    """What `backbones.load` must be told."""


KLEIN = {"num_steps": 4, "guidance": 1.0, "kind": "none", "locked": True, "schedule": "flux2"}
KONTEXT = {"max_references": 1, "reference_sizes": "kontext", "width": 1024, "height": 1024}
FLUX1 = {"schedule": "flux1", "max_references": 0}

# Steps and scales of the published code (facts of each repository's own command line); of flux2_scenes by
# measurement: at 3 more edits are right, at 4.5 more shapes (docs/log.md).
# name                                steps       scale         guidance          what differs
VARIANTS: dict[str, Variant] = {
    "flux2_scenes":     Variant(num_steps=30, guidance=4.0,  kind="cfg",      schedule="shift:3.0",
                                width=64, height=64, min_side=32, max_pixels=128**2, reference_cap=64**2),
    "flux2_dev":        Variant(num_steps=50, guidance=4.0,  kind="embedded", schedule="flux2"),
    "flux2_klein":      Variant(**KLEIN),
    "flux2_klein_kv":   Variant(**KLEIN, loading={"variant": "kv"}),
    "flux2_klein_base": Variant(num_steps=50, guidance=4.0,  kind="cfg",      schedule="flux2"),
    "flux1_dev":        Variant(num_steps=50, guidance=2.5,  kind="embedded", **FLUX1),
    "flux1_krea":       Variant(num_steps=50, guidance=2.5,  kind="embedded", **FLUX1),
    "flux1_schnell":    Variant(num_steps=4,  guidance=1.0,  kind="none",
                                schedule="flux1_unshifted", max_references=0, text_length=256),
    "flux1_kontext":    Variant(num_steps=30, guidance=2.5,  kind="embedded", schedule="flux1", **KONTEXT),
    "flux1_fill":       Variant(num_steps=50, guidance=30.0, kind="embedded", **FLUX1, image="fill",
                                text_length=128),
    "flux1_canny":      Variant(num_steps=50, guidance=30.0, kind="embedded", **FLUX1, image="control"),
    "flux1_depth":      Variant(num_steps=50, guidance=10.0, kind="embedded", **FLUX1, image="control"),
    "flux1_lite":       Variant(num_steps=28, guidance=3.5,  kind="embedded", **FLUX1),
}  # fmt: skip

SCHEDULES = {
    "flux2": flux2_grid,
    "flux1": flux1_grid,
    "flux1_unshifted": lambda num_tokens, num_steps: flux1_grid(num_tokens, num_steps, shifted=False),
}


def times_of(schedule: str, num_tokens: int, num_steps: int) -> Tensor:
    """The grid (num_steps + 1,) float64 of a schedule's name; `num_tokens` are the target's alone."""
    if schedule.startswith("shift:"):
        return sampling_grid(num_steps, float(schedule.removeprefix("shift:")))
    return lookup(SCHEDULES, schedule, "schedule (or shift:ALPHA)")(num_tokens, num_steps)


def settle_steps(name: str, num_steps: int | None) -> int:
    """The steps to take; a locked number that is changed is a ValueError."""
    variant = VARIANTS[name]
    if num_steps is None:
        return variant.num_steps
    if variant.locked and num_steps != variant.num_steps:
        raise ValueError(
            f"num_steps is {num_steps}; {name} is distilled to {variant.num_steps}, leave num_steps out"
        )
    if num_steps < 1:
        raise ValueError(f"num_steps is {num_steps}; ask for 1 or more")
    return num_steps


def settle_guidance(name: str, guidance: float | None, negative: bool) -> float:
    """The scale to use; a scale or a negative prompt that the model cannot follow is a ValueError."""
    variant = VARIANTS[name]
    if negative and variant.kind != "cfg":
        raise ValueError(
            f"a negative prompt needs classifier-free guidance, which {name} is distilled to do without;"
            " leave it out"
        )
    if guidance is None:
        return variant.guidance
    if variant.kind == "none" and guidance != 1:
        raise ValueError(f"guidance is {guidance}; {name} knows no guidance, leave it out")
    if not 0 <= guidance < float("inf"):
        raise ValueError(f"guidance is {guidance}; give a number from 0, such as {variant.guidance}")
    return float(guidance)


def within_aspect(width: int, height: int) -> tuple[int, int]:
    """The longer side cut to 8 times the shorter: 1000 x 125 pixels became a reference of 992 x 112."""
    return min(width, MAX_ASPECT * height), min(height, MAX_ASPECT * width)


def check_size(name: str, width: int, height: int, stride: int) -> None:
    """Sides in steps of `stride`, area and aspect within the variant's limits; else a ValueError."""
    variant, asked = VARIANTS[name], f"the image asked for is {width} x {height}"
    if width % stride or height % stride or min(width, height) < 1:
        near = " x ".join(str(max(round(side / stride), 1) * stride) for side in (width, height))
        raise ValueError(f"{asked}; sides are multiples of {stride}, nearest {near}")
    if min(width, height) < variant.min_side:
        raise ValueError(f"{asked}; {name} makes sides of {variant.min_side} pixels or more")
    if width * height > variant.max_pixels:
        raise ValueError(f"{asked}, {width * height:,} pixels; {name} makes at most {variant.max_pixels:,}")
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise ValueError(f"{asked}; an aspect of at most {MAX_ASPECT}:1 works, make the short side longer")
