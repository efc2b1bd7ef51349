"""Figures about one factor at a time: its levels, what the worst of them loses, and paired changes.

Nothing is computed here beyond what an axis needs.
"""

from __future__ import annotations

import math
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from flowlab.study.analysis import FACTORS
from flowlab.study.grid import DISTRIBUTIONS
from flowlab.study.page.axes import error_bar, linear_room, log_room, log_ticks, names_axis, shift_ticks
from flowlab.study.page.html import Panel
from flowlab.study.page.style import INK, ae_style, blank_figure, ordered, repa_label

__all__ = ["effects", "sensitivity_panels", "sensitivity_shares"]


# ---- levels ------------------------------------------------------------------------------------------------


def sensitivity_panels(tables: dict[str, pd.DataFrame], label: str) -> list[Panel]:
    """One panel per factor with several levels: FID of each level, a line per autoencoder.

    `tables` maps a REPA setting to `analysis.sensitivity_levels`; traces carry meta "repa" and "ae".
    """
    whole = pd.concat(tables.values())
    bounds = log_room([*whole["fid_low"], *whole["fid_high"]])
    panels = []
    for factor, title in FACTORS.items():
        if whole[whole["factor"] == factor]["level"].nunique() < 2:
            continue
        numeric = factor != "trainp"
        scales = "log-log" if numeric else "category-log"
        figure = blank_figure(x=f"{title} α" if numeric else title, y=label, height=300, scales=scales)
        for repa, table in tables.items():
            own = table[table["factor"] == factor]
            for ae in ordered(own["ae"]):
                figure.add_trace(_levels(own[own["ae"] == ae], ae, repa, numeric, label))
        if numeric:
            figure.update_xaxes(**shift_ticks(whole[whole["factor"] == factor]["level"].astype(float)))
        else:
            figure.update_xaxes(categoryorder="array", categoryarray=list(DISTRIBUTIONS), range=[-0.3, 2.3])
        figure.update_yaxes(range=[math.log10(value) for value in bounds], **log_ticks(*bounds))
        panels.append(Panel(title=title, figure=figure))
    return panels


def _levels(part: pd.DataFrame, ae: str, repa: str, numeric: bool, label: str) -> go.Scatter:
    places = part["level"].astype(float) if numeric else part["level"].map(list(DISTRIBUTIONS).index)
    part = part.assign(place=places).sort_values("place")
    style = ae_style(ae)
    hover = f"<b>{style.label}</b>, {repa_label(repa)}<br>level %{{x}}: {label} %{{y:.4g}}<extra></extra>"
    return go.Scatter(
        x=part["place"].tolist() if numeric else part["level"].tolist(),
        y=part["fid"].round(4).tolist(),
        error_y=error_bar(part["fid_high"] - part["fid"], style.colour, part["fid"] - part["fid_low"]),
        mode="lines+markers",
        line={"color": style.colour, "width": 1.8},
        marker={"size": 8, "symbol": style.symbol, "color": style.colour},
        hovertemplate=hover,
        meta={"ae": ae, "repa": repa},
    )


# ---- what a factor is worth --------------------------------------------------------------------------------


def sensitivity_shares(table: pd.DataFrame, published: pd.DataFrame) -> list[Panel]:
    """One panel per factor with several levels: what the worst loses against the best, in percent of it.

    `table` is `analysis.sensitivity`, `published` has the columns ae, factor, value (a share).
    Full markers and numbers are ours, small rings the same with levels chosen on the other seeds, grey bars
    are published.
    """
    panels = []
    for factor, title in FACTORS.items():
        own = table[(table["factor"] == factor) & (table["num_levels"] > 1)]
        if own.empty:
            continue
        names = ordered(own["ae"])[::-1]
        figure = blank_figure(x="share lost, % of the worst", y="", height=80 + 30 * len(names))
        said = published[(published["factor"] == factor) & published["ae"].isin(names)]
        figure.add_trace(_published_bars(said))
        for line in own.to_dict("records"):
            figure.add_trace(_share(line))
            figure.add_annotation(**_written_share(line))
        names_axis(figure, [ae_style(ae).label for ae in names])
        figure.update_xaxes(range=[-3, 124], tickvals=[0, 25, 50, 75, 100])
        panels.append(Panel(title=title, figure=figure))
    return panels


