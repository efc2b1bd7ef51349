"""For each claim: the rows it needs, and the contrasts it draws from them. Fixed before any grid ran."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from flowlab.study.contrasts import (
    WITHIN_RUN_PAIR,
    Contrast,
    best_sampling,
    gap_above,
    held_out_best,
    level_gap,
    pair,
    pair_noise,
    pooled,
    without_outliers,
)
from flowlab.study.coverage import Block
from flowlab.study.grid import DISTRIBUTIONS, PAPER_AUTOENCODERS, REPAS, SHIFTS, own_shift

__all__ = ["NEAR", "NEEDS", "SENSITIVE", "TESTS", "Finding"]

NEAR = 1.5
"""Two FIDs are near each other within this factor (published: 1.19; best to worst autoencoder: 3.3)."""
SENSITIVE = 0.15
"""A factor matters where its worst level loses this share: between the published 31-39 % and 5-7 %."""
PUBLISHED_RAE_SHIFT = 6.93
FAMILIES = tuple(DISTRIBUTIONS)
GENERATION_ORDER = ("rae", "flux2", "sd", "flux1")
PERCEPTUAL_ORDER = ("flux2", "flux1", "sd", "rae")


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What a claim's test returns."""

    required: Sequence[Contrast | None]
    """All must be positive for the claim to hold; None = no rows for it."""
    vetoes: Sequence[Contrast | None] = ()
    """None of these may be negative."""
    literal: bool = True
    """False where the point estimates alone already forbid "holds"."""
    note: str = ""
    """A sentence for the reason."""


# ---- the rows each claim needs -----------------------------------------------------------------------------


def _grid(rows: pd.DataFrame, **changes: Sequence) -> Block:
    """The paper's grid at the last checkpoint, with `changes`."""
    settings: dict = {
        "aes": PAPER_AUTOENCODERS,
        "repas": tuple(REPAS),
        "families": FAMILIES,
        "train_shifts": SHIFTS,
        "sample_shifts": SHIFTS,
        "steps": _steps(rows)[-1:],
    }
    return Block(**settings | changes)


def _at(rows: pd.DataFrame, ae: str, families: Sequence[str], shift: float) -> Block:
    """One autoencoder without REPA at `shift` for training and sampling."""
    return _grid(
        rows, aes=(ae,), repas=("none",), families=families, train_shifts=(shift,), sample_shifts=(shift,)
    )


def _steps(rows: pd.DataFrame) -> list[int]:
    return sorted(rows["step"].unique().tolist())


def _needs_3(rows: pd.DataFrame) -> list[Block]:
    recipes = [_at(rows, "rae", ("ts",), shift) for shift in (PUBLISHED_RAE_SHIFT, own_shift("rae"))]
    return [*recipes, _grid(rows, aes=("rae",), repas=("teacher",), families=("ln",))]


def _needs_4(rows: pd.DataFrame) -> list[Block]:
    return [
        _at(rows, "rae", ("ts",), own_shift("rae")),
        _at(rows, "rae", FAMILIES, 1.0),
        _grid(rows, aes=("flux2",)),
    ]


def _needs_7(rows: pd.DataFrame) -> list[Block]:
    """Every family and REPA setting that was trained, on all shifts in use and at least the paper's."""
    shifts = {
        f"{kind}_shifts": tuple(sorted({*SHIFTS, *rows[f"{kind}shift"].unique().tolist()}))
        for kind in ("train", "sample")
    }
    pairs = rows[["repa", "trainp"]].drop_duplicates().itertuples(index=False)
    blocks = [_grid(rows, repas=(repa,), families=(trainp,), **shifts) for repa, trainp in pairs]
    return blocks or [_grid(rows, repas=("none",), families=("ln",))]


NEEDS: dict[int, Callable[[pd.DataFrame], list[Block]]] = {
    1: lambda rows: [_grid(rows, steps=_steps(rows))],
    2: lambda rows: [_grid(rows)],
    3: _needs_3,
    4: _needs_4,
    5: lambda rows: [_grid(rows, repas=("none",))],
    6: lambda rows: [_grid(rows)],
    7: _needs_7,
}


# ---- the contrasts each claim draws ------------------------------------------------------------------------


