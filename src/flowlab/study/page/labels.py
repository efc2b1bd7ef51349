"""Where to write labels in a crowded figure: the place that covers least of what is there."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["Box", "around", "emptiest", "overlap"]

Box = tuple[float, float, float, float]
"""left, bottom, right, top, in pixels."""


def emptiest(candidates: Sequence[Box], taken: Sequence[Box], frame: Box) -> int:
    """Index of the candidate that overlaps `taken` least and stays inside `frame`; the first of equals."""

    def cost(box: Box) -> float:
        return overlap(box, taken) + 2 * (_area(box) - _shared_area(box, frame))

    return min(range(len(candidates)), key=lambda i: cost(candidates[i]))


def overlap(box: Box, taken: Sequence[Box]) -> float:
    """Area of `box` that is covered, in square pixels; what is covered twice counts twice."""
    return sum(_shared_area(box, other) for other in taken)


def around(x: float, y: float, width: float, height: float) -> Box:
    """The box of that size centred at (x, y)."""
    return x - width / 2, y - height / 2, x + width / 2, y + height / 2


def _shared_area(a: Box, b: Box) -> float:
    return _area((max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3])))


def _area(box: Box) -> float:
    return max(0.0, box[2] - box[0]) * max(0.0, box[3] - box[1])
