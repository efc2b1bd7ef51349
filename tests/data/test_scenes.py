"""Scenes as a dataset: keyed by index, splits apart, what is held out stays out, prompts and edits beside."""

from __future__ import annotations

import pytest
import torch

from flowlab.data.scenes import SceneTable, render, sample, scene_edits, scenes
from flowlab.data.scenes_objects import (
    BACKGROUNDS,
    COLOURS,
    SHAPES,
    Scene,
    SceneObject,
    colour_word,
    contrast,
    hex_of,
    position_of,
    relation,
    rgb_of,
    size_word,
)
from flowlab.data.scenes_sample import MIN_CONTRAST, SPLITS, allowed, draw_table, drawable, held_out_of

ROWS = torch.arange(3000)
TRAIN, HELDOUT = (draw_table(ROWS, split=split) for split in SPLITS)


def star(**changes) -> SceneObject:
    return SceneObject(**{"shape": "star", "colour": "#DC2626", "x": 0.5, "y": 0.5, "size": 0.2, **changes})


# ---- keyed by index ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("split", SPLITS)
def test_a_scene_depends_on_its_index_alone(split):
    rows = torch.tensor([5, 2999, 17, 5])
    together = sample(rows, split=split)
    assert together == [sample([row], split=split)[0] for row in rows.tolist()] and together[0] == together[3]
    assert together == [(TRAIN if split == "train" else HELDOUT).scenes()[row] for row in rows.tolist()]
    assert together != sample(rows, split=split, seed=1)


def test_tables_and_readable_scenes_are_the_same():
    again = SceneTable.of(TRAIN.scenes())
    present = TRAIN.present
    for name in ("shape", "colour", "place", "size", "rotation", "texture", "light"):
        assert torch.equal(getattr(again, name)[present], getattr(TRAIN, name)[present]), name
    assert torch.equal(again.count, TRAIN.count) and torch.equal(again.background, TRAIN.background)


def test_every_word_occurs_and_scenes_can_be_seen():
    assert TRAIN.count.bincount().tolist()[0] == 0 and (TRAIN.count.bincount()[1:] > 900).all()
    assert (TRAIN.shape[TRAIN.present].bincount(minlength=len(SHAPES)) > 300).all() and len(SHAPES) >= 12
    assert (TRAIN.texture[TRAIN.present].bincount() > 500).all()
    assert (TRAIN.light[TRAIN.present].bincount() > 200).all()
    words = [colour_word(item.colour) for scene in TRAIN.scenes() for item in scene.objects]
    assert all(words.count(word) > 100 for word in COLOURS)
    assert 0.45 < sum(word[0] == "#" for word in words) / len(words) < 0.55
    background = TRAIN.background[:, None].expand(-1, 3, -1)
    assert contrast(TRAIN.colour, background)[TRAIN.present].min() >= MIN_CONTRAST
    assert len(TRAIN.background.unique(dim=0)) == len(BACKGROUNDS)
    assert all(len({item.shape for item in scene.objects}) == len(scene.objects) for scene in TRAIN.scenes())


def test_objects_lie_inside_and_apart():
    assert drawable(TRAIN).all() and drawable(HELDOUT).all()
    touching = Scene(objects=(star(), star(shape="ring", x=0.7)), background="#26272E")
    outside = Scene(objects=(star(x=0.1),), background="#26272E")
    pale = Scene(objects=(star(colour="#303030"),), background="#26272E")
    fine = Scene(objects=(star(x=0.25), star(shape="ring", x=0.75)), background="#26272E")
    assert drawable(SceneTable.of([touching, outside, pale, fine])).tolist() == [False, False, False, True]


# ---- held out ----------------------------------------------------------------------------------------------


def test_nothing_held_out_is_in_train_and_something_in_every_heldout_scene():
    assert held_out_of(TRAIN).sum() == 0
    assert held_out_of(HELDOUT).sum(1).min() >= 1
    assert (held_out_of(HELDOUT).sum(0) > 500).all(), "pairs, triples and hex codes all occur"


def test_what_is_held_out_is_read_off_the_scenes_themselves():
    """Pairs and triples of held-out scenes that no training scene shows, found without the rule."""
    seen, unseen = _combinations(TRAIN.scenes()), _combinations(HELDOUT.scenes())
    held_pairs, held_triples = unseen[0] - seen[0], unseen[1] - seen[1]
    assert len(held_pairs) == 14 and len(held_triples) == 2 * 29  # 10 % of 144; of 288, each said both ways
    for pairs, triples in ((seen[0], seen[1]), (unseen[0], unseen[1])):
        assert len(pairs) > 125 and len(triples) > 420