def _family(rows: pd.DataFrame, _: pd.DataFrame) -> Finding:
    """Claim 1."""
    parts, num_cells, num_led, floor = [], 0, 0, pair_noise(rows)
    for (ae, repa, _step), cell in rows.groupby(["ae", "repa", "step"]):
        rival = held_out_best(cell[cell["trainp"].isin(["ln", "pln"])])
        found = pair(rival, held_out_best(cell[cell["trainp"] == "ts"]), f"{ae} {repa}")
        if not found.empty:
            parts.append(found)
            num_cells += 1
            num_led += int(found["difference"].mean() <= 0)
    if not parts:
        return Finding(required=[None])
    units = pd.concat(parts).groupby(["block", "seed"], as_index=False)["difference"].mean()
    vetoes = [pooled(f"ts over ln/pln, {block}", unit, floor=floor) for block, unit in units.groupby("block")]
    return Finding(
        required=[pooled("best ts over best ln/pln, mean over cells", units, floor=floor)],
        vetoes=vetoes,
        literal=num_led == 0,
        note=f"ts leads in {num_led} of {num_cells} cells (autoencoder, REPA, checkpoint)",
    )


def _repa(rows: pd.DataFrame, _: pd.DataFrame) -> Finding:
    """Claim 2."""
    table = _paired_cells(best_sampling(rows), "repa", ["ae", "trainp", "trainshift", "seed"])
    contrasts = [
        pooled(f"{ae} without over with REPA", _differences(table[table["ae"] == ae], "teacher", "none"))
        for ae in PAPER_AUTOENCODERS
    ]
    return Finding(required=contrasts)


def _recipe(rows: pd.DataFrame, _: pd.DataFrame) -> Finding:
    """Claim 3."""
    rae = rows[rows["ae"] == "rae"]
    best = held_out_best(rae[(rae["repa"] == "teacher") & (rae["trainp"] == "ln")])
    names = {
        f"rae ts {PUBLISHED_RAE_SHIFT} (published) over best ln + REPA": PUBLISHED_RAE_SHIFT,
        f"rae ts {own_shift('rae')} (rule) over best ln + REPA": own_shift("rae"),
    }
    floor = pair_noise(rae)
    contrasts = [pooled(name, pair(best, _plain(rae, "ts", at)), floor=floor) for name, at in names.items()]
    return Finding(required=contrasts)


def _near(rows: pd.DataFrame, _: pd.DataFrame) -> Finding:
    """Claim 4."""
    rae, flux2, floor = rows[rows["ae"] == "rae"], rows[rows["ae"] == "flux2"], pair_noise(rows)
    gap = pair(_plain(rae, "ts", own_shift("rae")), held_out_best(flux2))
    unshifted = rae[(rae["repa"] == "none") & (rae["trainshift"] == 1.0) & (rae["sampleshift"] == 1.0)]
    shifted = flux2[(flux2["repa"] == "none") & (flux2["trainshift"] > 1.0)]
    signs = {"above": -1, "below": 1}
    near = [
        pooled(
            f"room of {NEAR} for the best flux2 {side} rae's recipe",
            gap.assign(difference=math.log(NEAR) + sign * gap["difference"]),
            floor=floor,
        )
        for side, sign in signs.items()
    ]
    ratio = f"best flux2 is x{math.exp(gap['difference'].mean()):.3g} rae's recipe" if len(gap) else ""
    worse = pair(held_out_best(shifted), held_out_best(unshifted))
    shift = pooled("rae without shift over flux2 with shift", worse, floor=floor)
    return Finding(required=[*near, shift], note=ratio)


def _sensitivity(rows: pd.DataFrame, _: pd.DataFrame) -> Finding:
    """Claim 5."""
    kept = without_outliers(rows[rows["repa"] == "none"])
    contrasts: list[Contrast | None] = []
    for ae in PAPER_AUTOENCODERS:
        own = kept[kept["ae"] == ae]
        floor = pair_noise(own)
        train, family, sampling = (
            level_gap(own, factor) for factor in ("trainshift", "trainp", "sampleshift")
        )
        contrasts.append(pooled(f"{ae} training shift over family", pair(family, train), floor=floor))
        contrasts.append(
            pooled(f"{ae} training shift over sampling shift", pair(sampling, train), floor=floor)
        )
        limit = pd.Series(-math.log(1 - SENSITIVE), index=sampling.index)
        matters = pair(limit, sampling) if ae in ("rae", "flux2") else pair(sampling, limit)
        wanted = "matters" if ae in ("rae", "flux2") else "hardly matters"
        contrasts.append(pooled(f"{ae} sampling shift {wanted}", matters, floor=WITHIN_RUN_PAIR))
    num_dropped = int((rows["repa"] == "none").sum()) - len(kept)
    return Finding(required=contrasts, note=f"{num_dropped} rows above ten times the best FID dropped")