def _share(line: dict[str, Any]) -> go.Scatter:
    style, held_out = ae_style(line["ae"]), line["held_out"]
    hover = (
        f"<b>{style.label}</b><br>best {line['best_level']}, worst {line['worst_level']} "
        f"of {line['num_levels']} levels<br>{100 * line['of_worst']:.1f} % of the worst, "
        f"{100 * line['of_best']:.1f} % of the best"
    )
    if not math.isnan(held_out):
        hover += f"<br>{100 * held_out:.1f} % with levels chosen on the other seeds"
    return go.Scatter(
        x=[100 * line["of_worst"], None if math.isnan(held_out) else 100 * held_out],
        y=[style.label] * 2,
        mode="markers",
        marker={
            "size": [11, 7],
            "symbol": [style.symbol, "circle-open"],
            "color": style.colour,
            "opacity": 1,
            "line": {"width": 1.8, "color": style.colour},
        },
        hovertemplate=f"{hover}<extra></extra>",
    )


def _written_share(line: dict[str, Any]) -> dict[str, Any]:
    return {
        "x": 124,
        "y": ae_style(line["ae"]).label,
        "text": f"{100 * line['of_worst']:.0f} %",
        "xanchor": "right",
        "showarrow": False,
        "font": {"size": 12},
    }


def _published_bars(table: pd.DataFrame) -> go.Scatter:
    return go.Scatter(
        x=(100 * table["value"]).tolist(),
        y=[ae_style(ae).label for ae in table["ae"]],
        mode="markers",
        marker={"size": 14, "symbol": "line-ns", "line": {"width": 2.5, "color": INK}, "color": INK},
        hovertemplate="%{y}, published: %{x:.1f} %<extra></extra>",
    )


# ---- paired effects ----------------------------------------------------------------------------------------


def effects(table: pd.DataFrame, label: str) -> list[Panel]:
    """The change of FID in percent with its 95 % interval, from `effects.comparisons`.

    One panel per effect that exists within an autoencoder, and one for all that compare two of them; the
    panels share their axis.
    """
    between = table["ae"].str.contains("/")
    inside = table[~between]
    groups = [
        (effect, inside[inside["effect"] == effect], "ae") for effect in dict.fromkeys(inside["effect"])
    ]
    groups += [("one latent space against another", table[between], "effect")] if between.any() else []
    reach = linear_room([0.0, *(100 / table["high"] - 100), *(100 / table["low"] - 100)], 0.06)
    return [_effects_panel(str(title), part.iloc[::-1], names, reach, label) for title, part, names in groups]


def _effects_panel(title: str, part: pd.DataFrame, names_from: str, reach: list[float], label: str) -> Panel:
    figure = blank_figure(x=f"change of {label}, %", y="", height=76 + 26 * len(part))
    names = [_effect_name(str(name)) for name in part[names_from]]
    for name, line in zip(names, part.to_dict("records"), strict=True):
        figure.add_trace(_effect(name, line))
    figure.add_vline(x=0, line={"color": INK, "width": 1, "dash": "dot"}, layer="below")
    figure.update_xaxes(range=reach, nticks=6)
    names_axis(figure, names)
    return Panel(title=title, figure=figure, wide=names_from == "effect")


def _effect(name: str, line: dict[str, Any]) -> go.Scatter:
    style, several = ae_style(line["ae"]), line["ae"] == "all" or "/" in line["ae"]
    colour = INK if several else style.colour
    middle, low, high = (100 * (1 / line[key] - 1) for key in ("ratio", "high", "low"))
    counts = f"{line['num_pairs']} pairs, {line['num_seeds']} seed{'s' * (line['num_seeds'] != 1)}"
    words = f"<b>{name}</b><br>{middle:+.1f} % ({low:+.1f} to {high:+.1f})<br>{counts}"
    return go.Scatter(
        x=[middle],
        y=[name],
        error_x=error_bar([high - middle], colour, [middle - low]),
        mode="markers",
        marker={"size": 9, "symbol": "diamond-wide" if several else style.symbol, "color": colour},
        hovertemplate=f"{words}<extra></extra>",
    )


def _effect_name(name: str) -> str:
    return name if name == "all" or " " in name else ae_style(name).label
