"""Names, colours and markers of the report: one look per autoencoder, the same in every figure and table.

Colours are the Okabe-Ito set (distinguishable under the common colour blindnesses); a control wears a colour
near its parent's. Every autoencoder has a marker of its own: colour never carries a meaning alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from plotly.colors import sample_colorscale
from plotly.graph_objects import Figure

from flowlab.core.choices import lookup

__all__ = [
    "INK",
    "AutoencoderStyle",
    "ae_style",
    "blank_figure",
    "faint",
    "ordered",
    "repa_label",
    "shift_colours",
]


@dataclass(frozen=True, kw_only=True)
class AutoencoderStyle:
    """The look of one autoencoder."""

    label: str
    """Name shown to the reader."""
    colour: str
    """Hex colour, legible on white and on near-black."""
    symbol: str
    """Plotly marker name."""


def _style(label: str, colour: str, symbol: str) -> AutoencoderStyle:
    return AutoencoderStyle(label=label, colour=colour, symbol=symbol)


# In order of the channels per token, a control before the one it isolates.
_AUTOENCODERS: dict[str, AutoencoderStyle] = {
    "sd":             _style("SD",                "#009e73", "circle"),
    "flux1":          _style("FLUX.1",            "#e69f00", "square"),
    "flux1_semantic": _style("FLUX.1 + semantic", "#d55e00", "square-open"),
    "flux2_plain":    _style("FLUX.2 plain",      "#56b4e9", "diamond-open"),
    "flux2":          _style("FLUX.2",            "#0072b2", "diamond"),
    "rae":            _style("RAE",               "#cc79a7", "triangle-up"),
}  # fmt: skip
_OTHERS = ("#8c6bb1", "#7a8b00", "#a0522d", "#5f7f95")  # for autoencoders that somebody adds

INK = "#7d8790"
"""Neutral line colour, legible on both themes."""


def ordered(names: Iterable[str]) -> list[str]:
    """Distinct autoencoder names: the known ones in the report's order, then the others by name."""
    present = set(names)
    return [name for name in _AUTOENCODERS if name in present] + sorted(present - _AUTOENCODERS.keys())


def ae_style(name: str) -> AutoencoderStyle:
    """The look of an autoencoder; an unknown one shows its own name in a spare colour that stays the same."""
    if name in _AUTOENCODERS:
        return _AUTOENCODERS[name]
    return _style(name, _OTHERS[sum(name.encode()) % len(_OTHERS)], "x")


def repa_label(repa: str) -> str:
    """How the report writes the column `repa`."""
    return "no REPA" if repa == "none" else f"REPA ({repa})"


def faint(colour: str, opacity: float) -> str:
    """Hex colour -> the same with an opacity in 0..1, as a CSS rgba()."""
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},{opacity:g})"


def shift_colours(shifts: Sequence[float]) -> dict[float, str]:
    """One colour per shift, from cold to warm, legible on both themes."""
    places = [i / max(1, len(shifts) - 1) for i in range(len(shifts))]
    return dict(zip(sorted(shifts), sample_colorscale(_COLD_TO_WARM, places), strict=True))


_COLD_TO_WARM = ["#4a6fd0", "#8a6cc4", "#c0669c", "#dc7a5e", "#dd9a2b"]


def blank_figure(*, x: str, y: str, height: int = 320, scales: str = "linear-linear") -> Figure:
    """An empty plotly figure with the report's axes; the page sets text and grid colours, theme by theme."""
    x_type, y_type = lookup(_SCALES, scales, "pair of axis scales")
    figure = Figure()
    figure.update_layout(
        template="none",
        height=height,
        margin={"l": 58, "r": 14, "t": 10, "b": 48},
        showlegend=False,
        hovermode="closest",
        hoverlabel={"align": "left", "font": {"size": 12}},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"size": 12},
    )
    figure.update_xaxes(type=x_type, **_axis(x))
    figure.update_yaxes(type=y_type, **_axis(y))
    return figure


_SCALES: dict[str, tuple[str, str]] = {
    "linear-linear": ("linear", "linear"),
    "log-linear": ("log", "linear"),
    "linear-log": ("linear", "log"),
    "log-log": ("log", "log"),
    "category-log": ("category", "log"),
}


def _axis(title: str) -> dict[str, Any]:
    return {
        "title": {"text": title, "standoff": 8, "font": {"size": 12}},
        "showline": True,
        "linewidth": 1,
        "ticks": "outside",
        "ticklen": 4,
        "zeroline": False,
        "gridwidth": 1,
        "automargin": True,
    }