def _combinations(scenes: list[Scene]) -> tuple[set, set]:
    pairs = {(item.shape, colour_word(item.colour)) for scene in scenes for item in scene.objects}
    triples = {
        (a.shape, relation(a, b), b.shape)
        for scene in scenes
        for a in scene.objects
        for b in scene.objects
        if relation(a, b)
    }
    return {pair for pair in pairs if pair[1] in COLOURS}, triples


# ---- datasets ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("style", ["words", "json"])
def test_scenes_read(style):
    dataset = scenes("train", num_images=50, resolution=32, style=style)
    rows = torch.tensor([3, 41, 3])
    batch = dataset.read(rows)
    assert batch.pixels is not None and batch.text is not None and batch.label is None
    assert batch.pixels.shape == (3, 3, 32, 32) and batch.pixels.dtype == torch.uint8
    assert torch.equal(batch.pixels[0], batch.pixels[2]) and batch.text[0] == batch.text[2]
    assert batch.text == tuple(prompt.text for prompt in dataset.prompts(rows))
    assert len(dataset) == 50 and dataset.scenes(rows)[0] == sample([3], split="train")[0]


@pytest.mark.parametrize("num", [1, 2])
def test_edits_read(num):
    dataset = scene_edits("heldout", num_references=num, num_images=50, resolution=32)
    rows = torch.tensor([3, 41])
    batch, references = dataset.read(rows), dataset.references(rows)
    assert batch.pixels is not None and batch.text is not None
    assert references.shape == (2, num, 3, 32, 32) and references.dtype == torch.uint8
    assert not torch.equal(references[0, 0], batch.pixels[0])
    assert batch.text == tuple(item.instruction for item in dataset.edits(rows))


@pytest.mark.parametrize("num", [1, 2, 3])
def test_scenes_of_a_number_of_objects(num):
    data, every = scenes("heldout", num_images=64, num_objects=num), torch.arange(64)
    drawn = data.scenes(every)
    assert {len(scene.objects) for scene in drawn} == {num}
    assert all(prompt.asked["count"] == num for prompt in data.prompts(every))
    pixels = data.read(every).pixels
    assert pixels is not None and torch.equal(pixels, render(drawn, 64))
    assert allowed(data.table(every), "heldout").all()


def test_identity_changes_with_every_setting():
    variants = [
        scenes("train"),
        scenes("heldout"),
        scenes("train", seed=1),
        scenes("train", num_images=9),
        scenes("train", resolution=32),
        scenes("train", style="json"),
        scenes("train", num_objects=1),
        scenes("train", num_objects=2),
        scene_edits("train"),
        scene_edits("heldout"),
        scene_edits("train", num_references=2),
        scene_edits("train", seed=1),
        scene_edits("train", num_images=9),
        scene_edits("train", resolution=32),
    ]
    assert len({dataset.identity for dataset in variants}) == len(variants)


# ---- words and faults --------------------------------------------------------------------------------------


def test_words_of_places_sizes_and_relations():
    assert [position_of(x, 0.5) for x in (0.2, 0.5, 0.8)] == ["left", "center", "right"]
    assert (position_of(0.2, 0.2), position_of(0.5, 0.9)) == ("top left", "bottom")
    assert [size_word(size) for size in (0.12, 0.17, 0.25)] == ["small", "medium", "large"]
    middle = star()
    assert relation(middle, star(x=0.9)) == "left of" and relation(middle, star(y=0.9)) == "above"
    assert relation(middle, star(x=0.1)) == "right of" and relation(middle, star(y=0.1)) == "below"
    assert relation(middle, star(x=0.8, y=0.8)) is None and relation(middle, star(x=0.6)) is None
    assert hex_of(rgb_of("#0aFF10")) == "#0AFF10"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: scenes("test"), "unknown split of scenes 'test'; choose from: train, heldout"),
        (lambda: scenes("train", num_images=0), "num_images=0, .*at least 1 image"),
        (lambda: scenes("train", resolution=48), "resolution=48; .* 32, 64, 128, 256 pixels"),
        (lambda: scenes("train", num_objects=4), "num_objects=4; a scene has 1 to 3"),
        (
            lambda: scenes("train", style="verse"),
            "unknown style of caption 'verse'; choose",
        ),
        (lambda: scene_edits("train", num_references=3), "num_references=3; scenes have edits with 1 or 2"),
        (lambda: scenes("train").read(torch.tensor([0]), torch.tensor([True])), "cannot be mirrored"),
        (lambda: scenes("train", num_images=9).read(torch.tensor([9])), "index 9 is outside"),
        (lambda: sample([-1], split="train"), "index -1..-1; use 0 to"),
        (lambda: star(shape="blob"), "unknown shape 'blob'; choose from: circle"),
        (lambda: star(colour="red"), "'red' is no colour; write it as #RRGGBB"),
        (lambda: Scene(objects=(), background="#000000"), "a scene of 0 objects; give 1 to 3"),
    ],
)
def test_faults_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
