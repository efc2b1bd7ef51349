"""Edits do what they say and nothing else."""

from __future__ import annotations

import re

import pytest
import torch

from flowlab.data.scenes import Edit, SceneTable, changed, edit, edits, masks, render
from flowlab.data.scenes_edits import DIRECTIONS, EDITS
from flowlab.data.scenes_objects import BACKGROUNDS, COLOURS, POSITIONS, SHAPES, SceneObject, size_word
from flowlab.data.scenes_sample import SPLITS, drawable, held_out_of

ROWS = torch.arange(400)
FOUND = {num: edits(ROWS, split="train", num_references=num) for num in EDITS}
EVERY = [item for found in FOUND.values() for item in found]
KINDS = [kind for table in EDITS.values() for kind in table]
SAME_OTHERS = {"recolour", "move", "reshape", "resize", "take colour", "swap in"}
LONGER, SHORTER = {"add", "insert"}, {"remove"}
GROUND = {"background", "take background"}


@pytest.mark.parametrize("num", EDITS)
def test_an_edit_depends_on_its_index_alone(num):
    rows = torch.tensor([7, 399, 7])
    together = edits(rows, split="train", num_references=num)
    assert together == [FOUND[num][7], FOUND[num][399], FOUND[num][7]]
    assert edit(7, split="train", num_references=num) == together[0]
    assert edits(rows, split="heldout", num_references=num)[0] != together[0]


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_occurs_about_as_often(kind):
    num = 1 if kind in EDITS[1] else 2
    share = sum(item.kind == kind for item in FOUND[num]) / len(ROWS) * len(EDITS[num])
    assert 0.6 < share < 1.4


@pytest.mark.parametrize("num", EDITS)
@pytest.mark.parametrize("split", SPLITS)
def test_combinations_are_held_out_of_edits_too(split, num):
    for item in FOUND[num][:150] if split == "train" else edits(ROWS[:40], split=split, num_references=num):
        held = held_out_of(SceneTable.of([*item.references, item.target])).sum(1)
        assert held.sum() == 0 if split == "train" else (held[:-1] > 0).all()
        assert drawable(SceneTable.of([item.target])).all() and len(item.references) == num


# ---- nothing else changes ----------------------------------------------------------------------------------


@pytest.mark.parametrize("item", EVERY[::4], ids=lambda item: item.kind)
def test_what_is_not_named_stays(item: Edit):
    before, after = item.references[0], item.target
    assert before != after
    assert before.background == after.background or item.kind in GROUND
    if item.kind in GROUND:
        assert before.objects == after.objects
    elif item.kind in LONGER:
        assert after.objects[:-1] == before.objects
    elif item.kind in SHORTER:
        gone = [one for one in before.objects if one not in after.objects]
        assert len(gone) == 1 and gone[0].shape in item.instruction
    else:
        assert item.kind in SAME_OTHERS
        pairs = [(a, b) for a, b in zip(before.objects, after.objects, strict=True) if a != b]
        assert len(pairs) == 1 and re.search(rf"\b{pairs[0][0].shape}\b", item.instruction)


def test_changed_is_where_the_pictures_differ():
    some = EVERY[:40]
    where = changed(some, 64)
    before, after = render([item.references[0] for item in some], 64), render([e.target for e in some], 64)
    assert torch.equal(before * ~where[:, None], after * ~where[:, None])
    assert where.any(2).any(1).all()
    removed = [item for item in EVERY if item.kind == "remove"]
    gone = [[one not in item.target.objects for one in item.references[0].objects] for item in removed]
    covered = masks([item.references[0] for item in removed], 64)
    for place, mask, flags in zip(changed(removed, 64), covered, gone, strict=True):
        assert (place & (mask[flags.index(True)] == 0)).sum() == 0, "only where the object was"


# ---- the target is what the instruction says ---------------------------------------------------------------


def parts(item: Edit) -> tuple[SceneObject, SceneObject]:
    pairs = zip(item.references[0].objects, item.target.objects, strict=True)
    return next((a, b) for a, b in pairs if a != b)


def of_kind(kind: str) -> list[Edit]:
    return [item for item in EVERY if item.kind == kind]


def test_recolour_to_the_colour_that_is_named():
    for item in of_kind("recolour"):
        word = item.instruction.split()[-1]
        assert parts(item)[1].colour == (word if word[0] == "#" else COLOURS[word])


def test_move_to_the_place_that_is_named():
    for item in of_kind("move"):
        before, after = parts(item)
        goal = re.search(r" to the (.+)$", item.instruction)
        if goal:
            column, row = POSITIONS[goal.group(1)]
            assert (after.x, after.y) == (0.25 * (column + 1), 0.25 * (row + 1))
        else:
            step = DIRECTIONS[item.instruction.split()[-1]]
            assert (after.x - before.x, after.y - before.y) == pytest.approx(step)


def test_other_single_edits():
    for item in of_kind("reshape"):
        assert item.instruction.split()[-1] == parts(item)[1].shape
    for item in of_kind("background"):
        assert item.target.background == BACKGROUNDS[item.instruction.split()[-1]]
    for item in of_kind("resize"):
        before, after = parts(item)
        assert (after.size > before.size) == (item.instruction.split()[-1] != "smaller")
    for item in of_kind("add"):
        new = item.target.objects[-1]
        assert re.search(rf"add an? (small|medium) \S+ {new.shape} ", item.instruction)


def test_edits_with_two_references_take_from_the_second():
    for item in FOUND[2]:
        second = {one.shape: one for one in item.references[1].objects}
        named = [word for word in item.instruction.split() if word in SHAPES]
        if item.kind == "take background":
            assert item.target.background == item.references[1].background
        elif item.kind == "take colour":
            assert parts(item)[1].colour == second[named[1]].colour
        elif item.kind == "swap in":
            old, new = parts(item)
            model = second[named[1]]
            assert (new.shape, new.colour, new.size) == (model.shape, model.colour, model.size)
            assert (new.x, new.y) == (old.x, old.y)
        else:
            new, model = item.target.objects[-1], second[named[0]]
            assert (new.shape, new.colour, new.size) == (model.shape, model.colour, model.size)
            assert (new == model) == item.instruction.endswith("into image 1")


def test_asked_is_the_target_but_for_textures():
    for item in EVERY[:50]:
        asked = item.asked
        assert asked["count"] == len(item.target.objects) and asked["background"] == item.target.background
        assert [(one["shape"], one["color"], one["size"], one["center"]) for one in asked["objects"]] == [
            (o.shape, o.colour, size_word(o.size), [o.x, o.y]) for o in item.target.objects
        ]


def test_wrong_number_of_references_is_named():
    with pytest.raises(ValueError, match="num_references=3; scenes have edits with 1 or 2"):
        edits([0], split="train", num_references=3)
