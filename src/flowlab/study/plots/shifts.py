"""Figures about the shifts: the schedules as curves, the fitted optima, the sweep over samplers and steps.

The curves are drawn from formulas, the rest from the tables of `study.effects`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pandas as pd
import plotly.graph_objects as go
import torch
from torch import Tensor

from flowlab.flow.schedules import sampling_grid, shift
from flowlab.flow.times import density
from flowlab.study.grid import DISTRIBUTIONS
from flowlab.study.page.axes import log_ticks, shift_ticks
from flowlab.study.page.html import Key, Panel
from flowlab.study.page.style import INK, ae_style, blank_figure, faint, ordered, shift_colours

__all__ = ["densities", "optima", "shift_keys", "step_keys", "sweep", "sweep_peaks", "time_shifts"]

_NUM_POINTS = 401
_KINDS = {"trainshift": "best training shift", "sampleshift": "best sampling shift"}
_DASHES = {"euler": "solid", "heun": "dot"}


# ---- schedules from formulas -------------------------------------------------------------------------------


def densities(shifts: Sequence[float]) -> list[Panel]:
    """One panel per training distribution: p(t) at each training shift."""
    t = torch.linspace(0, 1, _NUM_POINTS, dtype=torch.float64)
    panels = []
    for name, title in DISTRIBUTIONS.items():
        figure = blank_figure(x="time t: 0 = data, 1 = noise", y="density p(t)", height=270)
        for alpha, colour in shift_colours(shifts).items():
            figure.add_trace(_curve(t, density(name, t, alpha=alpha), alpha, colour, "p(t)"))
        figure.update_yaxes(range=[0, 7.2])
        panels.append(Panel(title=f"{name}: {title}", figure=figure))
    return panels


def time_shifts(shifts: Sequence[float], *, num_steps: int = 50) -> list[Panel]:
    """s(alpha, t), and how long each of the sampler's steps is under it."""
    t = torch.linspace(0, 1, _NUM_POINTS, dtype=torch.float64)
    curves = blank_figure(x="even time t", y="shifted time s(α, t)", height=300)
    steps = blank_figure(
        x="time at which the step starts", y="length of the step", height=300, scales="linear-log"
    )
    for alpha, colour in shift_colours(shifts).items():
        curves.add_trace(_curve(t, shift(alpha, t), alpha, colour, "s"))
        grid = sampling_grid(num_steps, alpha)
        steps.add_trace(
            _curve(grid[:-1], grid[:-1] - grid[1:], alpha, colour, "length", mode="lines+markers")
        )
    curves.add_shape(
        type="line", x0=0, y0=0, x1=1, y1=1, line={"color": INK, "width": 1, "dash": "dot"}, layer="below"
    )
    steps.update_yaxes(tickvals=[0.005, 0.01, 0.02, 0.05, 0.1, 0.2])
    return [
        Panel(title="time shift", figure=curves),
        Panel(title=f"the {num_steps} steps of the sampler", figure=steps),
    ]


def shift_keys(shifts: Sequence[float]) -> list[Key]:
    """Legend of the shifts' colours."""
    return [
        Key(label=f"α = {alpha:g}", colour=colour, name="shift", value=f"{alpha:g}")
        for alpha, colour in shift_colours(shifts).items()
    ]


def _curve(x: Tensor, y: Tensor, alpha: float, colour: str, name: str, mode: str = "lines") -> go.Scatter:
    return go.Scatter(
        x=[round(value, 5) for value in x.tolist()],
        y=[round(value, 5) for value in y.tolist()],
        mode=mode,
        line={"color": colour, "width": 2},
        marker={"size": 4, "color": colour},
        meta={"shift": f"{alpha:g}"},
        hovertemplate=f"α = {alpha:g}<br>t = %{{x:.3f}}<br>{name} = %{{y:.3f}}<extra></extra>",
    )


# ---- fitted optima -----------------------------------------------------------------------------------------


