"""The study in ten lines: sentences in HTML, every number taken from the analysis' tables."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from flowlab.study import analysis
from flowlab.study.analysis import FACTORS
from flowlab.study.claims import Verdict
from flowlab.study.page.html import ae_chip, escape
from flowlab.study.sections.common import join
from flowlab.study.sections.material import Material

__all__ = ["percent", "ten_lines"]

_SEMANTIC = ("semantic alignment, 32 channels", "semantic alignment, 16 channels")
_VERBS = {"holds": ("holds", "hold"), "does not hold": ("does not hold", "do not hold")}


def ten_lines(material: Material, verdicts: Sequence[Verdict]) -> list[str]:
    """At most ten sentences; what the rows do not hold is left out, or said to be missing."""
    if material.rows.empty:
        return [_limits(material)]
    lines = [
        _measured(material.rows),
        _scale(material.rows),
        _learnability(material),
        _fidelity(material.reconstruction),
        _sensitivity(material.rows),
        _optima(material.optima),
        _effect(material, "REPA", "REPA with the self-supervised teacher, at equal steps, changes FID by"),
        _semantics(material),
        _verdicts(verdicts),
        _limits(material),
    ]
    return [line for line in lines if line]


def percent(share: float, *, sign: bool = False) -> str:
    """A share as a percentage with a true minus."""
    return f"{100 * share:{'+' if sign else ''}.0f} %".replace("-", "−")


def _measured(rows: pd.DataFrame) -> str:
    model = f"{join(rows['backbone'])}, {rows['step'].max():,} steps, {join(rows['optimiser'])}"
    spaces, seeds = _count(rows, "ae", "latent space"), _count(rows, "seed", "seed")
    judged = f"{_count(rows, 'step', 'checkpoint')} and {_count(rows, 'sampleshift', 'sampling shift')}"
    return (
        f"<b>{_count(rows, 'run_id', 'generator')}</b> ({escape(model)}), trained in {spaces} with {seeds}, "
        f"each judged at {judged}: <b>{len(rows):,} rows</b>."
    )


def _scale(rows: pd.DataFrame) -> str:
    return (
        f"Data: <b>{escape(join(rows['dataset']))}</b>. FID is measured in the features of the "
        f"{escape(join(rows['features']))}, from {rows['num_samples'].max():,} samples against "
        f"{rows['num_reference'].max():,} held-out images: it compares with other numbers on this page, and "
        "with nothing else."
    )


def _learnability(material: Material) -> str:
    table = material.fidelity.sort_values("fid")
    parts = [f"{ae_chip(line['ae'])} {line['fid']:.3g}" for line in table.to_dict("records")]
    features = escape(join(material.rows["features"]))
    lead = f"<b>Learnability</b>, best FID ({features}) at the last step and shared settings"
    return f"{lead}: {', '.join(parts)}."


def _fidelity(reconstruction: pd.DataFrame) -> str:
    table = reconstruction.sort_values("psnr", ascending=False)
    parts = [f"{ae_chip(line['ae'])} {line['psnr']:.1f}" for line in table.to_dict("records")]
    return f"<b>Fidelity</b>, PSNR of reconstructions in dB: {', '.join(parts)}." if parts else ""


def _sensitivity(rows: pd.DataFrame) -> str:
    if not ((rows["repa"] == "none") & (rows["step"] == rows["step"].max())).any():
        return ""
    table = analysis.sensitivity(rows)
    table = table[table["num_levels"] > 1]
    parts = []
    for factor, name in FACTORS.items():
        shares = table[table["factor"] == factor]["of_worst"]
        if len(shares):
            parts.append(f"{name} {percent(shares.min())} to {percent(shares.max())}")
    words = "<b>What a good choice is worth</b>, in percent of the worst level's FID, over the autoencoders"
    return f"{words}: {'; '.join(parts)}." if parts else ""


def _optima(table: pd.DataFrame) -> str:
    table = table[(table["kind"] == "trainshift") & (table["trainp"] == "all")]
    words = {"interior": "{:.2g}", "at low edge": "at most {:.2g}", "at high edge": "at least {:.2g}"}
    parts = [
        f"{ae_chip(line['ae'])} {words.get(str(line['status']), str(line['status'])).format(line['alpha'])}"
        for line in table.to_dict("records")
    ]
    return f"<b>Best training shift</b>, fitted over the whole grid: {', '.join(parts)}." if parts else ""


def _effect(material: Material, effect: str, sentence: str) -> str:
    table = material.comparisons[material.comparisons["effect"] == effect]
    table = table[table["ae"] == "all"] if (table["ae"] == "all").any() else table
    if table.empty:
        return ""
    line = table.iloc[0].to_dict()
    middle, low, high = (percent(1 / line[key] - 1, sign=True) for key in ("ratio", "high", "low"))
    pairs = f"{line['num_pairs']} pair{'s' * (line['num_pairs'] != 1)} of runs"
    return f"{sentence} <b>{middle}</b> (95 %: {low} to {high}; {pairs})."


def _semantics(material: Material) -> str:
    lines = [
        _effect(material, name, f"{name[0].upper()}{name[1:]} and nothing else different, changes FID by")
        for name in _SEMANTIC
    ]
    return next((line for line in lines if line), "")


def _verdicts(verdicts: Sequence[Verdict]) -> str:
    parts = []
    for status in ("holds", "does not hold", "undecided"):
        numbers = [str(verdict.claim.number) for verdict in verdicts if verdict.status == status]
        if numbers:
            verb = _VERBS.get(status, (status, status))[len(numbers) > 1]
            parts.append(f"<b>{len(numbers)} {verb}</b> ({', '.join(numbers)})")
    words = f"Of {len(verdicts)} published claims, judged on these rows alone"
    return f"{words}: {'; '.join(parts)}." if parts else ""


def _limits(material: Material) -> str:
    once = "Each autoencoder was trained once, so its luck is part of every number about it"
    if not material.problems:
        return f"{once}. Nothing that was planned is missing."
    return f"{once}. <b>Missing:</b> {escape('; '.join(material.problems))}."


def _count(rows: pd.DataFrame, column: str, noun: str) -> str:
    number = rows[column].nunique()
    return f"{number:,} {noun}{'s' * (number != 1)}"
