"""The scene reader: pictures read right, spoiled ones at the stated rates, files that round-trip."""

from __future__ import annotations

import pytest
import torch

from flowlab.core.seeds import Streams
from flowlab.core.weights import read_weights, write_weights
from flowlab.data.scenes import Scene, SceneObject, render, sample
from flowlab.data.scenes_corrupt import CORRUPTIONS, mixed
from flowlab.data.scenes_objects import SHAPES, TEXTURES
from flowlab.data.scenes_render import distances
from flowlab.features import scene_reader
from flowlab.features.scene_fit import CELLS, REACH
from flowlab.features.scene_pieces import pieces
from flowlab.features.scene_reader import SceneReader, SceneReaderSpec, load, save
from flowlab.metrics.scenes import delta_e_2000, rgb

READER = load()
ROWS = torch.arange(150)
TRUTH = sample(ROWS, split="heldout")
IMAGES = render(TRUTH, 64)


# ---- whole pictures ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES)
def test_each_shape_is_read_in_every_texture_and_place(shape):
    for texture in TEXTURES:
        item = SceneObject(shape=shape, colour="#F58A1F", x=0.4, y=0.55, size=0.2, texture=texture)
        (seen,) = READER(render([Scene(objects=(item,), background="#14295A")], 64))
        (one,) = seen.objects
        assert (one.shape, one.texture, seen.background) == (shape, texture, "#14295A")
        assert max(abs(one.x - 0.4), abs(one.y - 0.55), abs(one.size - 0.2)) < 0.04
        assert float(delta_e_2000(rgb(one.colour), rgb("#F58A1F"))) < 3


@pytest.mark.parametrize("spoil", [False, True])
def test_held_out_scenes_are_read(spoil):
    images = mixed(IMAGES, Streams.for_samples(3, ROWS, purpose="test")) if spoil else IMAGES
    seen = READER(images)
    right = [len(one.objects) == len(true.objects) for one, true in zip(seen, TRUTH, strict=True)]
    assert sum(right) / len(right) > 0.97
    shapes, textures, colours = [], [], []
    for one, true in zip(seen, TRUTH, strict=True):
        for item in true.objects:
            near = min(one.objects, key=lambda seen, at=item: abs(seen.x - at.x) + abs(seen.y - at.y))
            shapes.append(near.shape == item.shape)
            textures.append(near.texture == item.texture)
            colours.append(float(delta_e_2000(rgb(near.colour), rgb(item.colour))) <= 5)
    assert min(sum(right) / len(right) for right in (shapes, textures, colours)) > (0.95 if spoil else 0.99)


def test_an_empty_picture_is_its_background():
    (seen,) = READER(torch.full((1, 3, 64, 64), 90, dtype=torch.uint8))
    assert seen.objects == () and seen.background == "#5A5A5A"


def test_a_picture_is_read_alike_in_any_batch_and_at_other_sizes():
    assert READER(IMAGES[:5])[3:] == READER(IMAGES[3:5])
    small, large = READER(render(TRUTH[:60], 32)), READER(render(TRUTH[:60], 128))
    truth = [sorted(item.shape for item in scene.objects) for scene in TRUTH[:60]]
    for seen, floor in ((small, 0.8), (large, 0.95)):
        found = [sorted(item.shape for item in one.objects) for one in seen]
        assert sum(a == b for a, b in zip(found, truth, strict=True)) / 60 >= floor


# ---- its own errors ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("spoil", ["none", "mixed", *CORRUPTIONS])
def test_the_stated_error_rates_are_at_most_5_percent(spoil):
    """Colour is let off under tiles, which move the mean colour of 6 % of objects beyond Delta E 5."""
    rates = READER.error_rates[spoil]
    names = {"shape", "count", "position", "relation", "size", "texture", "colour", "background"}
    bounds = {name: 0.12 if (spoil, name) == ("tiles", "colour") else 0.05 for name in names}
    assert set(rates) == names
    assert {name: rate for name, rate in rates.items() if rate > bounds[name]} == {}


def test_files_round_trip_and_stay_small(tmp_path):
    save(READER, tmp_path / "reader.safetensors")
    again = load(tmp_path / "reader.safetensors")
    assert again.spec == READER.spec and again.error_rates == READER.error_rates
    assert again(IMAGES[:5]) == READER(IMAGES[:5]) and not again.training
    assert scene_reader.WEIGHTS.stat().st_size < 1_000_000
    assert READER.spec.shapes == SHAPES
    assert (READER.outlines - distances(CELLS, REACH)).abs().max() < 1e-3


def test_gradients_are_finite():
    torch.manual_seed(0)
    reader = SceneReader(SceneReaderSpec(shapes=SHAPES, width=8))
    found = reader.read(pieces(IMAGES[:4]))
    torch.stack([values.square().mean() for values in found.values()]).sum().backward()
    for name, parameter in reader.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().sum() > 0, name


def test_another_file_is_refused(tmp_path):
    write_weights(tmp_path / "other.safetensors", read_weights(scene_reader.WEIGHTS)[0], {"kind": "judge"})
    with pytest.raises(ValueError, match="holds judge, not a scene_reader"):
        load(tmp_path / "other.safetensors")