def optima(table: pd.DataFrame, shifts: Sequence[float]) -> list[Panel]:
    """One panel per kind of shift: each autoencoder's fitted best shift with its 95 % interval.

    `table` is `effects.optimum_shifts`. Large markers pool the families, small ones are the families; an open
    end of an interval leaves the figure; the grey tick is the rule sqrt(m/n).
    """
    panels = []
    low, high = min(shifts) / 1.25, max(shifts) * 1.25
    for kind, title in _KINDS.items():
        own = table[table["kind"] == kind]
        names = ordered(own["ae"])
        figure = blank_figure(x="shift α", y="", height=100 + 44 * max(1, len(names)), scales="log-linear")
        figure.add_trace(_rules(own, names))
        for line in own.to_dict("records"):
            figure.add_trace(_optimum(line, names, low, high))
        figure.update_xaxes(range=[math.log10(low), math.log10(high)], **shift_ticks(shifts))
        labels = [ae_style(ae).label for ae in names]
        figure.update_yaxes(
            tickvals=list(range(len(names))), ticktext=labels, ticks="", showline=False, showgrid=False
        )
        figure.update_yaxes(range=[len(names) - 0.5, -0.5], title=None)
        panels.append(Panel(title=title, figure=figure))
    return panels


_PLACES = {"all": -0.12, "ts": 0.14, "ln": 0.24, "pln": 0.34}


def _optimum(line: dict[str, Any], names: list[str], low: float, high: float) -> go.Scatter:
    style, pooled = ae_style(line["ae"]), line["trainp"] == "all"
    found = line["status"] not in ("undetermined", "no minimum")
    start, end = max(line["low"], low), min(line["high"], high)
    family = "all families" if pooled else line["trainp"]
    says = f"{line['alpha']:.3g}" if line["status"] == "interior" else line["status"]
    says += f" ({_bound(line['low'], 'below the grid')} to {_bound(line['high'], 'above the grid')})"
    counts = f"{line['num_points']} points in {line['num_blocks']} curves; rule √(m/n) {line['rule']:.3g}"
    return go.Scatter(
        x=[start, line["alpha"], end],
        y=[names.index(line["ae"]) + _PLACES.get(line["trainp"], 0.4)] * 3,
        mode="lines+markers",
        line={
            "color": style.colour if pooled else faint(style.colour, 0.55),
            "width": 2.4 if pooled else 1.2,
        },
        marker={
            "size": [0, 11 if pooled else 6, 0],
            "symbol": "circle" if found else "circle-open",
            "color": style.colour if pooled else faint(style.colour, 0.7),
            "opacity": 1,
            "line": {"width": [0, 0 if found else 2, 0]},
        },
        hovertemplate=f"<b>{style.label}</b>, {family}<br>{says}<br>{counts}<extra></extra>",
    )


def _bound(value: float, beyond: str) -> str:
    return f"{value:.3g}" if 0 < value < math.inf else beyond


def _rules(own: pd.DataFrame, names: list[str]) -> go.Scatter:
    rule = own.drop_duplicates("ae").set_index("ae")["rule"]
    return go.Scatter(
        x=[float(rule[ae]) for ae in names],
        y=[names.index(ae) - 0.12 for ae in names],
        mode="markers",
        marker={"size": 18, "symbol": "line-ns", "color": INK, "line": {"width": 2, "color": INK}},
        hovertemplate="rule √(m/n): %{x:.3g}<extra></extra>",
    )


# ---- the sweep over samplers and steps ---------------------------------------------------------------------


