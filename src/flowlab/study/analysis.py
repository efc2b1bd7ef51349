"""What the rows say: best parameters, curves, sensitivities, the trade-off, and the published beside ours.

Every function takes a results table of one data set and returns a tidy table, whose columns its docstring
lists. FIDs are means over seeds. Where a best setting is chosen, the same choice made on one seed and scored
on the others stands beside it (`held_out`, of the seeds that hold every setting): the smallest of 150 noisy
numbers is smaller than the truth.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pandas as pd

from flowlab.study import published
from flowlab.study.contrasts import (
    OUTLIER_FACTOR,
    SETTINGS,
    at_step,
    held_out_best,
    level_gap,
    main_protocol,
    pair_noise,
    whole_seeds,
    without_outliers,
)
from flowlab.study.grid import in_order, own_shift, rule_shift

__all__ = [
    "CURVES",
    "FACTORS",
    "SENSITIVITY_RULE",
    "best_parameters",
    "beside_published",
    "curves",
    "fidelity",
    "seed_means",
    "sensitivity",
    "sensitivity_levels",
    "shared_settings",
]

FACTORS = {"trainp": "training distribution", "trainshift": "training shift", "sampleshift": "sampling shift"}
SENSITIVITY_COLUMNS = [
    *("ae", "factor", "best_level", "worst_level", "of_worst", "of_best", "held_out"),
    *("num_levels", "num_seeds", "num_dropped"),
]
CURVES = {
    "best": "best of all settings",
    "no shift": "training and sampling shift 1",
    "own shift": "training and sampling at the autoencoder's own shift",
}
SENSITIVITY_RULE = (
    "Each level's FID is the lowest over the other two factors. The paper shows runs without REPA and drops "
    f"FID > 50, 5 to 16 times its best ones; our scale differs, so rows above {OUTLIER_FACTOR:g} times the "
    "autoencoder's best are dropped. The paper does not say whether its percentage is of the worst or of the "
    "best; both are given."
)


# ---- best parameters and curves ----------------------------------------------------------------------------


def seed_means(rows: pd.DataFrame) -> pd.DataFrame:
    """The whole grid: one row per step, ae and setting.

    Columns: step, ae, repa, trainp, trainshift, sampleshift, fid (mean over seeds), fid_low and fid_high
    (lowest and highest seed), fid_se (of the mean, from the samples alone), lnfid (mean), num_seeds.
    """
    groups = main_protocol(rows).groupby(["step", "ae", *SETTINGS], as_index=False)
    table = groups.agg(
        fid=("fid", "mean"),
        fid_low=("fid", "min"),
        fid_high=("fid", "max"),
        fid_se=("fid_se", _mean_error),
        lnfid=("lnfid", "mean"),
        num_seeds=("seed", "nunique"),
    )
    return table.sort_values(["step", "ae", *SETTINGS], ignore_index=True)


def best_parameters(rows: pd.DataFrame) -> pd.DataFrame:
    """Table 2: the best setting of each step, autoencoder and REPA setting.

    The columns of `seed_means`, then held_out (FID of the setting chosen on the other seeds; nan with one
    whole seed) and num_tied (settings, itself included, whose mean lies within the noise of a pair of chosen
    runs / sqrt(seeds): how little the winner means).
    """
    table, chosen = seed_means(rows), main_protocol(rows)
    lines = []
    for (step, ae, repa), group in table.groupby(["step", "ae", "repa"]):
        part = chosen[(chosen["step"] == step) & (chosen["ae"] == ae) & (chosen["repa"] == repa)]
        best = group.loc[group["lnfid"].idxmin()].to_dict()
        reach = pair_noise(part) / math.sqrt(best["num_seeds"])
        lines.append(
            best
            | {"held_out": _held_out(part), "num_tied": int((group["lnfid"] <= best["lnfid"] + reach).sum())}
        )
    return pd.DataFrame(lines, columns=[*table.columns, "held_out", "num_tied"])


def curves(rows: pd.DataFrame) -> pd.DataFrame:
    """Fig. 2: FID over training, for each of CURVES that the rows hold.

    Columns: ae, repa, curve, then those of `seed_means`. "own shift" is sqrt(m/n) of the latent
    (grid.own_shift); where several families qualify, the best one is taken at each step. The faint grid
    behind is `seed_means`.
    """
    table = seed_means(rows)
    own = table["ae"].map({ae: own_shift(ae) for ae in table["ae"].unique()}).astype(float)
    masks = {
        "best": pd.Series(data=True, index=table.index),
        "no shift": (table["trainshift"] == 1.0) & (table["sampleshift"] == 1.0),
        "own shift": np.isclose(table["trainshift"], own) & np.isclose(table["sampleshift"], own),
    }
    parts = []
    for name in CURVES:
        part = table[masks[name]]
        lowest = part.loc[part.groupby(["ae", "repa", "step"])["lnfid"].idxmin()]
        parts.append(lowest.assign(curve=name))
    columns = ["ae", "repa", "curve", *[name for name in table.columns if name not in ("ae", "repa")]]
    return pd.concat(parts, ignore_index=True)[columns]


# ---- sensitivity -------------------------------------------------------------------------------------------


def sensitivity_levels(rows: pd.DataFrame, *, repa: str = "none", step: int | None = None) -> pd.DataFrame:
    """The panels: FID of each level of each factor after minimising over the other two (SENSITIVITY_RULE).

    Columns: ae, factor (a key of FACTORS), level (str), fid, fid_low and fid_high (over seeds), num_seeds.
    `step` None = the last one.
    """
    kept = without_outliers(at_step(rows, repa=repa, step=step))
    parts = []
    for factor in FACTORS:
        per_seed = kept.groupby(["ae", factor, "seed"], as_index=False)["fid"].min()
        levels = per_seed.groupby(["ae", factor], as_index=False).agg(
            fid=("fid", "mean"),
            fid_low=("fid", "min"),
            fid_high=("fid", "max"),
            num_seeds=("seed", "nunique"),
        )
        parts.append(levels.rename(columns={factor: "level"}).assign(factor=factor))
    table = pd.concat(parts, ignore_index=True)
    return table.assign(level=table["level"].astype(str))[
        ["ae", "factor", "level", "fid", "fid_low", "fid_high", "num_seeds"]
    ]


def sensitivity(rows: pd.DataFrame, *, repa: str = "none", step: int | None = None) -> pd.DataFrame:
    """How much each factor is worth, per autoencoder.

    Columns: ae, factor, best_level, worst_level, of_worst = (worst - best) / worst and of_best = (worst -
    best) / best from the means over seeds, held_out (as of_worst, levels chosen on the other seeds; nan with
    one whole seed), num_levels, num_seeds, num_dropped (rows above the limit of SENSITIVITY_RULE).
    """
    chosen, levels = at_step(rows, repa=repa, step=step), sensitivity_levels(rows, repa=repa, step=step)
    dropped = chosen["ae"].value_counts() - without_outliers(chosen)["ae"].value_counts()
    lines = []
    for (ae, factor), group in levels.groupby(["ae", "factor"], sort=False):
        best, worst = group.loc[group["fid"].idxmin()], group.loc[group["fid"].idxmax()]
        gap = level_gap(without_outliers(whole_seeds(chosen[chosen["ae"] == ae])), str(factor))
        lines.append(
            {
                "ae": ae,
                "factor": factor,
                "best_level": best["level"],
                "worst_level": worst["level"],
                "of_worst": 1 - best["fid"] / worst["fid"],
                "of_best": worst["fid"] / best["fid"] - 1,
                "held_out": 1 - math.exp(-gap.mean()) if len(gap) > 1 else math.nan,
                "num_levels": len(group),
                "num_seeds": int(group["num_seeds"].max()),
                "num_dropped": int(dropped[ae]),
            }
        )
    return pd.DataFrame(lines, columns=SENSITIVITY_COLUMNS)


# ---- the trade-off, and the published numbers --------------------------------------------------------------


def fidelity(rows: pd.DataFrame, reconstruction: pd.DataFrame) -> pd.DataFrame:
    """Fig. 1: learnability (generation FID at the last step) against fidelity, one row per autoencoder.

    Only settings that every autoencoder was trained at count, so that none wins by having been tried more
    often; where they share none, each has its own best.

    Columns: ae, fid, fid_low, fid_high, held_out, step, repa, trainp, trainshift, sampleshift (the best
    setting), fid_base (ln, no REPA, both shifts 1; nan where absent), then the reconstruction columns,
    nan for an autoencoder without a reconstruction row.
    """
    chosen = shared_settings(at_step(rows))
    table = seed_means(chosen)
    best = table.loc[table.groupby("ae")["lnfid"].idxmin()]
    at_base = (table["repa"] == "none") & (table["trainp"] == "ln")
    at_base &= (table["trainshift"] == 1.0) & (table["sampleshift"] == 1.0)
    base = table[at_base].set_index("ae")["fid"]
    held_out = {ae: _held_out(part) for ae, part in chosen.groupby("ae")}
    best = best.assign(fid_base=best["ae"].map(base), held_out=best["ae"].map(held_out))
    columns = ["ae", "fid", "fid_low", "fid_high", "held_out", "step", *SETTINGS, "fid_base"]
    joined = best[columns].merge(reconstruction, on="ae", how="left")
    return joined.set_index("ae").loc[in_order(joined["ae"])].reset_index()


def shared_settings(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows at settings that every autoencoder in `rows` has; all rows where there is no such setting."""
    counts = rows.groupby(SETTINGS)["ae"].transform("nunique")
    shared = rows[counts == rows["ae"].nunique()]
    return shared if len(shared) else rows


