"""What a call of a pipeline will make, settled and checked before anything expensive; a Request an image."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from flowlab.flow.schedules import check_shift
from flowlab.generate.inpaint import open_mask, remaining_times
from flowlab.generate.prompts import Prompt, as_prompt, check_addresses
from flowlab.generate.references import SIZES, Given, Source, open_image, prepare, prepare_all
from flowlab.generate.variants import (
    VARIANTS,
    check_size,
    settle_guidance,
    settle_steps,
    times_of,
    within_aspect,
)

__all__ = ["Plan", "Prompts", "Request", "plan"]

Prompts = str | Mapping[str, Any] | Prompt | Sequence[str | Mapping[str, Any] | Prompt]


@dataclass(frozen=True, kw_only=True)
class Request:
    """One image."""

    prompt: str
    """As the user wrote it."""
    rewritten: str | None = None
    """As a language model rewrote it; it is then what the model reads."""
    negative: str | None = None
    """None = the empty prompt where guidance needs one."""
    seed: int
    """Of the noise."""
    index: int
    """Of the image among those of its prompt; the noise is keyed by both."""
    references: tuple[Given, ...] = ()
    """In the order in which the prompt counts them."""

    @property
    def text(self) -> str:
        """What the model reads."""
        return self.prompt if self.rewritten is None else self.rewritten


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What all images of a call share, and the requests."""

    requests: tuple[Request, ...]
    """In the order in which the images come back."""
    variant: str
    """A key of VARIANTS."""
    width: int
    """Pixels."""
    height: int
    """Pixels."""
    num_steps: int
    """Of the whole grid; `times` may be its end only."""
    guidance: float
    """Scale."""
    schedule: str
    """As `times_of` reads it."""
    times: Tensor
    """(steps taken + 1,) float64."""
    strength: float = 1.0
    """How much of the way from noise is gone."""
    image: Given | None = None
    """What is changed, filled or followed."""
    mask: Given | None = None
    """Grey, white is repainted."""
    keep_outside: bool = True
    """Whether pixels outside the mask are those of the image."""
    reference_cap: int | None = None
    """Pixels of a reference, where the user said."""