def _orders(rows: pd.DataFrame, reconstruction: pd.DataFrame) -> Finding:
    """Claim 6."""
    best = {ae: held_out_best(rows[rows["ae"] == ae]) for ae in PAPER_AUTOENCODERS}
    generation = [
        pooled(
            f"best FID of {worse} over {better}",
            pair(best[better], best[worse]),
            floor=pair_noise(rows[rows["ae"].isin([better, worse])]),
        )
        for better, worse in itertools.pairwise(GENERATION_ORDER)
    ]
    perceptual = [
        _perceptual(reconstruction, better, worse) for better, worse in itertools.pairwise(PERCEPTUAL_ORDER)
    ]
    return Finding(required=[*generation, *perceptual])


def _above(rows: pd.DataFrame, _: pd.DataFrame) -> Finding:
    """Claim 7."""
    gaps = []
    for (ae, repa, trainp), block in rows.groupby(["ae", "repa", "trainp"]):
        for seed, gap in gap_above(block).items():
            gaps.append({"ae": ae, "seed": seed, "block": f"{repa} {trainp}", "difference": gap})
    table = pd.DataFrame(gaps, columns=["ae", "seed", "block", "difference"])
    num_edge = int(table["difference"].isna().sum())
    seen = table.dropna(subset=["difference"])
    at_edge = set(table["ae"]) - set(seen["ae"])
    name = "best sampling shift at or below the best training shift over the best above it"
    contrasts = [
        pooled(f"{ae} {name}", seen[seen["ae"] == ae], floor=WITHIN_RUN_PAIR)
        for ae in PAPER_AUTOENCODERS
        if ae not in at_edge
    ]
    note = (
        f"{num_edge} pairs left out: the best training shift is the largest of the grid" if num_edge else ""
    )
    return Finding(required=contrasts or [None], note=note)


TESTS: dict[int, Callable[[pd.DataFrame, pd.DataFrame], Finding]] = {
    1: _family,
    2: _repa,
    3: _recipe,
    4: _near,
    5: _sensitivity,
    6: _orders,
    7: _above,
}


# ---- small pieces ------------------------------------------------------------------------------------------


def _plain(rows: pd.DataFrame, trainp: str, shift: float) -> pd.Series:
    """ln FID by seed of one family without REPA at `shift` for training and sampling."""
    chosen = (rows["repa"] == "none") & (rows["trainp"] == trainp)
    chosen &= np.isclose(rows["trainshift"], shift) & np.isclose(rows["sampleshift"], shift)
    return rows[chosen].set_index("seed")["lnfid"]


def _paired_cells(rows: pd.DataFrame, factor: str, cell: list[str]) -> pd.DataFrame:
    """One row per cell with a column of ln FID per level of `factor`."""
    return rows.pivot_table(index=cell, columns=factor, values="lnfid").reset_index()


def _differences(table: pd.DataFrame, better: str, worse: str) -> pd.DataFrame:
    if better not in table or worse not in table:
        return pd.DataFrame(columns=["seed", "block", "difference"])
    block = table["trainp"] + " " + table["trainshift"].astype(str)
    return pd.DataFrame({"seed": table["seed"], "block": block, "difference": table[worse] - table[better]})


def _perceptual(reconstruction: pd.DataFrame, better: str, worse: str) -> Contrast | None:
    """ln of the ratio of two perceptual distances; relative errors add in squares (delta method)."""
    found = [reconstruction[reconstruction["ae"] == ae] for ae in (better, worse)]
    if any(part.empty for part in found):
        return None
    (low, low_se), (high, high_se) = (part.iloc[0][["perceptual", "perceptual_se"]] for part in found)
    mean, half = math.log(high / low), 1.96 * math.hypot(high_se / high, low_se / low)
    name = f"perceptual distance of {worse} over {better}"
    return Contrast(name=name, mean=mean, low=mean - half, high=mean + half, num_pairs=1, num_seeds=1)