def sweep(table: pd.DataFrame, label: str) -> list[Panel]:
    """One panel per autoencoder: FID against the sampling shift, a line per number of steps and sampler.

    `table` has one row per ae, sampler, num_steps, sampleshift with fid. Traces have meta "sampler", "steps".
    """
    bounds = table["fid"].min() / 1.1, table["fid"].max() * 1.1
    colours = _step_colours(table)
    shifts = sorted(table["sampleshift"].unique())
    panels = []
    for ae in ordered(table["ae"]):
        figure = blank_figure(x="sampling shift α", y=label, height=300, scales="log-log")
        for (sampler, steps), part in table[table["ae"] == ae].groupby(["sampler", "num_steps"]):
            figure.add_trace(
                _sweep_line(part.sort_values("sampleshift"), str(sampler), int(steps), colours, label)
            )
        figure.update_xaxes(**shift_ticks(shifts))
        figure.update_yaxes(range=[math.log10(value) for value in bounds], **log_ticks(*bounds))
        panels.append(Panel(title=ae_style(ae).label, figure=figure, ae=ae))
    return panels


def sweep_peaks(table: pd.DataFrame, shifts: Sequence[float]) -> list[Panel]:
    """One panel per sampler: the fitted best sampling shift against the number of steps.

    `table` is `effects.sweep_optima`. An interval that is open on a side reaches the edge of the measured
    `shifts`; markers stand a little apart so that equal values stay visible.
    """
    panels = []
    steps = sorted(table["num_steps"].unique())
    low, high = min(shifts) / 1.25, max(shifts) * 1.25
    for sampler in dict.fromkeys(table["sampler"]):
        own = table[table["sampler"] == sampler]
        figure = blank_figure(
            x="steps of the sampler", y="fitted best sampling shift α", height=300, scales="log-log"
        )
        for place, ae in enumerate(ordered(own["ae"])):
            part = own[own["ae"] == ae].sort_values("num_steps")
            figure.add_trace(_peaks(part, ae, low, high, apart=1 + 0.03 * place))
        figure.update_xaxes(**shift_ticks(steps))
        figure.update_yaxes(range=[math.log10(low), math.log10(high)], **shift_ticks(shifts))
        panels.append(Panel(title=str(sampler).capitalize(), figure=figure))
    return panels


def step_keys(table: pd.DataFrame) -> list[Key]:
    """Legend of the colours of the sampler's numbers of steps."""
    return [
        Key(label=f"{steps} steps", colour=colour, name="steps", value=str(steps))
        for steps, colour in _step_colours(table).items()
    ]


def _step_colours(table: pd.DataFrame) -> dict[int, str]:
    colours = shift_colours([float(steps) for steps in table["num_steps"].unique()])
    return {int(steps): colour for steps, colour in colours.items()}


def _sweep_line(
    part: pd.DataFrame, sampler: str, steps: int, colours: dict[int, str], label: str
) -> go.Scatter:
    return go.Scatter(
        x=part["sampleshift"].tolist(),
        y=part["fid"].round(4).tolist(),
        mode="lines+markers",
        line={"color": colours[steps], "width": 2, "dash": _DASHES.get(sampler, "dash")},
        marker={"size": 6, "color": colours[steps]},
        hovertemplate=f"{sampler}, {steps} steps, shift %{{x}}<br>{label} %{{y:.4g}}<extra></extra>",
        meta={"sampler": sampler, "steps": str(steps)},
    )


def _peaks(part: pd.DataFrame, ae: str, low: float, high: float, apart: float) -> go.Scatter:
    style = ae_style(ae)
    up = (part["high"].clip(upper=high) - part["alpha"]).tolist()
    down = (part["alpha"] - part["low"].clip(lower=low)).tolist()
    texts = [
        f"{line['num_steps']} steps, α {line['alpha']:.3g}, {line['status']}<br>{line['num_points']} points"
        for line in part.to_dict("records")
    ]
    return go.Scatter(
        x=(part["num_steps"] * apart).tolist(),
        y=part["alpha"].tolist(),
        error_y={
            "type": "data",
            "array": up,
            "arrayminus": down,
            "color": style.colour,
            "thickness": 1.2,
            "width": 3,
        },
        mode="lines+markers",
        line={"color": style.colour, "width": 1.8},
        marker={"size": 8, "symbol": style.symbol, "color": style.colour},
        text=texts,
        hovertemplate=f"<b>{style.label}</b>, %{{text}}<extra></extra>",
        meta={"ae": ae},
    )
