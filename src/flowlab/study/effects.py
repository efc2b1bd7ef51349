"""Fitted optima of the shifts, and paired effects of one setting, each with its interval.

As in analysis.py, a function takes a results table of one data set and lists its columns in the docstring.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import pandas as pd

from flowlab.metrics.optimum import fit_optimum
from flowlab.study.contrasts import RUN, SINGLE_PAIR, WITHIN_RUN_PAIR, at_step, best_sampling, pooled
from flowlab.study.grid import in_order, rule_shift

__all__ = ["EFFECTS", "Cost", "comparisons", "optimum_shifts", "paired", "repa_cost", "sweep_optima"]

RATIO_COLUMNS = ["ae", "ratio", "low", "high", "num_pairs", "num_seeds"]
FIT_COLUMNS = ["alpha", "low", "high", "status", "num_points", "num_blocks"]
WINDOW = 2  # shifts on each side of the lowest that a parabola is fitted to
EFFECTS = {  # factor, better, worse, in the words of the report
    "REPA": ("repa", "teacher", "none"),
    "logit-normal against uniform": ("trainp", "ln", "ts"),
    "plateau against uniform": ("trainp", "pln", "ts"),
    "plateau against logit-normal": ("trainp", "pln", "ln"),
    "training shift 2.95 against 1": ("trainshift", 2.95, 1.0),
    "sampling shift 2.95 against 1": ("sampleshift", 2.95, 1.0),
    "semantic alignment, 16 channels": ("ae", "flux1_semantic", "flux1"),
    "semantic alignment, 32 channels": ("ae", "flux2", "flux2_plain"),
    "4 against 16 channels": ("ae", "sd", "flux1"),
    "16 against 32 channels, not semantic": ("ae", "flux1", "flux2_plain"),
}


class Cost(NamedTuple):
    """How much longer the same updates took with a change than without it."""

    ratio: float
    """Median over pairs of runs; other work on the machine is in it, hence the quartiles."""
    lower_quartile: float
    upper_quartile: float
    num_pairs: int


def repa_cost(rows: pd.DataFrame) -> Cost | None:
    """Training time with REPA over training time without, of runs alike in all else; None without any."""
    alike = ["ae", "trainp", "trainshift", "seed"]
    times = at_step(rows).pivot_table(index=alike, columns="repa", values="train_seconds", aggfunc="first")
    if not {"none", "teacher"} <= set(times.columns):
        return None
    ratios = (times["teacher"] / times["none"]).dropna()
    if ratios.empty:
        return None
    low, middle, high = (float(ratios.quantile(share)) for share in (0.25, 0.5, 0.75))
    return Cost(middle, low, high, len(ratios))


# ---- fitted optima -----------------------------------------------------------------------------------------


def optimum_shifts(rows: pd.DataFrame, *, step: int | None = None) -> pd.DataFrame:
    """The fitted best training and sampling shift of each autoencoder, per family and over all families.

    A parabola in ln alpha through ln FID (minimised over the other shift), with one offset per family, REPA
    setting and seed, fitted to the lowest shift and up to two on each side. The interval says how sure the
    fit is over these blocks, not that a parabola is right. Columns: ae, kind ("trainshift" or "sampleshift"),
    trainp ("all" = pooled), alpha, low, high (95 %, Fieller), status (as metrics.optimum), num_points,
    num_blocks, rule (sqrt(m/n)). Too few shifts or seeds for a fit leave a row out.
    """
    chosen = at_step(rows, step=step)
    lines = []
    for ae in in_order(chosen["ae"]):
        own = chosen[chosen["ae"] == ae]
        for kind in ("trainshift", "sampleshift"):
            for trainp in ("all", *own["trainp"].unique()):
                part = own if trainp == "all" else own[own["trainp"] == trainp]
                fit = _fit(part, kind, ["trainp", "repa", "seed"])
                lines += (
                    [{"ae": ae, "kind": kind, "trainp": trainp, "rule": rule_shift(ae)} | fit] if fit else []
                )
    return pd.DataFrame(lines, columns=["ae", "kind", "trainp", *FIT_COLUMNS, "rule"])


def sweep_optima(rows: pd.DataFrame) -> pd.DataFrame:
    """The fitted best sampling shift for each sampler and number of steps (rows of a sampling sweep).

    Columns: ae, sampler, num_steps, alpha to num_blocks as in `optimum_shifts`, and fid: the lowest mean.
    """
    rows = rows.assign(lnfid=np.log(rows["fid"].clip(lower=1e-9)))
    lines = []
    for (ae, sampler, num_steps), part in rows.groupby(["ae", "sampler", "num_steps"]):
        fit = _fit(part, "sampleshift", ["trainp", "repa", "trainshift", "seed"])
        fid = part.groupby("sampleshift")["fid"].mean().min()
        lines += [{"ae": ae, "sampler": sampler, "num_steps": num_steps, "fid": fid} | fit] if fit else []
    return pd.DataFrame(lines, columns=["ae", "sampler", "num_steps", *FIT_COLUMNS, "fid"])


def _fit(rows: pd.DataFrame, kind: str, block: list[str]) -> dict[str, object] | None:
    curve = rows.groupby([kind, *block], as_index=False)["lnfid"].min()
    centred = curve["lnfid"] - curve.groupby(block)["lnfid"].transform("mean")
    shifts = np.sort(curve[kind].unique())
    lowest = int(np.searchsorted(shifts, centred.groupby(curve[kind]).mean().idxmin()))
    near = curve[curve[kind].isin(shifts[max(0, lowest - WINDOW) : lowest + WINDOW + 1])]
    labels = near[block].astype(str).agg(" ".join, axis=1).tolist()
    num_blocks = len(set(labels))
    if near[kind].nunique() < 3 or len(near) < num_blocks + 3:
        return None
    found = fit_optimum(near[kind].to_numpy(), near["lnfid"].to_numpy(), groups=labels)
    values = (found.alpha, found.low, found.high, found.status, found.n, num_blocks)
    return dict(zip(FIT_COLUMNS, values, strict=True))


# ---- paired effects ----------------------------------------------------------------------------------------


def paired(
    rows: pd.DataFrame, factor: str, better: object, worse: object, *, step: int | None = None
) -> pd.DataFrame:
    """FID at `worse` over FID at `better`, everything else equal, pooled as contrasts.pooled does.

    Columns: ae ("all" = over autoencoders, each counting once), ratio, low, high (95 %), num_pairs,
    num_seeds. A ratio above 1 says that `better` is. Each run counts at its best sampling shift, unless that
    is the factor. For factor "ae" there is one row, ae = "better / worse".
    """
    chosen = at_step(rows, step=step)
    chosen = chosen if factor == "sampleshift" else best_sampling(chosen)
    cell = [name for name in (*RUN, "seed") if name != factor]
    table = chosen[chosen[factor].isin([better, worse])].pivot_table(
        index=cell, columns=factor, values="lnfid"
    )
    if not {better, worse} <= set(table.columns):
        return pd.DataFrame(columns=RATIO_COLUMNS)
    pairs = (table[worse] - table[better]).dropna().rename("difference").reset_index()
    pairs = pairs.assign(ae=f"{better} / {worse}") if factor == "ae" else pairs
    inside = [name for name in ("repa", "trainp", "trainshift") if name != factor]
    pairs = pairs.assign(block=pairs[inside].astype(str).agg(" ".join, axis=1))
    groups = [(ae, pairs[pairs["ae"] == ae]) for ae in in_order(pairs["ae"])]
    groups += [("all", pairs.assign(block=pairs["ae"]))] if len(groups) > 1 else []
    floor = WITHIN_RUN_PAIR if factor == "sampleshift" else SINGLE_PAIR
    return pd.DataFrame([_ratio(str(ae), group, floor) for ae, group in groups], columns=RATIO_COLUMNS)


def comparisons(rows: pd.DataFrame, *, step: int | None = None) -> pd.DataFrame:
    """Every effect of EFFECTS that the rows hold: the columns of `paired` behind `effect`."""
    parts = [paired(rows, *EFFECTS[name], step=step).assign(effect=name) for name in EFFECTS]
    table = pd.concat([part for part in parts if len(part)] or parts[:1], ignore_index=True)
    return table[["effect", *[name for name in table.columns if name != "effect"]]]


def _ratio(ae: str, pairs: pd.DataFrame, floor: float) -> dict[str, object]:
    found = pooled(ae, pairs[["seed", "block", "difference"]], floor=floor)
    assert found is not None, "a group of pairs is never empty"
    ratio, low, high = (math.exp(value) for value in (found.mean, found.low, found.high))
    values = (ae, ratio, low, high, found.num_pairs, found.num_seeds)
    return dict(zip(RATIO_COLUMNS, values, strict=True))
