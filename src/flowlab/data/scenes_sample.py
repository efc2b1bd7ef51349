"""Drawing scenes at random: a function of (split, seed, index), with combinations held out of `train`.

A scene is drawn again, from its own next stream, until its split may show it: so the splits differ by what is
held out and by nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from itertools import product

import torch
from torch import Tensor

from flowlab.core.choices import lookup
from flowlab.core.seeds import Streams, mix
from flowlab.data.scenes_objects import (
    BACKGROUNDS,
    COLOURS,
    LIGHTS,
    MAX_OBJECTS,
    MIN_OFFSET,
    MIN_SLOPE,
    RELATIONS,
    SHAPES,
    SIZES,
    TEXTURES,
    Scene,
    SceneTable,
    contrast,
    rgb_of,
    second_tone,
)

__all__ = [
    "MIN_CONTRAST",
    "SPLITS",
    "allowed",
    "draw_table",
    "drawable",
    "global_indices",
    "held_out_of",
    "sample",
]

SPLITS = {"train": 0, "heldout": 1 << 40}
"""The first scene of each; scene i of a split is scene `first + i` of all, so no two splits share one."""
HELD_OUT = 0.1
"""Share of (shape, colour word) pairs, of (shape, shape, relation) triples and of hex codes."""
MIN_CONTRAST = 110.0
"""Between an object and the background, see `contrast`."""
NAMED_SHARE = 0.5
"""Of objects with a colour of COLOURS; the rest draws any of the 2^24."""
_AT_ONCE = 128
"""Draws of a further attempt."""
MAX_ANGLE, SIZE_JITTER, MARGIN = 14.0, 0.06, 0.03
"""Degrees either way; share of the size either way; share of the canvas kept free around and between."""


def sample(indices: Tensor | Sequence[int], *, split: str, seed: int = 0) -> list[Scene]:
    """Scenes `indices` (B,) of `split` (a key of SPLITS)."""
    return draw_table(torch.as_tensor(indices), split=split, seed=seed).scenes()


def draw_table(
    indices: Tensor, *, split: str, seed: int = 0, purpose: str = "scenes", num_objects: int | None = None
) -> SceneTable:
    """The same as a struct of arrays; another `purpose` is another, independent scene of the same index.

    `num_objects` are in every scene; None = 1 to 3, each as likely.
    """
    places = global_indices(indices, split)
    if num_objects is None:
        drawn = Streams.for_samples(seed, places, purpose=f"{purpose} count").integers(MAX_OBJECTS, 1)
        count = 1 + drawn[:, 0]
    else:
        count = torch.full((len(places),), num_objects)
    keys = Streams.for_samples(seed, places, purpose=purpose).keys
    table = _drawn(count, Streams(keys))
    pending, attempt = torch.nonzero(~allowed(table, split))[:, 0], 1
    while len(pending):
        assert attempt < 5000, f"scene {int(pending[0])} of {split} was refused {attempt} times"
        num = -(-_AT_ONCE // len(pending))  # the last few rows would make many small draws
        again = mix(keys[pending] ^ mix(torch.arange(attempt, attempt + num))[:, None])  # (attempts, pending)
        redrawn = _drawn(count[pending].repeat(num), Streams(again.flatten()))
        good = allowed(redrawn, split).view(num, -1)  # (attempts, pending)
        done, first = good.any(0), good.int().argmax(0)
        _replace(table, pending[done], redrawn[(first * len(pending) + torch.arange(len(pending)))[done]])
        pending, attempt = pending[~done], attempt + num
    return table


def global_indices(indices: Tensor, split: str) -> Tensor:
    """Where images (B,) of `split` stand among all scenes."""
    first = lookup(SPLITS, split, "split of scenes")
    indices = indices.to(torch.int64)
    if int(indices.min()) < 0 or int(indices.max()) >= 1 << 40:
        raise ValueError(f"scenes: index {int(indices.min())}..{int(indices.max())}; use 0 to 2^40 - 1")
    return indices + first


def allowed(table: SceneTable, split: str) -> Tensor:
    """(B,) bool: the scene is drawable, and nothing (`train`) or something (`heldout`) of it is held out."""
    held = held_out_of(table).sum(1)
    return drawable(table) & ((held > 0) if split == "heldout" else (held == 0))


def drawable(table: SceneTable) -> Tensor:
    """(B,) bool: every object stands out from the background, lies inside the canvas and apart from the
    others."""
    present, size, place = table.present, table.size, table.place
    ground = table.background[:, None]
    stands_out = contrast(table.colour, ground) >= MIN_CONTRAST  # (B, 3)
    stands_out &= (contrast(second_tone(table.colour), ground) >= MIN_CONTRAST / 3) | (table.texture == 0)
    inside = ((place - size[..., None] >= 0) & (place + size[..., None] <= 1)).all(-1)
    distance = (place[:, None] - place[:, :, None]).abs().amax(-1)  # (B, 3, 3)
    apart = distance >= size[:, None] + size[:, :, None] + MARGIN
    others = present[:, None] & present[:, :, None] & ~torch.eye(MAX_OBJECTS, dtype=torch.bool)
    return ((stands_out & inside) | ~present).all(1) & (apart | ~others).all(2).all(1)


def _replace(table: SceneTable, rows: Tensor, new: SceneTable) -> None:
    for name in SceneTable.__dataclass_fields__:
        getattr(table, name)[rows] = getattr(new, name)


# ---- one draw ----------------------------------------------------------------------------------------------


def _drawn(count: Tensor, streams: Streams) -> SceneTable:
    n = MAX_OBJECTS
    one, each = streams.uniform(5), streams.uniform(n, 8)  # (B, 5), (B, 3, 8)
    size = _sizes(count, one[:, 0]) * (1 + SIZE_JITTER * (2 * each[..., 0] - 1))
    named = each[..., 1] < NAMED_SHARE
    words = _rgb_table(COLOURS)[streams.integers(len(COLOURS), n)]  # (B, 3, 3)
    any_colour = streams.integers(256, n, 3).to(torch.uint8)
    texture = (each[..., 2] * 6 - 3).clamp(min=0).long()  # two thirds plain
    light = (each[..., 3] * 16 - 11).clamp(min=0).long()  # three quarters unlit
    return SceneTable(
        count=count,
        shape=streams.uniform(len(SHAPES)).argsort(1)[:, :n],  # no shape twice: "the star" is one object
        colour=torch.where(named[..., None], words, any_colour),
        place=_places(count, size, one[:, 1:4], each[..., 4:7], streams),
        size=size,
        rotation=MAX_ANGLE * (2 * each[..., 7] - 1),
        texture=texture.clamp(max=len(TEXTURES) - 1),
        light=light.clamp(max=len(LIGHTS) - 1),
        background=_rgb_table(BACKGROUNDS)[(one[:, 4] * len(BACKGROUNDS)).long()],
    )


def _sizes(count: Tensor, draw: Tensor) -> Tensor:
    """(B, 3) sizes: any combination that can fit, each as likely."""
    sizes = torch.empty(len(count), MAX_OBJECTS)
    for num in range(1, MAX_OBJECTS + 1):
        fitting = [combo for combo in product(SIZES.values(), repeat=num) if 2 * sum(combo) <= 1]
        combos = torch.tensor([[*combo, *[0.1] * (MAX_OBJECTS - num)] for combo in fitting])
        rows = count == num
        sizes[rows] = combos[(draw[rows] * len(combos)).long()]
    return sizes


def _places(count: Tensor, size: Tensor, one: Tensor, each: Tensor, streams: Streams) -> Tensor:
    """(B, 3, 2) centres: half of the scenes anywhere (`drawable` refuses what touches), the others in a row
    or column, or large objects would rarely come together."""
    within = size[..., None] + MARGIN + each[..., 1:] * (1 - 2 * size[..., None] - 2 * MARGIN)
    row = torch.stack([_in_a_row(count, size, one[:, 0], each[..., 0], streams), within[..., 1]], -1)
    turned = torch.where(one[:, 1, None, None] < 0.5, row, row.flip(-1))
    return torch.where(one[:, 2, None, None] < 0.5, within, turned)


def _in_a_row(count: Tensor, size: Tensor, last: Tensor, gaps: Tensor, streams: Streams) -> Tensor:
    """(B, 3) coordinates: boxes stand apart in a random order, the room left over is spread around."""
    present = torch.arange(MAX_OBJECTS) < count[:, None]
    width = torch.where(present, 2 * size + MARGIN, 0.0)  # (B, 3)
    room = (1 - MARGIN - width.sum(1, keepdim=True)).clamp(min=0)
    parts = -gaps.log() * present  # shares of exponential draws are uniform on the simplex
    share = parts / (parts.sum(1) - last.log())[:, None]
    order = torch.where(present, streams.uniform(MAX_OBJECTS), 2.0).argsort(1)
    ends = (share * room + width).gather(1, order).cumsum(1)  # each one's right edge
    return torch.empty_like(ends).scatter_(1, order, ends) - size


@cache
def _rgb_table_of(codes: tuple[str, ...]) -> Tensor:
    return torch.tensor([rgb_of(code) for code in codes]).to(torch.uint8)


def _rgb_table(colours: dict[str, str]) -> Tensor:
    return _rgb_table_of(tuple(colours.values()))


# ---- held out ----------------------------------------------------------------------------------------------


def held_out_of(table: SceneTable) -> Tensor:
    """(B, 3) int64: how many held-out pairs, triples and hex codes each scene shows."""
    packed = (table.colour.long() * torch.tensor([1 << 16, 1 << 8, 1])).sum(-1)  # (B, 3)
    is_word = packed[..., None] == _packed_words()  # (B, 3, 12)
    pair = (_held_pairs()[table.shape] & is_word).any(-1)
    code = (mix(packed + (1 << 32)) & 0xFFFF) < HELD_OUT * (1 << 16)
    present = table.present
    hex_codes = code & ~is_word.any(-1)
    return torch.stack([(pair & present).sum(1), _num_triples(table), (hex_codes & present).sum(1)], 1)


def _num_triples(table: SceneTable) -> Tensor:
    """(B,) held-out triples among the relations that `scenes_objects.relation` would state."""
    offset = table.place[:, None] - table.place[:, :, None]  # (B, first, second, 2)
    size = offset.abs()
    plain = (size >= MIN_OFFSET) & (size >= MIN_SLOPE * size.flip(-1)) & (offset > 0)  # left of, above
    both = table.present[:, None] & table.present[:, :, None]
    held = _held_triples()[table.shape[:, :, None], table.shape[:, None]]  # (B, 3, 3, 2)
    return (plain & held & both[..., None]).sum((1, 2, 3))


@cache
def _packed_words() -> Tensor:
    return torch.tensor([int(code[1:], 16) for code in COLOURS.values()])


@cache
def _held_pairs() -> Tensor:
    """(shapes, colour words) bool."""
    return _tenth(len(SHAPES) * len(COLOURS), salt=1).view(len(SHAPES), len(COLOURS))


@cache
def _held_triples() -> Tensor:
    """(first shape, second shape, axis) bool: the first left of (0) or above (1) the second; two words say
    each, and one hold-out covers both."""
    assert list(RELATIONS) == ["left of", "right of", "above", "below"], "two axes, each said both ways"
    return _tenth(len(SHAPES) ** 2 * 2, salt=2).view(len(SHAPES), len(SHAPES), 2)


def _tenth(num: int, salt: int) -> Tensor:
    """(num,) bool: the tenth with the smallest hash."""
    rank = mix(torch.arange(num) + (salt << 32)).argsort().argsort()
    return rank < round(HELD_OUT * num)
