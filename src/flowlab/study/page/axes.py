"""Ranges, ticks and error bars that the figures share."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import plotly.graph_objects as go

__all__ = ["error_bar", "linear_room", "log_room", "log_ticks", "names_axis", "shift_ticks"]

_TICKS = (
    (1, 2, 5),
    (1, 1.5, 2, 3, 4, 5, 6, 8),
    (1, 1.2, 1.4, 1.6, 1.8, 2, 2.5, 3, 3.5, 4, 4.5, 5, 6, 7, 8, 9),
)


def log_ticks(low: float, high: float) -> dict[str, Any]:
    """Ticks of a log axis between two positive values: 1-2-5, or closer where fewer than four would fit."""
    ticks: list[float] = []
    for steps in _TICKS:
        powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        ticks = [step * 10.0**power for power in powers for step in steps]
        ticks = [tick for tick in ticks if low <= tick <= high]
        if len(ticks) >= 4:
            break
    return _ticks(ticks)


def shift_ticks(values: Iterable[float]) -> dict[str, Any]:
    """A tick at each value and none between."""
    return _ticks(sorted(set(values)))


def _ticks(values: list[float]) -> dict[str, Any]:
    return {"tickvals": values, "ticktext": [f"{value:g}" for value in values], "minor": {"ticks": ""}}


def linear_room(values: Iterable[float], share: float) -> list[float]:
    """A range that leaves `share` of its width free at both ends."""
    values = list(values)
    low, high = min(values), max(values)
    width = (high - low) or abs(high) or 1.0
    return [low - share * width, high + share * width]


def log_room(values: Iterable[float], factor: float = 1.12) -> tuple[float, float]:
    """A positive range with room of `factor` at both ends; 1 to 10 where no value is positive."""
    positive = [value for value in values if value > 0]
    low, high = (min(positive), max(positive)) if positive else (1.0, 10.0)
    return low / factor, high * factor


def error_bar(up: Iterable[float], colour: str, down: Iterable[float] | None = None) -> dict[str, Any]:
    """An error bar of those lengths, drawn only where there is an error; `down` None is as `up`."""
    above = [float(value) for value in up]
    below = above if down is None else [float(value) for value in down]
    return {
        "type": "data",
        "symmetric": False,
        "array": above,
        "arrayminus": below,
        "color": colour,
        "thickness": 1.4,
        "width": 3,
        "visible": any(value > 0 for value in [*above, *below]),
    }


def names_axis(figure: go.Figure, names: list[str]) -> None:
    """Make the vertical axis one of names, the first at the bottom."""
    figure.update_yaxes(type="category", categoryorder="array", categoryarray=names, title=None, ticks="")
    figure.update_yaxes(range=[-0.6, len(names) - 0.4], showline=False)