def plan(
    prompts: Prompts,
    *,
    variant: str,
    stride: int,
    negative: str | None = None,
    width: int | None = None,
    height: int | None = None,
    num_steps: int | None = None,
    guidance: float | None = None,
    shift: float | None = None,
    seed: int = 0,
    num_images: int = 1,
    references: Sequence[Source] = (),
    reference_cap: int | None = None,
    image: Source | None = None,
    strength: float = 1.0,
    mask: Source | None = None,
    keep_outside: bool = True,
) -> Plan:
    """Everything a call says, checked; the parameters are those of Pipeline.__call__."""
    if num_images < 1:
        raise ValueError(f"num_images is {num_images}; ask for 1 or more")
    many = [prompts] if isinstance(prompts, (str, Mapping, Prompt)) else list(prompts)
    if not many:
        raise ValueError("there is no prompt; give one or more")
    wanted = [as_prompt(one) for one in many]
    wanted = [
        one if one.references is not None else replace(one, references=tuple(references)) for one in wanted
    ]
    wanted = [one if one.negative is not None else replace(one, negative=negative) for one in wanted]
    requests = _requests(wanted, seed, num_images, variant, stride, reference_cap)
    canvas, drawn_mask = _canvas(image, mask, variant, stride)
    size = _size(wanted, requests, canvas, variant, stride, width, height)
    scale = settle_guidance(variant, guidance, any(one.negative is not None for one in wanted))
    if scale == 1 and any(one.negative is not None for one in wanted):
        raise ValueError("a negative prompt does nothing at guidance 1; leave it out or raise the guidance")
    steps = settle_steps(variant, num_steps)
    if shift is not None:
        check_shift(shift, "shift")
    schedule = VARIANTS[variant].schedule if shift is None else f"shift:{float(shift)!r}"
    times = times_of(schedule, (size[0] // stride) * (size[1] // stride), steps)
    return Plan(
        requests=requests,
        variant=variant,
        width=size[0],
        height=size[1],
        num_steps=steps,
        guidance=scale,
        schedule=schedule,
        times=_times(times, strength, canvas, drawn_mask, variant),
        strength=strength,
        image=canvas,
        mask=drawn_mask,
        keep_outside=keep_outside,
        reference_cap=reference_cap,
    )


# ---- the parts of a plan -----------------------------------------------------------------------------------


def _requests(
    wanted: Sequence[Prompt], seed: int, num_images: int, variant: str, stride: int, cap: int | None
) -> tuple[Request, ...]:
    """Each prompt `num_images` times; references that several share are opened once."""
    rule = VARIANTS[variant]
    if cap is not None and rule.reference_sizes == "kontext":
        raise ValueError(f"reference_cap is {cap}; {variant} has sizes of its own, leave it out")
    opened: dict[Any, tuple[Given, ...]] = {}
    requests = []
    for one in wanted:
        sources = one.references or ()
        key = tuple(source if isinstance(source, (str, Path)) else id(source) for source in sources)
        if key not in opened:
            opened[key] = prepare_all(
                sources,
                stride=stride,
                sizes=rule.reference_sizes,
                cap=rule.reference_cap if cap is None else cap,
                min_side=rule.min_side,
                limit=rule.max_references,
            )
        check_addresses(one.prompt, len(sources))
        first = Request(
            prompt=one.prompt,
            negative=one.negative,
            seed=_checked_seed(seed if one.seed is None else one.seed),
            index=0,
            references=opened[key],
        )
        requests += [replace(first, index=index) for index in range(num_images)]
    return tuple(requests)


def _checked_seed(seed: int) -> int:
    if not -(1 << 63) <= seed < 1 << 63:
        raise ValueError(f"the seed is {seed}; give a whole number of 64 bits, such as {seed % (1 << 32)}")
    return seed


def _canvas(
    image: Source | None, mask: Source | None, variant: str, stride: int
) -> tuple[Given | None, Given | None]:
    """The image to start from and its mask, as the variant needs them."""
    rule = VARIANTS[variant]
    if image is None:
        if mask is not None:
            raise ValueError("a mask was given without an image; give the image that it belongs to")
        if rule.image != "start":
            what = {"fill": "an image and a mask", "control": "an edge or depth map as image"}[rule.image]
            raise ValueError(f"{variant} needs {what}; give it")
        return None, None
    if rule.image == "fill" and mask is None:
        raise ValueError(f"{variant} needs a mask beside the image; give it, white where to paint")
    if rule.image == "control" and mask is not None:
        raise ValueError(f"{variant} follows its whole image; leave the mask out")
    cap = rule.max_pixels
    given = prepare(image, "the image", resize=SIZES["flux2"], stride=stride, cap=cap, min_side=rule.min_side)
    if mask is None:
        return given, None
    return given, open_mask(mask, open_image(image, "the image").image.size, stride, cap)


def _size(
    wanted: Sequence[Prompt],
    requests: Sequence[Request],
    canvas: Given | None,
    variant: str,
    stride: int,
    width: int | None,
    height: int | None,
) -> tuple[int, int]:
    """(width, height) of all images: as asked, else of the image, of the first reference, of the variant."""
    rule = VARIANTS[variant]
    default = (rule.width, rule.height)
    shown = {request.references[0].image.size for request in requests if request.references}
    if canvas is not None:
        default = canvas.image.size
    elif len(shown) == 1:
        default = within_aspect(*shown.pop())
    elif shown and (width is None or height is None):
        raise ValueError("the first references differ in size; give width and height, or make one call each")
    asked = (default[0] if width is None else width, default[1] if height is None else height)
    sizes = {
        (asked[0] if one.width is None else one.width, asked[1] if one.height is None else one.height)
        for one in wanted
    }
    if len(sizes) > 1:
        raise ValueError(
            f"prompts ask for the sizes {sorted(sizes)}; one call makes one size, make one call each"
        )
    size = sizes.pop()
    if canvas is not None and size != default:
        raise ValueError(
            f"the image asked for is {size[0]} x {size[1]}, the one given {default[0]} x {default[1]}; leave"
            " width and height out, or resize the image first"
        )
    check_size(variant, *size, stride)
    return size


def _times(times: Tensor, strength: float, canvas: Given | None, mask: Given | None, variant: str) -> Tensor:
    if strength != 1 and (canvas is None or VARIANTS[variant].image != "start"):
        reason = "there is no image to keep" if canvas is None else f"{variant} starts from noise alone"
        raise ValueError(f"strength is {strength}, but {reason}; leave it at 1")
    if strength == 1 and canvas is not None and mask is None and VARIANTS[variant].image == "start":
        warnings.warn(
            "at strength 1 nothing but the size of the image is used; give a strength below 1, or a mask",
            stacklevel=3,
        )
    return remaining_times(times, strength)
