"""Paired differences of ln FID and the interval that decides them: what every claim is made of.

A contrast is positive where it supports a claim. All are natural logarithms of ratios, so exp(mean) = 1.25
reads "a quarter more".
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from flowlab.metrics.intervals import student_quantile, t_interval

__all__ = [
    "CHOSEN_PAIR",
    "OUTLIER_FACTOR",
    "RUN",
    "SETTINGS",
    "SINGLE_PAIR",
    "WITHIN_RUN_PAIR",
    "Contrast",
    "at_step",
    "best_sampling",
    "gap_above",
    "held_out_best",
    "level_gap",
    "main_protocol",
    "pair",
    "pair_noise",
    "pooled",
    "profile",
    "whole_seeds",
    "without_outliers",
]

SINGLE_PAIR = math.log(1.25)
"""Half-width of the 95 % interval of one pair of runs: a prototype's seeds differed by up to a quarter."""
CHOSEN_PAIR = math.log(1.30)
"""The same where each seed scores what the other seeds chose: with two seeds the two scores are correlated by
0.3 (simulated, equal settings), which widens their mean by a fifth."""
WITHIN_RUN_PAIR = math.log(1.10)
"""The same between two sampling shifts of one trained model, which share weights, noise and labels."""
OUTLIER_FACTOR = 10.0
"""Sensitivities drop rows above this multiple of the autoencoder's best FID. The paper dropped FID > 50, 5 to
16 times its best ones."""
RUN = ["ae", "repa", "trainp", "trainshift", "step"]
SETTINGS = ["repa", "trainp", "trainshift", "sampleshift"]


# ---- intervals ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Contrast:
    """A pooled paired difference with its 95 % interval; positive supports the claim."""

    name: str
    mean: float
    """Natural log of a ratio."""
    low: float
    high: float
    num_pairs: int
    """Pairs of runs behind it."""
    num_seeds: int
    """Generator seeds behind it."""
    student: float = 0.0
    """Half-width of Student's 95 % interval over blocks, the interval or a part of it; 0 with too few."""
    degrees: float = math.inf
    """Of freedom of that interval."""

    def widened(self, num_contrasts: int) -> Contrast:
        """The interval at the level that keeps 95 % over `num_contrasts` contrasts together (Bonferroni)."""
        normal, student = (
            student_quantile(1 - 0.025 / num_contrasts, degrees) / student_quantile(0.975, degrees)
            for degrees in (math.inf, self.degrees)
        )
        below, above = (
            max(normal * half, student * self.student)
            for half in (self.mean - self.low, self.high - self.mean)
        )
        return replace(self, low=self.mean - below, high=self.mean + above)

    def __str__(self) -> str:
        ratio, low, high = (math.exp(value) for value in (self.mean, self.low, self.high))
        counts = f"{self.num_pairs} pairs, {self.num_seeds} seed{'s' * (self.num_seeds != 1)}"
        return f"{self.name}: x{ratio:.3g} ({low:.3g} to {high:.3g}; {counts})"


def pooled(name: str, differences: pd.DataFrame, *, floor: float = SINGLE_PAIR) -> Contrast | None:
    """Pool paired differences (columns seed, block, difference); None without any.

    The mean is taken over blocks (grid cells) after the seeds of a block are averaged. The half-width is the
    largest of: `floor` / sqrt(pairs), the a-priori noise of a pair; Student's 95 % over blocks, or with fewer
    than five blocks the largest distance of a block from the mean; and the largest distance of a seed's own
    mean from the mean, so that a decided sign is the sign in every seed.
    """
    differences = differences.dropna(subset=["difference"])
    if differences.empty:
        return None
    blocks = differences.groupby("block")["difference"].mean().to_numpy()
    seeds = differences.groupby("seed")["difference"].mean().to_numpy()
    mean = float(blocks.mean())
    many = len(blocks) >= 5
    student = t_interval(blocks).high - mean if many else 0.0
    spread = student if many else _reach(blocks, mean)
    half = max(floor / math.sqrt(len(differences)), spread, _reach(seeds, mean))
    return Contrast(
        name=name,
        mean=mean,
        low=mean - half,
        high=mean + half,
        num_pairs=len(differences),
        num_seeds=len(seeds),
        student=student,
        degrees=len(blocks) - 1 if many else math.inf,
    )


def pair(better: pd.Series, worse: pd.Series, block: object = 0) -> pd.DataFrame:
    """ln FID of `worse` minus `better`, two series by seed, as `pooled` takes them."""
    difference = (worse - better).dropna()
    return pd.DataFrame(
        {"seed": difference.index, "block": block, "difference": difference.to_numpy(dtype=float)}
    )


def _reach(values: np.ndarray, mean: float) -> float:
    return float(np.abs(values - mean).max())


# ---- rows to series of ln FID ------------------------------------------------------------------------------


