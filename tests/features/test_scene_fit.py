"""Colour and texture by drawing again: exact geometry gives them exactly, at any phase, light and blur."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from flowlab.core.seeds import Streams
from flowlab.data import scenes_objects, scenes_render
from flowlab.data.scenes import Scene, SceneObject, SceneTable, render, sample
from flowlab.data.scenes_corrupt import corrupted
from flowlab.features import scene_fit
from flowlab.features.scene_fit import CELLS, REACH, TEXTURES, fit
from flowlab.features.scene_pieces import SIDE, pieces
from flowlab.metrics.scenes import delta_e_2000

OUTLINES = scenes_render.distances(CELLS, REACH)
TABLE = SceneTable.of(sample(torch.arange(60), split="heldout"))


def fitted(images: Tensor, table: SceneTable) -> tuple[Tensor, Tensor, Tensor]:
    """Delta E (n,), found textures and true ones (n,), with the true shape, place and size of each piece."""
    found = pieces(images)
    place = table.place * SIDE  # (B, 3, 2)
    distance = (found.centre[:, None] - place[found.image]).square().sum(-1)
    which = torch.where(table.present[found.image], distance, torch.inf).argmin(1)
    at = found.image, which
    colour, texture = fit(found, OUTLINES[table.shape[at]], place[at], table.size[at] * SIDE)
    return torch.from_numpy(delta_e_2000(colour, table.colour[at])), texture, table.texture[at]


def test_it_draws_as_scenes_do():
    assert TEXTURES == scenes_objects.TEXTURES
    for name in ("STRIPES", "DOTS", "DOT_RADIUS"):
        assert getattr(scene_fit, name) == getattr(scenes_render, name)
    bright, dark = torch.full((3,), scene_fit.BRIGHT + 1), torch.full((3,), scene_fit.BRIGHT - 1)
    shade = scene_fit.SHADE
    assert scenes_objects.second_tone(bright).allclose(bright * (1 - shade))
    assert scenes_objects.second_tone(dark).allclose(dark * (1 - shade) + 255 * shade)


def test_exact_geometry_gives_colour_and_texture():
    off, found, truth = fitted(render(TABLE, 64), TABLE)
    assert len(off) == int(TABLE.present.sum()) and torch.equal(found, truth)
    assert off.median() < 1 and (off > 5).float().mean() < 0.02


@pytest.mark.parametrize("phase", [(0.1, 0.15), (0.31, 0.3), (-0.2, 0.4)])
def test_textures_are_known_at_any_phase(phase: tuple[float, float], monkeypatch: pytest.MonkeyPatch):
    drawn = scenes_render._texture
    across, down = phase
    monkeypatch.setattr(scenes_render, "_texture", lambda x, y, *rest: drawn(x + across, y + down, *rest))
    off, found, truth = fitted(render(TABLE, 64), TABLE)
    assert (found == truth).float().mean() > 0.97 and (off > 5).float().mean() < 0.03


def test_blur_is_undone():
    """A small ring is all edge: no pixel of its picture shows its colour."""
    ring = SceneObject(shape="ring", colour="#F5D90A", x=0.5, y=0.5, size=0.13, texture="striped")
    table = SceneTable.of([Scene(objects=(ring,), background="#14295A")])
    image = corrupted(render(table, 64), "blur", Streams.for_samples(0, torch.zeros(1), purpose="test"))
    pixels = image[0].flatten(1).T  # (4096, 3)
    nearest = delta_e_2000(pixels, table.colour[0, :1]).min()
    off, found, truth = fitted(image, table)
    assert off.item() < 4 < nearest and torch.equal(found, truth)


def test_a_piece_is_fitted_alike_in_any_batch():
    images = render(TABLE, 64)
    whole, some = fitted(images, TABLE), fitted(images[-5:], TABLE[-5:])
    assert len(whole[0]) > 64, "more than are fitted at once"
    assert (whole[0][-len(some[0]) :] - some[0]).abs().max() < 0.1
    assert torch.equal(whole[1][-len(some[0]) :], some[1])
