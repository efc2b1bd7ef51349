"""Drawing scenes: areas and boxes against geometry, agreement over resolutions, exact colours and masks."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from flowlab.data.scenes import Scene, SceneObject, boxes, masks, render
from flowlab.data.scenes_objects import LIGHTS, SHAPES, TEXTURES, rgb_of
from flowlab.data.scenes_render import RESOLUTIONS, outlines
from flowlab.data.scenes_sample import draw_table

TABLE = draw_table(torch.arange(64), split="train")
GROUND = "#26272E"


def alone(shape: str = "star", **changes) -> Scene:
    settings = {"shape": shape, "colour": "#F5D90A", "x": 0.47, "y": 0.53, "size": 0.3, **changes}
    return Scene(objects=(SceneObject(**settings),), background=GROUND)


# ---- equals a reference ------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES)
def test_area_is_that_of_the_outline(shape):
    """Shoelace formula against the sum of coverage."""
    parts = [_area(loop) for loop in outlines()[shape]]
    exact = (parts[0] - sum(parts[1:])) * 0.3**2 * 256**2
    covered = masks([alone(shape, rotation=7.0)], 256)[0, 0].sum()
    assert float(covered) == pytest.approx(exact, rel=0.01)


def _area(loop: torch.Tensor) -> float:
    after = loop.roll(-1, 0)
    return abs(float((loop[:, 0] * after[:, 1] - loop[:, 1] * after[:, 0]).sum())) / 2


def test_a_disc_is_a_disc():
    scene = alone("circle", x=0.5, y=0.5)
    line = (torch.arange(256) + 0.5) / 256 - 0.5
    distance = (torch.hypot(line[:, None], line[None]) - 0.95 * 0.3) * 256
    assert (masks([scene], 256)[0, 0] - (0.5 - distance).clamp(0, 1)).abs().max() < 0.1  # a polygon


@pytest.mark.parametrize("shape", SHAPES)
def test_boxes_are_where_the_pixels_are(shape):
    scene = alone(shape, rotation=-9.0)
    covered = masks([scene], 256)[0, 0] > 0.5
    across, down = (torch.nonzero(covered.any(axis))[:, 0] for axis in (0, 1))
    found = torch.stack([across[0], down[0], across[-1] + 1, down[-1] + 1]) / 256
    assert (boxes([scene])[0, 0] - found).abs().max() < 2.5 / 256  # a thin tip covers no pixel by half
    assert (boxes([scene])[0, 1:] == 0).all()
    assert (found[2:] - found[:2]).max() <= 2 * 0.3 + 1 / 256, "size is half the side around it"


def test_heart_is_upright_and_arrow_points_right():
    heart, arrow = masks([alone("heart"), alone("arrow")], 64)[:, 0]
    assert heart[:34].sum() > heart[34:].sum() and arrow[:, 30:].sum() > arrow[:, :30].sum()
    turned = masks([alone("arrow", rotation=14.0)], 64)[0, 0]
    tip = torch.nonzero(turned[:, turned.any(0).nonzero()[-1, 0]] > 0)[:, 0].float().mean()
    assert tip > 0.53 * 64 + 2, "rotation is clockwise"


# ---- identities --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("resolution", [32, 64, 128])
def test_resolutions_agree(resolution):
    fine, coarse = render(TABLE, 256).float(), render(TABLE, resolution).float()
    difference = (F.avg_pool2d(fine, 256 // resolution) - coarse).abs()
    assert difference.mean() < 1.0 and (difference.amax(1) > 40).float().mean() < 0.002


@pytest.mark.parametrize("resolution", RESOLUTIONS)
def test_a_scene_looks_the_same_in_any_batch(resolution):
    rows = torch.tensor([7, 7, 30])
    together = render(TABLE[rows], resolution)
    assert together.shape == (3, 3, resolution, resolution) and together.dtype == torch.uint8
    assert torch.equal(together[2:], render(TABLE[30:31], resolution)) and torch.equal(*together[:2])
    assert torch.equal(together, render(TABLE[rows].scenes(), resolution)), "readable scenes draw the same"


def test_colours_are_exact_inside_and_outside():
    scene = alone("square")
    image, inside = render([scene], 64)[0], masks([scene], 64)[0, 0]
    assert (image[:, inside == 1] == torch.tensor(rgb_of("#F5D90A"))[:, None]).all()
    assert (image[:, inside == 0] == torch.tensor(rgb_of(GROUND))[:, None]).all()


@pytest.mark.parametrize("texture", TEXTURES)
def test_textures_keep_the_colour_on_most_of_the_object(texture):
    scene = alone("square", texture=texture)
    pixels = render([scene], 256)[0][:, masks([scene], 256)[0, 0] == 1].T
    share = (pixels == torch.tensor(rgb_of("#F5D90A"))).all(1).float().mean()
    assert share == 1 if texture == "plain" else 0.4 < share < 0.75


@pytest.mark.parametrize("light", LIGHTS)
def test_light_is_brightest_on_its_side_and_exact_at_the_centre(light):
    scene = alone("square", light=light, x=0.5, y=0.5, colour="#7F4A22")
    image = render([scene], 64)[0].float().mean(0)[16:48, 16:48]  # the square's inside
    sides = {"left": image[:, 0], "right": image[:, -1], "top": image[0], "bottom": image[-1]}
    brightness = {name: float(values.mean()) for name, values in sides.items()}
    if light == "none":
        assert len(set(brightness.values())) == 1
    else:
        assert max(brightness, key=lambda side: brightness[side]) == light
    assert float(image[15:17, 15:17].mean()) == pytest.approx(sum(rgb_of("#7F4A22")) / 3, abs=1)


def test_masks_of_overlapping_objects_share_each_pixel():
    under, over = alone("square").objects[0], alone("circle", x=0.6).objects[0]
    seen = masks([Scene(objects=(under, over), background=GROUND)], 64)[0]
    both = masks([alone("square"), alone("circle", x=0.6)], 64)[:, 0]
    assert torch.equal(seen[1], both[1]) and torch.allclose(seen[0], both[0] * (1 - both[1]))
    assert seen.sum(0).max() <= 1 + 1e-6 and (seen[2] == 0).all()


@pytest.mark.parametrize("shape", SHAPES)
def test_no_two_shapes_look_alike_at_32_pixels(shape):
    """A small one differs from every other shape, even at the best fitting size, by a tenth of its area."""
    size = 0.13
    mine = masks([alone(shape, x=0.5, y=0.5, size=size)], 32)[0, 0]
    others = [other for other in SHAPES if other != shape]
    sizes = [size * factor for factor in (0.8, 0.9, 1.0, 1.1, 1.2)]
    drawn = masks([alone(other, x=0.5, y=0.5, size=s) for other in others for s in sizes], 32)[:, 0]
    assert ((drawn - mine).abs().sum((1, 2)) / mine.sum()).min() > 0.1


def test_unknown_resolution_is_named():
    with pytest.raises(ValueError, match="resolution=48; choose from: 32, 64, 128, 256"):
        render(TABLE, 48)


def test_outlines_stay_within_their_square():
    for angle in (-14, 0, 14):
        scenes = [alone(shape, rotation=float(angle), x=0.5, y=0.5) for shape in SHAPES]
        reach = (boxes(scenes)[:, 0] - 0.5).abs().max() / 0.3
        assert 0.95 < reach < 1.02  # the margin between objects takes the rest
