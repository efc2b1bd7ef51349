"""Learnability against fidelity (Fig. 1): the best FID of each autoencoder over its reconstruction.

Drawn from `analysis.fidelity`. Lines carry the change of FID along them: dotted from the other autoencoders
to FLUX.2, as in the published figure; full arrows from a latent to its twin with semantic alignment.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from flowlab.study.page.axes import error_bar, linear_room, log_room, log_ticks
from flowlab.study.page.html import Panel
from flowlab.study.page.labels import Box, around, emptiest, overlap
from flowlab.study.page.style import INK, ae_style, blank_figure
from flowlab.study.plots.words import setting

__all__ = ["learnability"]

REFERENCE = "flux2"
OTHERS = ("sd", "flux1", "rae")
TWINS = (("flux1", "flux1_semantic"), ("flux2_plain", "flux2"))
AXES = {
    "perceptual": ("perceptual distance, {features}", "lower left is better ↙"),
    "psnr": ("PSNR, dB", "lower right is better ↘"),
}
FRAME: Box = (0.0, 0.0, 440.0, 340.0)  # about the size of the axes on a desktop, pixels
LOG_FROM = 2.0  # ratio of the FIDs from which their axis is logarithmic


def learnability(table: pd.DataFrame, label: str) -> list[Panel]:
    """FID over perceptual distance and over PSNR, of the autoencoders with a reconstruction row."""
    return [
        _panel(table.dropna(subset=[column]), column, label) for column in AXES if table[column].notna().any()
    ]


def _panel(table: pd.DataFrame, column: str, label: str) -> Panel:
    title, better = AXES[column]
    title = title.format(features=", ".join(sorted(set(table["perceptual_features"]))))
    space = _space(table, column)
    figure = blank_figure(x=title, y=label, height=420, scales="linear-log" if space.log else "linear-linear")
    lines = _lines(set(table["ae"]))
    by_name = table.set_index("ae")
    for start, end in lines:
        figure.add_trace(_line(by_name, column, start, end))
    for row in table.to_dict("records"):
        changes = [
            f"{ae_style(b).label}: {_change(row['fid'], by_name.at[b, 'fid'])}"
            for a, b in lines
            if a == row["ae"]
        ]
        figure.add_trace(_point(row, column, label, title, changes))
    _write_labels(figure, by_name, column, space, lines)
    figure.update_xaxes(range=space.x, nticks=7)
    ticks = log_ticks(*(10**value for value in space.y)) if space.log else {"nticks": 7}
    figure.update_yaxes(range=space.y, **ticks)
    _note_better(figure, better, right=column == "psnr")
    return Panel(title="", figure=figure)


def _point(row: dict[str, Any], column: str, label: str, title: str, changes: list[str]) -> go.Scatter:
    style, error = ae_style(row["ae"]), row[f"{column}_se"]
    hover = (
        f"<b>{style.label}</b><br>{label} {row['fid']:.4g} (seeds {row['fid_low']:.4g} to "
        f"{row['fid_high']:.4g})<br>{title} {row[column]:.4g} ± {error:.2g}<br>{setting(row)}"
    )
    hover = "<br>".join([hover, *changes])
    return go.Scatter(
        x=[row[column]],
        y=[row["fid"]],
        error_x=error_bar([error], style.colour),
        error_y=error_bar([row["fid_high"] - row["fid"]], style.colour, [row["fid"] - row["fid_low"]]),
        mode="markers",
        marker={
            "size": 12,
            "symbol": style.symbol,
            "color": style.colour,
            "line": {"width": 2, "color": style.colour},
        },
        meta={"ae": row["ae"]},
        hovertemplate=f"{hover}<extra></extra>",
    )


# ---- lines between autoencoders ----------------------------------------------------------------------------


def _lines(present: set[str]) -> list[tuple[str, str]]:
    pairs = [*((ae, REFERENCE) for ae in OTHERS), *TWINS]
    return [pair for pair in pairs if set(pair) <= present]


def _line(table: pd.DataFrame, column: str, start: str, end: str) -> go.Scatter:
    twins = (start, end) in TWINS
    colour = ae_style(end).colour if twins else INK
    return go.Scatter(
        x=[table.at[start, column], table.at[end, column]],
        y=[table.at[start, "fid"], table.at[end, "fid"]],
        mode="lines+markers",
        line={"color": colour, "width": 1.4, "dash": "solid" if twins else "dot"},
        marker={
            "symbol": "arrow",
            "size": [0, 9 if twins else 0],
            "angleref": "previous",
            "standoff": [0, 9],
            "color": colour,
            "opacity": 1,
            "line": {"width": 0},
        },
        opacity=0.8,
        hoverinfo="skip",
    )


# ---- labels ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class _Space:
    """The axes' ranges, and where a point falls on the nominal frame."""

    x: list[float]
    y: list[float]
    """log10 of FID where `log`."""
    log: bool

    def pixels(self, x: float, fid: float) -> tuple[float, float]:
        y = math.log10(fid) if self.log else fid
        return (
            FRAME[2] * (x - self.x[0]) / (self.x[1] - self.x[0]),
            FRAME[3] * (y - self.y[0]) / (self.y[1] - self.y[0]),
        )


