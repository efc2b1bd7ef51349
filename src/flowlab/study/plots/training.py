"""FID over training (Fig. 2), drawn from `analysis.curves` and `analysis.seed_means`."""

from __future__ import annotations

import math
from collections.abc import Iterable

import pandas as pd
import plotly.graph_objects as go

from flowlab.study.analysis import CURVES
from flowlab.study.page.axes import error_bar, log_room, log_ticks
from flowlab.study.page.html import Key, Panel
from flowlab.study.page.style import INK, ae_style, blank_figure, faint, ordered
from flowlab.study.plots.words import setting

__all__ = ["curve_keys", "training"]

CURVE_LOOKS = {"best": ("solid", 2.6), "no shift": ("dot", 1.8), "own shift": ("dash", 1.8)}


def training(curves: pd.DataFrame, grid: pd.DataFrame, label: str) -> list[Panel]:
    """One panel per autoencoder: its curves, and every other setting of the grid faint behind.

    `curves` has the columns of `analysis.curves`, `grid` those of `analysis.seed_means`. Traces carry meta
    "repa" and "curve"; markers are open without REPA and full with it. All panels share their axes.
    """
    bounds = log_room([*curves["fid_low"], *curves["fid_high"]])
    last = float(curves["step"].max())
    panels = []
    for ae in ordered(curves["ae"]):
        figure = blank_figure(x="training steps", y=label, height=300, scales="linear-log")
        for repa, part in grid[grid["ae"] == ae].groupby("repa"):
            figure.add_trace(_faint_grid(part, str(repa), ae_style(ae).colour, label))
        own = curves[curves["ae"] == ae]
        for curve in [name for name in reversed(CURVES) if name in set(own["curve"])]:
            for repa, part in own[own["curve"] == curve].groupby("repa"):
                figure.add_trace(_curve(part.sort_values("step"), str(repa), curve, ae, label))
        figure.update_yaxes(range=[math.log10(value) for value in bounds], **log_ticks(*bounds))
        figure.update_xaxes(range=[0, 1.04 * last], nticks=6)
        panels.append(Panel(title=ae_style(ae).label, figure=figure, ae=ae))
    return panels


def _faint_grid(part: pd.DataFrame, repa: str, colour: str, label: str) -> go.Scatter:
    """All settings as one trace, its lines parted by gaps."""
    x: list[float | None] = []
    y: list[float | None] = []
    text: list[str] = []
    for _, line in part.groupby(["trainp", "trainshift", "sampleshift"]):
        line = line.sort_values("step")
        x += [*line["step"].tolist(), None]
        y += [*line["fid"].round(3).tolist(), None]
        text += [setting(line.iloc[0].to_dict())] * (len(line) + 1)
    return go.Scatter(
        x=x,
        y=y,
        mode="lines",
        line={"color": faint(colour, 0.13), "width": 1},
        text=text,
        hovertemplate=f"{label} %{{y:.4g}} at step %{{x}}<br>%{{text}}<extra></extra>",
        meta={"repa": repa, "curve": "grid"},
    )


def _curve(part: pd.DataFrame, repa: str, curve: str, ae: str, label: str) -> go.Scatter:
    dash, width = CURVE_LOOKS[curve]
    colour = ae_style(ae).colour if curve == "best" else INK
    texts = [
        f"{CURVES[curve]}<br>{setting(line)}<br>seeds {line['fid_low']:.4g} to {line['fid_high']:.4g}"
        for line in part.to_dict("records")
    ]
    where = f"<b>{ae_style(ae).label}</b> · {label} %{{y:.4g}} at step %{{x}}"
    return go.Scatter(
        x=part["step"].tolist(),
        y=part["fid"].round(4).tolist(),
        error_y=error_bar(part["fid_high"] - part["fid"], colour, part["fid"] - part["fid_low"]),
        mode="lines+markers",
        line={"color": colour, "width": width, "dash": dash},
        marker={"size": 6, "symbol": "circle-open" if repa == "none" else "circle", "color": colour},
        text=texts,
        hovertemplate=f"{where}<br>%{{text}}<extra></extra>",
        meta={"repa": repa, "curve": curve},
    )


def curve_keys(names: Iterable[str]) -> list[Key]:
    """Legend of the training curves' dashes, for those in `names`."""
    present = set(names)
    keys = [
        Key(label=words, colour=INK, name="curve", value=name, dash=CURVE_LOOKS[name][0])
        for name, words in CURVES.items()
        if name in present
    ]
    return [*keys, Key(label="every other setting", colour=faint(INK, 0.35), name="curve", value="grid")]