def beside_published(rows: pd.DataFrame, reconstruction: pd.DataFrame) -> pd.DataFrame:
    """The published numbers and ours. The scales differ (ImageNet and Inception there): compare the order.

    Columns: quantity, ae, condition, published, published_error, ours, source, note.
    """
    ours = dict(_ours(rows, reconstruction))
    table = published.load().rename(columns={"value": "published", "error": "published_error"})
    keys = zip(table["quantity"], table["ae"], table["condition"], strict=True)
    table = table.assign(ours=[ours.get(key, math.nan) for key in keys])
    return table[["quantity", "ae", "condition", "published", "published_error", "ours", "source", "note"]]


def _ours(rows: pd.DataFrame, reconstruction: pd.DataFrame) -> Iterator[tuple[tuple[str, str, str], float]]:
    """((quantity, ae, condition), value) for what we measure too."""
    for line in fidelity(rows, reconstruction).to_dict("records"):
        ae = str(line["ae"])
        yield ("gfid", ae, ""), line["fid"]
        yield ("predicted_shift", ae, ""), rule_shift(ae)
        for factor in ("trainshift", "sampleshift"):
            yield (f"best_{factor}", ae, ""), line[factor]
        for quantity in ("perceptual", "ssim", "psnr", "rfid"):
            yield (quantity, ae, ""), line.get(quantity, math.nan)
    conditions = {"none": "without REPA", "teacher": "with REPA"}
    for line in best_parameters(at_step(rows)).to_dict("records"):
        yield ("best_trainshift", line["ae"], conditions[line["repa"]]), line["trainshift"]
    for line in sensitivity(rows).to_dict("records"):
        yield (f"sensitivity_{line['factor']}", line["ae"], "300k steps no REPA"), line["of_worst"]


# ---- small pieces ------------------------------------------------------------------------------------------


def _held_out(rows: pd.DataFrame) -> float:
    scores = held_out_best(whole_seeds(rows))
    return float(np.exp(scores).mean()) if len(scores) > 1 else math.nan


def _mean_error(errors: pd.Series) -> float:
    return float(np.sqrt(np.square(errors).sum())) / len(errors)
