"""The ablation's page: one HTML file, and the same table in Markdown."""

from __future__ import annotations

import math
from pathlib import Path

import pandas as pd

from flowlab.core.files import atomic_path
from flowlab.study import ablation as ablations
from flowlab.study.ablation import Ablation
from flowlab.study.page.html import Block, Column, data_table, document, escape, figure, notice, plain_table
from flowlab.study.plots.ablation import arm_label, effect, trade_off
from flowlab.study.plots.words import distance_label, fid_label

__all__ = ["markdown", "verdict", "write"]

TITLE = "Do the regularisers of autoencoders work?"


def write(folder: Path) -> Path:
    """Write ablation.html and table.md into the folder of an ablation; return the page's path."""
    settings = ablations.load(folder)
    rows = ablations.balanced(ablations.collect(folder), settings.arms)
    for name, text in (("table.md", markdown(settings, rows)), ("ablation.html", _page(settings, rows))):
        with atomic_path(folder / name) as draft:
            draft.write_text(text, encoding="utf-8")
    return folder / "ablation.html"


def verdict(low: float, high: float, lower_is_better: bool) -> str:
    """helps, hurts or undecided: whether the whole interval of a difference lies on one side of zero."""
    if math.isnan(low) or low <= 0 <= high:
        return "undecided"
    return "helps" if (high < 0) == lower_is_better else "hurts"


def markdown(settings: Ablation, rows: pd.DataFrame) -> str:
    """A line per arm: means over trainings, differences from the first arm with 95 % intervals, verdict."""
    heads = _headers(rows)
    lines = [f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
    lines += [f"| {' | '.join(line)} |" for line in _lines(settings, rows)]
    return "\n".join(lines) + "\n"


def _headers(rows: pd.DataFrame) -> list[str]:
    rfid, fid = (distance_label(name, rows) for name in ("rFID", "FID"))
    return [
        "arm", "trainings", "PSNR dB", rfid, "effective rank", "rotation error", "scale error", fid,
        "change of PSNR", "change of FID", "FID: does it help?",
    ]  # fmt: skip


def _lines(settings: Ablation, rows: pd.DataFrame) -> list[list[str]]:
    if not len(rows):
        return []
    psnr, fid = (ablations.effects(rows, settings.arms, value).set_index("arm") for value in ("psnr", "fid"))
    means = rows.groupby("arm")[["rfid", "effective_rank", "rotation_error", "scale_error"]].mean()
    counts = rows.groupby("arm")["seed"].nunique()
    lines = []
    for arm in fid.index:
        base = arm == settings.arms[0]
        numbers = [f"{psnr.loc[arm, 'mean']:.2f}", *(_short(value) for value in means.loc[arm])]
        changes = (
            ["", "", ""] if base else [_change(psnr.loc[arm]), _change(fid.loc[arm]), _says(fid.loc[arm])]
        )
        lines.append([arm_label(arm), str(counts[arm]), *numbers, f"{fid.loc[arm, 'mean']:.2f}", *changes])
    return lines


def _short(value: float) -> str:
    return f"{value:.3g}"


def _change(line: pd.Series) -> str:
    bounds = "" if math.isnan(line["low"]) else f" [{line['low']:+.2f}, {line['high']:+.2f}]"
    return f"{line['difference']:+.2f}{bounds}"


def _says(line: pd.Series) -> str:
    return verdict(line["low"], line["high"], lower_is_better=True)


def _page(settings: Ablation, rows: pd.DataFrame) -> str:
    if not len(rows):
        return document(title=TITLE, header=_header(settings, rows), blocks=[_empty()])
    label = fid_label(rows)
    fid, psnr = (ablations.effects(rows, settings.arms, value) for value in ("fid", "psnr"))
    base = arm_label(settings.arms[0])
    panels = [
        effect(fid, "Learnability", f"change of {label} against {base} (left is better)"),
        effect(psnr, "Quality", f"change of PSNR in dB against {base} (right is better)"),
    ]
    note = "Bars are 95 % intervals: flow seeds averaged, one error for all arms, arm and seed removed."
    effects = Block(
        name="effects",
        title="What each term does",
        how="A bar that misses the dotted line is a decided effect; one that crosses it is not.",
        parts=[figure("fig-effects", "Figure 1", note, panels)],
    )
    trade = Block(
        name="trade-off",
        title="Quality against learnability",
        how="Right and low is good. Grey dots are single trainings, named marks their means.",
        parts=[
            figure("fig-trade-off", "Figure 2", "One mark per arm.", [trade_off(rows, settings.arms, label)])
        ],
    )
    caption = f"Means over trainings; changes are against <i>{escape(base)}</i>, with 95 % intervals."
    table = plain_table("Table 1", caption, _headers(rows), _lines(settings, rows), stacks=True)
    columns = [
        Column(title=name, kind="text" if kind is str else "number")
        for name, kind in ablations.COLUMNS.items()
    ]
    every = data_table("rows", "Table 2", "Every row.", columns, rows.to_numpy().tolist())
    numbers = Block(name="numbers", title="Numbers", how="", parts=[table, every])
    return document(title=TITLE, header=_header(settings, rows), blocks=[effects, trade, numbers])


def _empty() -> Block:
    return Block(name="numbers", title="Numbers", how="", parts=[notice("No rows yet.")])


def _header(settings: Ablation, rows: pd.DataFrame) -> str:
    facts = {
        "Arms": f"{rows['arm'].nunique()} of {len(settings.arms)}",
        "Autoencoder seeds": ", ".join(str(seed) for seed in settings.seeds),
        "Flow seeds": ", ".join(str(seed) for seed in settings.flow_seeds),
        "Flow model": f"{settings.backbone}, {settings.num_steps} steps, ln, shift {settings.train_shift:g}",
        "Samples": f"{settings.num_samples:,} against {settings.num_reference:,}",
    }
    items = "".join(f"<div><dt>{name}</dt><dd>{escape(value)}</dd></div>" for name, value in facts.items())
    deck = (
        "The same autoencoder, data and budget; one term of the loss changes. "
        "Then the same small generator in each latent."
    )
    return (
        f'<p class="over">flowlab · ablation</p><h1>{escape(TITLE)}</h1><p class="deck">{deck}</p>'
        f'<dl class="facts">{items}</dl>'
    )
