"""The ablation of regularisers: quality against learnability, and each arm's effect on both."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go

from flowlab.study.page.axes import error_bar, linear_room, names_axis
from flowlab.study.page.html import Panel
from flowlab.study.page.style import INK, blank_figure, faint

__all__ = ["arm_label", "effect", "trade_off"]

BASE, OTHER = "#0072b2", "#d55e00"


def arm_label(arm: str) -> str:
    """`ae_ablation_kl_raised` => "kl raised"."""
    return arm.removeprefix("ae_ablation_").replace("_", " ")


def trade_off(rows: pd.DataFrame, arms: tuple[str, ...], label: str) -> Panel:
    """PSNR across, FID upwards: every training faint, the mean over trainings of an arm with its name."""
    figure = blank_figure(
        x="PSNR of held-out images, dB (better to the right)", y=f"{label} (lower is better)", height=380
    )
    each = rows[["psnr", "fid"]]
    figure.add_trace(_dots(each["psnr"], each["fid"], [arm_label(arm) for arm in rows["arm"]]))
    means = rows.groupby("arm")[["psnr", "fid"]].mean().loc[[arm for arm in arms if arm in set(rows["arm"])]]
    colours = [BASE if arm == arms[0] else OTHER for arm in means.index]
    figure.add_trace(
        go.Scatter(
            x=means["psnr"].tolist(),
            y=means["fid"].tolist(),
            mode="markers+text",
            text=[arm_label(arm) for arm in means.index],
            textposition="top center",
            marker={"size": 10, "color": colours},
            hovertemplate="%{text}<br>PSNR %{x:.2f} dB<br>FID %{y:.2f}<extra></extra>",
        )
    )
    figure.update_xaxes(range=linear_room(each["psnr"], 0.1))
    figure.update_yaxes(range=linear_room(each["fid"], 0.14))
    return Panel(title="", figure=figure, wide=True)


def _dots(x: pd.Series, y: pd.Series, names: list[str]) -> go.Scatter:
    return go.Scatter(
        x=x.tolist(),
        y=y.tolist(),
        mode="markers",
        text=names,
        marker={"size": 6, "color": faint(INK, 0.6)},
        hovertemplate="%{text}, one training<br>PSNR %{x:.2f} dB<br>FID %{y:.2f}<extra></extra>",
    )


def effect(effects: pd.DataFrame, title: str, x: str) -> Panel:
    """Each arm's difference from the first with its interval; `effects` as `ablation.effects` returns."""
    others = effects.iloc[1:].iloc[::-1]
    names = [arm_label(arm) for arm in others["arm"]]
    figure = blank_figure(x=x, y="", height=60 + 34 * len(names))
    up = (others["high"] - others["difference"]).fillna(0.0)
    down = (others["difference"] - others["low"]).fillna(0.0)
    figure.add_trace(
        go.Scatter(
            x=others["difference"].tolist(),
            y=names,
            mode="markers",
            marker={"size": 9, "color": OTHER},
            error_x=error_bar(up, OTHER, down),
            hovertemplate="%{y}: %{x:+.3f}<extra></extra>",
        )
    )
    figure.add_vline(x=0, line={"color": INK, "width": 1, "dash": "dot"})
    names_axis(figure, names)
    return Panel(title=title, figure=figure)
