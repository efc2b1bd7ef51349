"""Which rows a claim needs, and which of them a results table lacks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import pandas as pd

__all__ = ["Block", "Coverage", "cover"]

KEY = ["ae", "repa", "trainp", "trainshift", "sampleshift", "step"]


@dataclass(frozen=True, kw_only=True)
class Block:
    """A product of settings, all of which are needed."""

    aes: Sequence[str]
    repas: Sequence[str]
    families: Sequence[str]
    train_shifts: Sequence[float]
    sample_shifts: Sequence[float]
    steps: Sequence[int]

    def keys(self) -> set[tuple]:
        """Every (ae, repa, trainp, trainshift, sampleshift, step)."""
        shifts = [[round(x, 6) for x in values] for values in (self.train_shifts, self.sample_shifts)]
        return set(product(self.aes, self.repas, self.families, *shifts, self.steps))


@dataclass(frozen=True, kw_only=True)
class Coverage:
    """The needed rows that exist."""

    rows: pd.DataFrame
    """Of the complete seeds; of all seeds where none is complete."""
    seeds: tuple[int, ...]
    """Those of `rows`."""
    missing: tuple[str, ...]
    """What the most complete seed lacks, grouped; empty if one is complete."""


def cover(rows: pd.DataFrame, blocks: Sequence[Block]) -> Coverage:
    """Keep the rows that `blocks` ask for, and the seeds that have all of them.

    A seed is kept or left for being complete, never for what its rows say.
    """
    needed = set().union(*(block.keys() for block in blocks))
    keys = _keys(rows)
    rows = rows[keys.isin(needed)]
    lacking = {seed: needed - set(keys[part.index]) for seed, part in rows.groupby("seed")} or {0: needed}
    complete = [seed for seed, absent in lacking.items() if not absent]
    if complete:
        kept = rows[rows["seed"].isin(complete)]
        return Coverage(rows=kept, seeds=tuple(sorted(complete)), missing=())
    nearest = min(lacking, key=lambda seed: (len(lacking[seed]), seed))
    seeds = tuple(sorted(rows["seed"].unique().tolist()))
    return Coverage(rows=rows, seeds=seeds, missing=_grouped(needed, lacking[nearest], nearest))


def _keys(rows: pd.DataFrame) -> pd.Series:
    columns = [rows[name].round(6) if "shift" in name else rows[name] for name in KEY]
    return pd.Series(list(zip(*columns, strict=True)), index=rows.index, dtype=object)


def _grouped(needed: set[tuple], absent: set[tuple], seed: int) -> tuple[str, ...]:
    totals, counts = (Counter(key[:3] for key in keys) for keys in (needed, absent))
    return tuple(
        f"{ae} {repa} {trainp}, seed {seed}: {count} of {totals[ae, repa, trainp]} rows"
        for (ae, repa, trainp), count in sorted(counts.items())
    )
