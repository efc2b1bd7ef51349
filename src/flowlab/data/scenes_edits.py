"""Edits of scenes: an instruction, one or two reference scenes, and the scene that must come out.

Whatever the instruction does not name stays as it is, to the bit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from flowlab.data.scenes_captions import Draws, noun
from flowlab.data.scenes_objects import (
    BACKGROUNDS,
    COLOURS,
    MAX_OBJECTS,
    POSITIONS,
    SHAPES,
    SIZES,
    Scene,
    SceneObject,
    SceneTable,
    colour_word,
    hex_of,
    size_word,
)
from flowlab.data.scenes_render import render
from flowlab.data.scenes_sample import allowed, draw_table, drawable, global_indices

__all__ = ["EDITS", "Edit", "changed", "edit", "edits"]

STEP = 0.25
"""How far "left", "right", "up" and "down" move, and the distance of the nine positions."""
DIRECTIONS = {"left": (-STEP, 0.0), "right": (STEP, 0.0), "up": (0.0, -STEP), "down": (0.0, STEP)}
NUMBERS = {1: "edits", 2: "edits with two references"}


@dataclass(frozen=True, kw_only=True)
class Edit:
    """One instruction and what it leads from and to."""

    kind: str
    """A key of EDITS[number of references]."""
    instruction: str
    """Addresses the references as image 1 and image 2."""
    references: tuple[Scene, ...]
    """One or two; the first is the one that is changed."""
    target: Scene

    @property
    def asked(self) -> dict[str, Any]:
        """The target as `scenes_captions` writes what is asked for: shape, colour, size and place of every
        object, their number and the background. The texture is free."""
        objects = [
            {
                "shape": item.shape,
                "color": item.colour,
                "size": size_word(item.size),
                "center": [item.x, item.y],
            }
            for item in self.target.objects
        ]
        return {"objects": objects, "count": len(objects), "background": self.target.background}


def edit(index: int, *, split: str, num_references: int = 1, seed: int = 0) -> Edit:
    """Edit `index` of `split`."""
    return edits(torch.tensor([index]), split=split, num_references=num_references, seed=seed)[0]


def edits(
    indices: Tensor | Sequence[int], *, split: str, num_references: int = 1, seed: int = 0
) -> list[Edit]:
    """Edits `indices` (B,), of 1 or 2 references; the kind is keyed by the index, each as likely.

    References and target of `train` show nothing that is held out; every edit of `heldout` shows something.
    """
    if num_references not in EDITS:
        raise ValueError(f"{num_references=}; scenes have edits with 1 or 2")
    indices = torch.as_tensor(indices)
    places = global_indices(indices, split)
    kinds = [
        draw.pick(tuple(EDITS[num_references]))
        for draw in Draws.rows(seed, places, f"{NUMBERS[num_references]} kind", num=1)
    ]
    found: dict[int, Edit] = {}
    for attempt in range(1000):
        pending = [row for row in range(len(kinds)) if row not in found]
        if not pending:
            return [found[row] for row in range(len(kinds))]
        found |= _tried(
            [kinds[row] for row in pending], pending, indices, split, num_references, seed, attempt
        )
    raise AssertionError(f"no edit of {split} was possible in 1000 attempts")


def changed(edits: Sequence[Edit], resolution: int) -> Tensor:
    """(B, resolution, resolution) bool: the pixels in which the target differs from the first reference."""
    before = render([item.references[0] for item in edits], resolution)
    after = render([item.target for item in edits], resolution)
    return (before != after).any(1)


def _tried(
    kinds: list[str],
    rows: list[int],
    indices: Tensor,
    split: str,
    num_references: int,
    seed: int,
    attempt: int,
) -> dict[int, Edit]:
    """Row => edit, for those rows whose new reference scenes allow their kind of edit."""
    some = indices[rows]
    name = f"{NUMBERS[num_references]} {attempt}"
    references = [
        draw_table(some, split=split, seed=seed, purpose=f"{name} image {i + 1}").scenes()
        for i in range(num_references)
    ]
    draws = Draws.rows(seed, global_indices(some, split), name)
    proposed = {}
    for row, kind, draw, *scenes in zip(rows, kinds, draws, *references, strict=True):
        result = EDITS[num_references][kind](*scenes, draw)
        if result is not None and result[1] != scenes[0]:
            proposed[row] = Edit(kind=kind, instruction=result[0], references=tuple(scenes), target=result[1])
    if not proposed:
        return {}
    targets = SceneTable.of([item.target for item in proposed.values()])
    fine = (drawable(targets) if split == "heldout" else allowed(targets, split)).tolist()
    return {row: item for (row, item), good in zip(proposed.items(), fine, strict=True) if good}


# ---- one reference -----------------------------------------------------------------------------------------

Result = tuple[str, Scene] | None
"""Instruction and target, or None where the scene does not allow it."""


def _recolour(scene: Scene, draws: Draws) -> Result:
    item = draws.pick(scene.objects)
    code = draws.pick(tuple(COLOURS.values())) if draws.share(0.5) else _any_colour(draws)
    form = draws.pick(("make {} {}", "change the color of {} to {}", "paint {} {}"))
    return form.format(_the(item, draws), colour_word(code)), _with(scene, item, colour=code)


def _move(scene: Scene, draws: Draws) -> Result:
    item = draws.pick(scene.objects)
    if draws.share(0.5):
        word = draws.pick(tuple(DIRECTIONS))
        across, down = DIRECTIONS[word]
        moved = _with(scene, item, x=item.x + across, y=item.y + down)
        return f"move {_the(item, draws)} {word}", moved
    word, (x, y) = _position(draws)
    return f"move {_the(item, draws)} to the {word}", _with(scene, item, x=x, y=y)


def _remove(scene: Scene, draws: Draws) -> Result:
    if len(scene.objects) == 1:
        return None
    item = draws.pick(scene.objects)
    left = tuple(other for other in scene.objects if other is not item)
    return f"{draws.pick(('remove', 'delete'))} {_the(item, draws)}", replace(scene, objects=left)


def _reshape(scene: Scene, draws: Draws) -> Result:
    item, shape = draws.pick(scene.objects), _new_shape(scene, draws)
    form = draws.pick(("replace {} with {}", "turn {} into {}"))
    return form.format(_the(item, draws), noun(shape)), _with(scene, item, shape=shape)


def _add(scene: Scene, draws: Draws) -> Result:
    if len(scene.objects) == MAX_OBJECTS:
        return None
    code = draws.pick(tuple(COLOURS.values())) if draws.share(0.5) else _any_colour(draws)
    word, (x, y) = _position(draws)
    size = draws.pick(("small", "medium"))
    item = SceneObject(shape=_new_shape(scene, draws), colour=code, x=x, y=y, size=SIZES[size])
    text = f"add {noun(f'{size} {colour_word(code)} {item.shape}')} {_at(word)}"
    return text, replace(scene, objects=(*scene.objects, item))


def _background(scene: Scene, draws: Draws) -> Result:
    word = draws.pick(tuple(BACKGROUNDS))
    form = draws.pick(("make the background {}", "change the background to {}"))
    return form.format(word), replace(scene, background=BACKGROUNDS[word])


def _resize(scene: Scene, draws: Draws) -> Result:
    item, words = draws.pick(scene.objects), list(SIZES)
    step = 1 if draws.share(0.5) else -1
    now = words.index(size_word(item.size))
    if not 0 <= now + step < len(words):
        return None
    word = draws.pick(("larger", "bigger")) if step > 0 else "smaller"
    size = item.size * SIZES[words[now + step]] / SIZES[words[now]]
    return f"make {_the(item, draws)} {word}", _with(scene, item, size=size)


# ---- two references ----------------------------------------------------------------------------------------


def _insert(scene: Scene, other: Scene, draws: Draws) -> Result:
    item = draws.pick(other.objects)
    if len(scene.objects) == MAX_OBJECTS or item.shape in [own.shape for own in scene.objects]:
        return None
    text = f"put the {item.shape} of image 2 into image 1"
    if draws.share(0.5):
        word, (x, y) = _position(draws)
        item, text = replace(item, x=x, y=y), f"{text} {_at(word)}"
    return text, replace(scene, objects=(*scene.objects, item))


def _take_colour(scene: Scene, other: Scene, draws: Draws) -> Result:
    item, model = draws.pick(scene.objects), draws.pick(other.objects)
    text = f"give the {item.shape} the color of the {model.shape} in image 2"
    return text, _with(scene, item, colour=model.colour)


def _take_background(scene: Scene, other: Scene, draws: Draws) -> Result:
    form = draws.pick(("use the background of image 2", "give image 1 the background of image 2"))
    return form, replace(scene, background=other.background)


def _swap_in(scene: Scene, other: Scene, draws: Draws) -> Result:
    """The shape of image 2 with its colour, texture and size, where the old one was."""
    item, model = draws.pick(scene.objects), draws.pick(other.objects)
    if model.shape in [own.shape for own in scene.objects if own is not item]:
        return None
    text = f"replace the {item.shape} with the {model.shape} of image 2"
    objects = tuple(replace(model, x=own.x, y=own.y) if own is item else own for own in scene.objects)
    return text, replace(scene, objects=objects)


EDITS: dict[int, dict[str, Callable[..., Result]]] = {
    1: {
        "recolour": _recolour,
        "move": _move,
        "remove": _remove,
        "reshape": _reshape,
        "add": _add,
        "background": _background,
        "resize": _resize,
    },
    2: {
        "insert": _insert,
        "take colour": _take_colour,
        "take background": _take_background,
        "swap in": _swap_in,
    },
}


# ---- words and small steps ---------------------------------------------------------------------------------


def _the(item: SceneObject, draws: Draws) -> str:
    """ "the star", or "the red star"; no scene shows one shape twice."""
    colour = f"{colour_word(item.colour)} " if draws.share(0.3) else ""
    return f"the {colour}{item.shape}"


def _at(position: str) -> str:
    return f"{'in' if position == 'center' else 'at'} the {position}"


def _position(draws: Draws) -> tuple[str, tuple[float, float]]:
    """One of POSITIONS and its point."""
    word = draws.pick(tuple(POSITIONS))
    column, row = POSITIONS[word]
    return word, (STEP * (column + 1), STEP * (row + 1))


def _any_colour(draws: Draws) -> str:
    return hex_of([draws.pick(range(256)) for _ in range(3)])


def _new_shape(scene: Scene, draws: Draws) -> str:
    """A shape that the scene does not show."""
    return draws.pick([shape for shape in SHAPES if shape not in [item.shape for item in scene.objects]])


def _with(scene: Scene, item: SceneObject, **changes: Any) -> Scene:
    """The scene with that object changed."""
    changed = tuple(replace(own, **changes) if own is item else own for own in scene.objects)
    return replace(scene, objects=changed)
