"""Each kind of FLUX is sampled as its makers do, and refuses what it is distilled to do without."""

from __future__ import annotations

import pytest
import torch
from PIL import Image

from flowlab.flow.schedules import flux1_grid, flux2_grid, sampling_grid
from flowlab.generate.plans import plan
from flowlab.generate.references import SIZES, prepare_all
from flowlab.generate.variants import (
    VARIANTS,
    check_size,
    settle_guidance,
    settle_steps,
    times_of,
    within_aspect,
)


def test_published_defaults() -> None:
    told = {name: (one.num_steps, one.guidance, one.kind) for name, one in VARIANTS.items()}
    assert told["flux2_dev"] == (50, 4.0, "embedded") and told["flux2_klein_base"] == (50, 4.0, "cfg")
    assert told["flux2_klein"] == told["flux2_klein_kv"] == (4, 1.0, "none")
    assert told["flux1_kontext"] == (30, 2.5, "embedded") and told["flux1_fill"] == (50, 30.0, "embedded")


@pytest.mark.parametrize("name", VARIANTS)
def test_every_row_is_whole(name: str) -> None:
    row = VARIANTS[name]
    assert row.kind in ("embedded", "cfg", "none") and row.reference_sizes in SIZES
    assert row.image in ("start", "fill", "control")
    stride = 8 if name == "flux2_scenes" else 16
    check_size(name, row.width, row.height, stride)
    assert len(times_of(row.schedule, 64, row.num_steps)) == row.num_steps + 1


def test_schedules_by_name() -> None:
    assert torch.equal(times_of("flux2", 1024, 4), flux2_grid(1024, 4))
    assert torch.equal(times_of("flux1_unshifted", 1024, 4), flux1_grid(1024, 4, shifted=False))
    assert torch.equal(times_of("shift:2.5", 64, 4), sampling_grid(4, 2.5))
    with pytest.raises(ValueError, match="unknown schedule .*flux2, flux1"):
        times_of("karras", 64, 4)


def test_what_is_locked_stays() -> None:
    assert settle_steps("flux2_klein", None) == settle_steps("flux2_klein", 4) == 4
    assert settle_guidance("flux2_klein", 1.0, False) == 1.0
    assert settle_steps("flux2_dev", 28) == 28
    with pytest.raises(ValueError, match="num_steps is 8; flux2_klein is distilled to 4"):
        settle_steps("flux2_klein", 8)
    with pytest.raises(ValueError, match=r"guidance is 4\.0; flux2_klein_kv knows no guidance"):
        settle_guidance("flux2_klein_kv", 4.0, False)
    with pytest.raises(ValueError, match="flux1_schnell knows no guidance"):
        settle_guidance("flux1_schnell", 3.5, False)


@pytest.mark.parametrize("name", ["flux2_dev", "flux2_klein", "flux1_dev", "flux1_schnell"])
def test_distilled_models_take_no_negative_prompt(name: str) -> None:
    with pytest.raises(ValueError, match=f"negative prompt needs .* {name} is distilled"):
        settle_guidance(name, None, True)
    assert settle_guidance("flux2_klein_base", None, True) == 4.0


def test_sizes_from_64_pixels_to_four_megapixels() -> None:
    for size in ((64, 64), (64, 512), (2048, 2048), (1360, 768), (4096, 1024)):
        check_size("flux2_dev", *size, 16)
    for size, part in (
        ((1360, 760), "sides are multiples of 16, nearest 1360 x 768"),
        ((48, 64), "sides of 64 pixels or more"),
        ((2064, 2048), "makes at most 4,194,304"),
        ((64, 528), "at most 8:1"),
        ((0, 64), "multiples of 16"),
    ):
        with pytest.raises(ValueError, match=part):
            check_size("flux2_dev", *size, 16)


def test_the_longest_reference_still_gives_a_size() -> None:
    (given,) = prepare_all([Image.new("RGB", (1000, 125))], stride=16)
    assert given.image.size == (992, 112), "cropped to beyond 8:1"
    assert within_aspect(*given.image.size) == (896, 112)
    assert within_aspect(112, 992) == (112, 896) and within_aspect(500, 300) == (500, 300)
    made = plan("image 1 in red", variant="flux2_dev", stride=16, references=[Image.new("RGB", (1000, 125))])
    assert (made.width, made.height) == (896, 112)