def _space(table: pd.DataFrame, column: str) -> _Space:
    low, high = table["fid_low"].min(), table["fid_high"].max()
    log = low > 0 and high / low > LOG_FROM
    y = (
        [math.log10(value) for value in log_room([low, high], 1.25)]
        if log
        else linear_room([low, high], 0.16)
    )
    return _Space(x=linear_room(table[column], 0.16), y=y, log=bool(log))


def _write_labels(
    figure: go.Figure, table: pd.DataFrame, column: str, space: _Space, lines: Sequence[tuple[str, str]]
) -> None:
    """Names beside their markers and changes along their lines, each where it covers least.

    A change that finds no free place on its line is left to the marker's hover text.
    """
    spots = {ae: space.pixels(table.at[ae, column], table.at[ae, "fid"]) for ae in table.index}
    marks = [around(*spot, 18, 18) for spot in spots.values()]
    marks += [_whisker(table, ae, column, space) for ae in spots]
    strokes = [around(*_between(spots[a], spots[b], i / 15), 4, 4) for a, b in lines for i in range(16)]
    for ae, spot in spots.items():
        width = 7.0 * len(ae_style(ae).label)
        boxes = [around(spot[0] + dx, spot[1] + dy, width, 14) for dx, dy in _sides(width)]
        chosen = emptiest(boxes, [*marks, *strokes], FRAME)
        marks.append(boxes[chosen])
        place = table.at[ae, column], table.at[ae, "fid"]
        _annotate(figure, space, *place, f"<b>{ae_style(ae).label}</b>", shift=_sides(width)[chosen])
    for start, end in lines:
        boxes = [around(*_between(spots[start], spots[end], share), 36, 13) for share in _SHARES]
        chosen = emptiest(boxes, marks, FRAME)
        if overlap(boxes[chosen], marks) < 40:
            marks.append(boxes[chosen])
            _write_change(figure, table, column, space, (start, end), _SHARES[chosen])


_SHARES = (0.24, 0.32, 0.4, 0.48, 0.56, 0.16, 0.64)  # the start first: several lines share an end


def _sides(width: float) -> list[tuple[float, float]]:
    """Places of a name of that width around its marker, in pixels, the preferred first."""
    far = 12 + width / 2
    near = 8 + width / 2
    return [(far, 0), (-far, 0), (0, 18), (0, -18), (near, 14), (-near, 14), (near, -14), (-near, -14)]


def _whisker(table: pd.DataFrame, ae: str, column: str, space: _Space) -> Box:
    x, low = space.pixels(table.at[ae, column], table.at[ae, "fid_low"])
    _, high = space.pixels(table.at[ae, column], table.at[ae, "fid_high"])
    return x - 2, low, x + 2, high


def _between(a: tuple[float, float], b: tuple[float, float], share: float) -> tuple[float, float]:
    return a[0] + share * (b[0] - a[0]), a[1] + share * (b[1] - a[1])


def _write_change(
    figure: go.Figure, table: pd.DataFrame, column: str, space: _Space, pair: tuple[str, str], share: float
) -> None:
    x, y = ([float(table.at[ae, name]) for ae in pair] for name in (column, "fid"))
    text = _change(y[0], y[1])
    fid = y[0] ** (1 - share) * y[1] ** share if space.log else y[0] + share * (y[1] - y[0])
    _annotate(figure, space, x[0] + share * (x[1] - x[0]), fid, text, name="backed")


def _change(start: float, end: float) -> str:
    return f"{100 * (end / start - 1):+.0f} %".replace("-", "−")


def _annotate(
    figure: go.Figure,
    space: _Space,
    x: float,
    fid: float,
    text: str,
    *,
    shift: tuple[float, float] = (0.0, 0.0),
    name: str = "label",
) -> None:
    figure.add_annotation(
        x=x,
        y=math.log10(fid) if space.log else fid,
        text=text,
        showarrow=False,
        xshift=shift[0],
        yshift=shift[1],
        font={"size": 12 if name == "label" else 11.5},
        borderpad=1,
        name=name,
    )


def _note_better(figure: go.Figure, text: str, *, right: bool) -> None:
    figure.add_annotation(
        text=text,
        xref="paper",
        yref="paper",
        x=0.99 if right else 0.01,
        y=0.01,
        xanchor="right" if right else "left",
        yanchor="bottom",
        showarrow=False,
        font={"size": 11.5},
        name="quiet",
    )