def main_protocol(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of the most frequent (sampler, steps) and their `lnfid`: leaves a sampling sweep out."""
    if rows.empty:
        return rows.assign(lnfid=pd.Series(dtype=float))
    sampler, num_steps = rows[["sampler", "num_steps"]].value_counts().index[0]
    rows = rows[(rows["sampler"] == sampler) & (rows["num_steps"] == num_steps)]
    return rows.assign(lnfid=np.log(rows["fid"].clip(lower=1e-9)))  # a distance may round to just under zero


def at_step(rows: pd.DataFrame, *, repa: str | None = None, step: int | None = None) -> pd.DataFrame:
    """The main protocol's rows of one step (None = the last) and one REPA setting (None = all)."""
    rows = main_protocol(rows)
    rows = rows[rows["step"] == (rows["step"].max() if step is None else step)]
    return rows if repa is None else rows[rows["repa"] == repa]


def best_sampling(rows: pd.DataFrame) -> pd.DataFrame:
    """Each checkpoint of each run at its best sampling shift."""
    return rows.groupby([*RUN, "seed"], as_index=False)["lnfid"].min()


def whole_seeds(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of the seeds that hold every setting in `rows`, of one autoencoder and step.

    A seed in progress would be scored on the few settings it has, and leave the others only those.
    """
    setting = rows.groupby(SETTINGS).ngroup()
    return rows[setting.groupby(rows["seed"]).transform("nunique") == setting.nunique()]


def held_out_best(rows: pd.DataFrame, settings: Sequence[str] = SETTINGS) -> pd.Series:
    """ln FID by seed of the best setting, chosen on the other seeds and scored on this one.

    This is what cures the winner's curse of taking the best of 150. With one seed there is nothing to hold
    out: the setting is chosen and scored on the same rows, and the result is optimistic.
    """
    if rows.empty:
        return pd.Series(dtype=float)
    table = rows.pivot_table(
        index=list(settings), columns="seed", values="lnfid"
    ).dropna()  # (settings, seeds)
    if table.empty:
        return pd.Series(dtype=float)
    if table.shape[1] == 1:
        return table.min()
    return pd.Series(
        {seed: table.at[_others(table, seed).idxmin(), seed] for seed in table.columns}, dtype=float
    )


def pair_noise(rows: pd.DataFrame) -> float:
    """Half-width of the 95 % interval of a pair of chosen runs: CHOSEN_PAIR, or what the seeds show if more.

    Measured on the runs within OUTLIER_FACTOR of the best, each at its best sampling shift: 1.96 sqrt(2)
    times the standard deviation between seeds of one setting, and a fifth more as in CHOSEN_PAIR.
    """
    runs = best_sampling(without_outliers(rows)) if not rows.empty else rows
    table = runs.pivot_table(index=RUN, columns="seed", values="lnfid") if not runs.empty else pd.DataFrame()
    variances = table.var(axis=1, ddof=1).dropna()  # (runs,)
    return max(CHOSEN_PAIR, 1.2 * 1.96 * math.sqrt(2 * variances.mean())) if len(variances) else CHOSEN_PAIR


def profile(rows: pd.DataFrame, factor: str) -> pd.DataFrame:
    """ln FID by (level of `factor`, seed) after minimising over everything else."""
    return rows.groupby([factor, "seed"])["lnfid"].min().unstack("seed").dropna()


def level_gap(rows: pd.DataFrame, factor: str) -> pd.Series:
    """ln(worst / best) over the levels of `factor` by seed; both levels chosen on the other seeds."""
    table = profile(rows, factor) if not rows.empty else pd.DataFrame()
    if len(table) < 2:
        return pd.Series(dtype=float)
    if table.shape[1] == 1:
        return table.max() - table.min()
    gaps = {}
    for seed in table.columns:
        others = _others(table, seed)
        gaps[seed] = table.at[others.idxmax(), seed] - table.at[others.idxmin(), seed]
    return pd.Series(gaps, dtype=float)


def gap_above(rows: pd.DataFrame) -> pd.Series:
    """ln FID at the best sampling shift up to the best training shift, minus at the best above it, by seed.

    For one autoencoder, family and REPA setting. The three shifts are chosen on the other seeds; nan where
    the best training shift is the largest of the grid, above which there is nothing. It compares FIDs rather
    than positions of optima, because on a flat curve the position of the lowest point is chance and its mean
    the middle of the grid.
    """
    table = rows.pivot_table(index=["trainshift", "sampleshift"], columns="seed", values="lnfid").dropna()
    gaps = {}
    for seed in table.columns:
        chooser = _others(table, seed) if table.shape[1] > 1 else table[seed]
        train, _ = chooser.idxmin()
        curve, scores = chooser[train], table[seed][train]  # (sampleshift,)
        above = curve.index > train
        both = above.any() and not above.all()
        gaps[seed] = scores[curve[~above].idxmin()] - scores[curve[above].idxmin()] if both else math.nan
    return pd.Series(gaps, dtype=float)


def without_outliers(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows within OUTLIER_FACTOR of the best FID of their autoencoder and step."""
    best = rows.groupby(["ae", "step"])["lnfid"].transform("min")
    return rows[rows["lnfid"] <= best + math.log(OUTLIER_FACTOR)]


def _others(table: pd.DataFrame, seed: object) -> pd.Series:
    return table.drop(columns=[seed]).mean(axis=1)
