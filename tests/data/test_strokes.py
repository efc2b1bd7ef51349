"""Drawing digits: colours, crispness, pose, resolution."""

from __future__ import annotations

import colorsys

import torch
from hypothesis import given
from hypothesis import strategies as st

from flowlab.core.seeds import Streams
from flowlab.data.strokes import DigitStyle, _rgb, draw_looks, ink_fields, render

PLAIN = {"angle": 0.0, "scale": 1.0, "shear": 0.0}


def looks(**changes: float) -> dict[str, torch.Tensor]:
    """One pose, white on black unless told."""
    pose = {name: torch.tensor([changes.get(name, value)]) for name, value in PLAIN.items()}
    shift = torch.tensor([[changes.get("right", 0.0), changes.get("down", 0.0)]])
    colours = {"ink": torch.full((1, 3), 255).byte(), "ground": torch.zeros(1, 3).byte()}
    return {**pose, "shift": shift, **colours}


def drawn(source: int = 0, resolution: int = 32, **changes: float) -> torch.Tensor:
    """(resolution, resolution) coverage in 0..255."""
    fields, _ = ink_fields()
    image = render(fields, torch.tensor([source]), looks(**changes), resolution, 1.3)
    return image[0, 0].float()


def centre(image: torch.Tensor) -> torch.Tensor:
    """(right, down) of the ink's centre of mass, pixels."""
    down, right = torch.meshgrid(*(torch.arange(side) for side in image.shape), indexing="ij")
    return torch.stack([(image * right).sum(), (image * down).sum()]) / image.sum()


unit = st.floats(0, 1)


@given(unit, unit, unit)
def test_rgb_equals_colorsys(hue, saturation, value):
    ours = _rgb(*(torch.tensor([x], dtype=torch.float64) for x in (hue, saturation, value)))[0]
    reference = torch.tensor(colorsys.hsv_to_rgb(hue, saturation, value)) * 255
    assert (ours - reference).abs().max() <= 0.5 + 1e-4


def test_shift_moves_the_ink_right_and_down():
    moved = centre(drawn(right=2.0, down=-1.5)) - centre(drawn())
    assert torch.allclose(moved, torch.tensor([2.0, -1.5]), atol=0.1)


def test_angle_turns_anticlockwise():
    image, turned = drawn(source=1, scale=0.7), drawn(source=1, scale=0.7, angle=90.0)  # a one
    assert torch.allclose(turned, torch.rot90(image), atol=2.0)


def test_scale_scales_the_area():
    ratio = drawn(scale=0.8).sum() / drawn(scale=1.0).sum()
    assert abs(ratio - 0.64) < 0.04


def test_shear_leans_the_top_to_the_right_and_keeps_area():
    upright, leaning = drawn(source=1), drawn(source=1, shear=0.15)
    top, bottom = (
        centre(leaning[rows])[0] - centre(upright[rows])[0] for rows in (slice(4, 10), slice(22, 28))
    )
    assert top > 0.7 and bottom < -0.7 and abs(leaning.sum() / upright.sum() - 1) < 0.03


def test_edges_are_one_to_two_pixels_wide_at_any_resolution():
    for resolution in (32, 64):
        image = torch.stack([drawn(source, resolution) for source in range(40)])
        partial = ((image > 0) & (image < 255)).float().sum((1, 2))
        solid = image > 127
        across = solid[:, :, 1:] != solid[:, :, :-1]
        along = solid[:, 1:] != solid[:, :-1]
        outline = (
            across.sum((1, 2)) + along.sum((1, 2))
        ) * 0.785  # length: pi/4 of the staircase, on average
        assert 1.0 < (partial / outline).median() < 2.0


def test_resolution_changes_detail_not_picture():
    small, large = drawn(5), drawn(5, 64)
    halved = torch.nn.functional.avg_pool2d(large[None, None], 2)[0, 0]
    assert (small - halved).abs().mean() < 6


def test_looks_stay_within_the_style():
    style = DigitStyle()
    found = draw_looks(Streams.for_samples(0, torch.arange(3000), purpose="test"), style)
    assert 0.95 * style.max_angle < found["angle"].abs().max() <= style.max_angle
    assert found["scale"].min() >= style.scale[0] and found["scale"].max() <= style.scale[1]
    assert found["shift"].abs().max() <= style.max_shift and found["shear"].abs().max() <= style.max_shear
    ink, ground = found["ink"].amax(1).float() / 255, found["ground"].amax(1).float() / 255
    assert ink.min() >= 0.84 and ground.max() <= 0.26
    assert (found["ink"].argmax(1).bincount(minlength=3) > 800).all()  # every hue
