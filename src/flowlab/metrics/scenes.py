"""How well a picture of shapes shows what was asked: exact answers where the truth is known.

`asked` is plain data, as prompts of scenes carry it; only what it states is scored:

    {"objects": [{"shape": "star", "color": "#DC2626", "size": "large", "texture": "striped",
                  "position": "left" | "center": [x, y]}, ...],
     "count": 2, "relations": [[0, "above", 1], ...], "background": "#26272E"}

What a picture shows comes from features.scene_reader, whose own errors bound what these numbers can tell.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from flowlab.features.scene_reader import SeenObject, SeenScene
from flowlab.metrics.intervals import Interval, wilson_interval

__all__ = [
    "CHANGE_LIMIT",
    "COLOUR_LIMIT",
    "PictureScore",
    "bootstrap_median",
    "delta_e_2000",
    "edit_success",
    "rgb",
    "score",
    "summary",
    "unchanged",
]

COLOUR_LIMIT = 10.0
"""Delta E 2000 up to which a colour counts as the one that was asked for."""
CHANGE_LIMIT = 6.0
"""Mean absolute difference in 0..255 up to which the rest of an edited picture counts as unchanged."""
SIZES = {"small": (0.0, 0.151), "medium": (0.151, 0.203), "large": (0.203, 1.0)}
"""Half sides, split at the geometric means of the sizes that scenes draw (0.13, 0.175, 0.235)."""
PLACE_SLACK = 0.05
"""By which a centre may miss its third of the picture; for a given centre, three times that on each axis."""


# ---- one picture -------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class PictureScore:
    """What one picture gets right. None where nothing of the kind was asked."""

    shapes: tuple[bool, ...]
    """For each asked object: there is one of its shape."""
    delta_e: tuple[float, ...]
    """For each asked object with a colour: distance of the object matched to it; 100 where there is none."""
    count: bool | None
    relations: tuple[bool, ...]
    positions: tuple[bool, ...]
    sizes: tuple[bool, ...]
    textures: tuple[bool, ...]
    background: float | None
    """Delta E 2000."""

    @property
    def colours(self) -> tuple[bool, ...]:
        """For each asked colour: within COLOUR_LIMIT."""
        return tuple(distance <= COLOUR_LIMIT for distance in self.delta_e)

    @property
    def all_right(self) -> bool:
        """Whether everything that was asked is there."""
        parts = (self.shapes, self.colours, self.relations, self.positions, self.sizes, self.textures)
        ground = self.background is None or self.background <= COLOUR_LIMIT
        return ground and self.count is not False and all(map(all, parts))


def score(seen: SeenScene, asked: Mapping[str, Any]) -> PictureScore:
    """One picture against what was asked; asked objects are matched to seen ones to the prompt's advantage:
    as many shapes as possible right, then colours as near as possible."""
    wanted = asked["objects"]
    matched = _matched(seen.objects, wanted)
    pairs = list(zip(wanted, matched, strict=True))
    return PictureScore(
        shapes=tuple(item is not None and item.shape == want["shape"] for want, item in pairs),
        delta_e=tuple(_distance(item, want["color"]) for want, item in pairs if "color" in want),
        count=len(seen.objects) == asked["count"] if "count" in asked else None,
        relations=tuple(
            _related(matched[first], word, matched[second])
            for first, word, second in asked.get("relations", ())
        ),
        positions=tuple(_placed(item, want) for want, item in pairs if {"position", "center"} & want.keys()),
        sizes=tuple(_sized(item, want["size"]) for want, item in pairs if "size" in want),
        textures=tuple(
            item is not None and item.texture == want["texture"] for want, item in pairs if "texture" in want
        ),
        background=_apart(seen.background, asked["background"]) if "background" in asked else None,
    )


def _matched(seen: Sequence[SeenObject], wanted: Sequence[Mapping[str, Any]]) -> list[SeenObject | None]:
    """The seen object for each asked one, or None; at most one each."""
    largest = sorted(seen, key=lambda item: -item.size)[:5]  # a shattered picture has too many orders to try
    apart = [
        [_distance(item, want["color"]) if "color" in want else 0.0 for want in wanted] for item in largest
    ]
    options = [*range(len(largest)), *[-1] * len(wanted)]  # -1: nothing

    def merit(choice: Sequence[int]) -> tuple[int, int, float]:
        there = [(item, want) for want, item in enumerate(choice) if item >= 0]
        right = sum(largest[item].shape == wanted[want]["shape"] for item, want in there)
        return right, len(there), -sum(apart[item][want] for item, want in there)

    best = max(permutations(options, len(wanted)), key=merit)
    return [largest[item] if item >= 0 else None for item in best]


def _distance(item: SeenObject | None, colour: str) -> float:
    return 100.0 if item is None else _apart(item.colour, colour)


def _apart(one: str, other: str) -> float:
    return float(delta_e_2000(rgb(one), rgb(other)))


def rgb(code: str) -> np.ndarray:
    """ "#RRGGBB" => (3,) in 0..255."""
    return np.array([int(code[i : i + 2], 16) for i in (1, 3, 5)], dtype=np.float64)


def _related(a: SeenObject | None, word: str, b: SeenObject | None) -> bool:
    """Whether `a` lies on that side of `b`: within 60 degrees of it, and further than a twentieth."""
    if a is None or b is None:
        return False
    right, below = {"left of": (1, 0), "right of": (-1, 0), "above": (0, 1), "below": (0, -1)}[word]
    across, down = b.x - a.x, b.y - a.y
    along, aside = across * right + down * below, abs(across * below + down * right)
    return along > 0.05 and along >= 0.577 * aside


def _placed(item: SeenObject | None, want: Mapping[str, Any]) -> bool:
    """Within the ninth of the picture that was named, or near the centre that was given."""
    if item is None:
        return False
    if "center" in want:
        x, y = want["center"]
        return max(abs(item.x - x), abs(item.y - y)) <= 3 * PLACE_SLACK
    words = want["position"].split()
    return _in_third(item.x, words, "left", "right") and _in_third(item.y, words, "top", "bottom")


def _in_third(value: float, words: Sequence[str], first: str, last: str) -> bool:
    if first in words:
        return value <= 0.4 + PLACE_SLACK
    if last in words:
        return value >= 0.6 - PLACE_SLACK
    return 0.4 - PLACE_SLACK <= value <= 0.6 + PLACE_SLACK


def _sized(item: SeenObject | None, word: str) -> bool:
    low, high = SIZES[word]
    return item is not None and 0.95 * low <= item.size <= 1.05 * high


# ---- edits -------------------------------------------------------------------------------------------------


def unchanged(edited: Tensor, reference: Tensor, mask: Tensor, border: int = 3) -> Tensor:
    """Mean absolute difference (B,) in 0..255 outside `mask`, the region that had to change.

    `edited` and `reference` uint8 (B, 3, H, W), `mask` bool (B, H, W), which is widened by `border` pixels,
    as an edge that moves by one is no change elsewhere. 0 where nothing is left to compare.
    """
    wide = torch.nn.functional.max_pool2d(mask[:, None].float(), 2 * border + 1, 1, border)  # (B, 1, H, W)
    rest = 1 - wide
    difference = (edited.float() - reference.float()).abs().mean(1, keepdim=True)
    return (difference * rest).sum((1, 2, 3)) / rest.sum((1, 2, 3)).clamp(min=1)


def edit_success(picture: PictureScore, change: float) -> bool:
    """Everything as asked, and the rest unchanged to CHANGE_LIMIT."""
    return picture.all_right and change <= CHANGE_LIMIT


# ---- many pictures -----------------------------------------------------------------------------------------


def summary(scores: Sequence[PictureScore], changes: ArrayLike | None = None) -> dict[str, Interval]:
    """Shares with Wilson's interval, one trial for each asked fact, and the median Delta E with a
    bootstrap's; facts that were never asked are left out. `changes` (n,) of `unchanged` adds the rows of
    edits."""
    if not scores:
        raise ValueError("no pictures to summarise; score at least one")
    facts = {
        "shape": [right for one in scores for right in one.shapes],
        "colour": [right for one in scores for right in one.colours],
        "count": [one.count for one in scores if one.count is not None],
        "relation": [right for one in scores for right in one.relations],
        "position": [right for one in scores for right in one.positions],
        "size": [right for one in scores for right in one.sizes],
        "texture": [right for one in scores for right in one.textures],
        "background": [one.background <= COLOUR_LIMIT for one in scores if one.background is not None],
        "all": [one.all_right for one in scores],
    }
    if changes is not None:
        moved = np.asarray(changes, dtype=np.float64)
        facts["unchanged"] = (moved <= CHANGE_LIMIT).tolist()
        facts["edit"] = [edit_success(one, float(by)) for one, by in zip(scores, moved, strict=True)]
    table = {name: wilson_interval(sum(right), len(right)) for name, right in facts.items() if right}
    distances = [distance for one in scores for distance in one.delta_e]
    return table | ({"median_delta_e": bootstrap_median(distances)} if len(distances) > 1 else {})


def bootstrap_median(
    values: ArrayLike, *, num_resamples: int = 2000, level: float = 0.95, seed: int = 0
) -> Interval:
    """The median of values (n,) with a percentile bootstrap."""
    numbers = np.asarray(values, dtype=np.float64)
    rows = np.random.default_rng(seed).integers(len(numbers), size=(num_resamples, len(numbers)))
    low, high = np.quantile(np.median(numbers[rows], axis=1), [(1 - level) / 2, (1 + level) / 2]).tolist()
    return Interval(
        estimate=float(np.median(numbers)),
        low=low,
        high=high,
        level=level,
        n=len(numbers),
        method="bootstrap of the median",
    )


# ---- colour ------------------------------------------------------------------------------------------------

_TO_XYZ = np.array(
    [[0.412453, 0.357580, 0.180423], [0.212671, 0.715160, 0.072169], [0.019334, 0.119193, 0.950227]]
)
_WHITE = np.array([0.95047, 1.0, 1.08883])  # D65, 2 degrees


def delta_e_2000(one: ArrayLike, other: ArrayLike) -> np.ndarray:
    """CIEDE2000 distance of sRGB colours (..., 3) in 0..255 => (...): 1 is barely seen, 100 black from white.

    Sharma, Wu and Dalal 2005, "The CIEDE2000 color-difference formula", equations 2 to 22.
    """
    l1, a1, b1 = np.moveaxis(_lab(one), -1, 0)
    l2, a2, b2 = np.moveaxis(_lab(other), -1, 0)
    chroma = (np.hypot(a1, b1) + np.hypot(a2, b2)) / 2
    stretch = 1 + 0.5 * (1 - _high(chroma))
    c1, c2 = np.hypot(a1 * stretch, b1), np.hypot(a2 * stretch, b2)
    h1, h2 = (np.arctan2(b, a * stretch) % (2 * np.pi) for a, b in ((a1, b1), (a2, b2)))
    grey = c1 * c2 == 0
    turn = np.where(grey, 0.0, (h2 - h1 + np.pi) % (2 * np.pi) - np.pi)
    hue_difference = 2 * np.sqrt(c1 * c2) * np.sin(turn / 2)
    lightness, c = (l1 + l2) / 2, (c1 + c2) / 2
    hue = np.where(grey, h1 + h2, h1 + turn / 2)  # the bisector of the smaller angle
    t = (
        1
        - 0.17 * np.cos(hue - np.pi / 6)
        + 0.24 * np.cos(2 * hue)
        + 0.32 * np.cos(3 * hue + np.pi / 30)
        - 0.20 * np.cos(4 * hue - 63 * np.pi / 180)
    )
    offset = (lightness - 50) ** 2
    scale_l = 1 + 0.015 * offset / np.sqrt(20 + offset)
    scale_c, scale_h = 1 + 0.045 * c, 1 + 0.015 * c * t
    degrees = np.degrees(hue) % 360
    rotation = -2 * _high(c) * np.sin(np.radians(60 * np.exp(-(((degrees - 275) / 25) ** 2))))
    dl, dc, dh = (l2 - l1) / scale_l, (c2 - c1) / scale_c, hue_difference / scale_h
    return np.sqrt(np.maximum(dl**2 + dc**2 + dh**2 + rotation * dc * dh, 0))


def _high(chroma: np.ndarray) -> np.ndarray:
    """0 for greys, 1 for strong colours."""
    return np.sqrt(chroma**7 / (chroma**7 + 25.0**7))


def _lab(colours: ArrayLike) -> np.ndarray:
    """sRGB (..., 3) in 0..255 => CIELAB under D65 (IEC 61966-2-1; CIE 15)."""
    c = np.asarray(colours, dtype=np.float64) / 255
    linear = np.where(c > 0.04045, ((c + 0.055) / 1.055) ** 2.4, c / 12.92)
    xyz = linear @ _TO_XYZ.T / _WHITE
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    x, y, z = np.moveaxis(f, -1, 0)
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)
