"""What a report is made from: rows, reconstructions, settings, pictures, and what is missing.

The tables that several sections read are computed once, on first use.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pandas as pd

from flowlab.core.config import from_dict
from flowlab.core.files import read_json
from flowlab.study import analysis, effects, results
from flowlab.study.grid import Study, cells
from flowlab.study.page.pictures import Picture, read_manifest

__all__ = ["Material", "gather"]


@dataclass(frozen=True, kw_only=True)
class Material:
    """Everything the sections read."""

    folder: Path
    name: str
    """Of the study."""
    study: Study | None
    """Its settings; None where study.json is absent or of another version."""
    rows: pd.DataFrame
    """Result rows of one data set and one kind of features, as the study planned them; may be empty."""
    every_row: pd.DataFrame
    """The same with those of a sampling sweep."""
    reconstruction: pd.DataFrame
    """Reconstruction rows; may be empty."""
    pictures: tuple[Picture, ...]
    problems: tuple[str, ...]
    """One sentence for each thing that was expected and is not there."""
    missing_runs: tuple[str, ...]
    """`run id: rows found of rows planned`, for every run that lacks rows."""

    @cached_property
    def seed_means(self) -> pd.DataFrame:
        """As `analysis.seed_means`."""
        return analysis.seed_means(self.rows)

    @cached_property
    def fidelity(self) -> pd.DataFrame:
        """As `analysis.fidelity`."""
        return analysis.fidelity(self.rows, self.reconstruction)

    @cached_property
    def comparisons(self) -> pd.DataFrame:
        """As `effects.comparisons`."""
        return effects.comparisons(self.rows)

    @cached_property
    def optima(self) -> pd.DataFrame:
        """As `effects.optimum_shifts`."""
        return effects.optimum_shifts(self.rows)

    @cached_property
    def sweep(self) -> pd.DataFrame:
        """Rows of checkpoints that were sampled with more than one sampler or number of steps."""
        rows = self.every_row
        kind = rows["sampler"] + " " + rows["num_steps"].astype(str)
        several = rows.assign(kind=kind).groupby(["run_id", "step"])["kind"].transform("nunique")
        return rows[several > 1]


def gather(folder: Path) -> Material:
    """Read a run folder.

    What is absent becomes a problem to report; a results or reconstruction file that is damaged, or has
    another schema, is a ValueError that names it.
    """
    problems: list[str] = []
    study = _study(folder / "study.json", problems)
    every_row = _one_kind(_results(folder, problems), problems)
    rows = results.planned(study, every_row) if study else every_row
    missing = _missing_runs(study, rows, problems) if study else ()
    reconstruction = _reconstruction(folder, rows, problems)
    pictures, lost = read_manifest(folder / "samples")
    return Material(
        folder=folder,
        name=study.name if study else folder.resolve().name,
        study=study,
        rows=rows,
        every_row=every_row,
        reconstruction=reconstruction,
        pictures=tuple(pictures),
        problems=(*problems, *lost),
        missing_runs=missing,
    )


def _study(path: Path, problems: list[str]) -> Study | None:
    if not path.is_file():
        problems.append("study.json is absent, so what was planned is unknown")
        return None
    try:
        return from_dict(Study, read_json(path), str(path))
    except ValueError as problem:
        problems.append(f"study.json cannot be read ({problem}), so what was planned is unknown")
        return None


def _results(folder: Path, problems: list[str]) -> pd.DataFrame:
    path = folder / "results.parquet"
    if path.is_file():
        return results.read_results(path)
    problems.append("results.parquet is absent")
    return results.empty()


def _reconstruction(folder: Path, rows: pd.DataFrame, problems: list[str]) -> pd.DataFrame:
    """The reconstruction rows of the rows' data set, one per autoencoder, the newest."""
    path = folder / "reconstruction.parquet"
    if not path.is_file():
        problems.append("reconstruction.parquet is absent")
        return results.empty(results.RECONSTRUCTION_COLUMNS)
    table = results.read_reconstruction(path).sort_values("created", kind="stable")
    if len(rows):
        table = table[table["dataset"] == rows["dataset"].iloc[0]]
    absent = [ae for ae in rows["ae"].unique() if ae not in set(table["ae"])]
    if absent:
        problems.append(f"no reconstruction was measured for {', '.join(absent)}")
    return table.drop_duplicates("ae", keep="last").reset_index(drop=True)


def _one_kind(rows: pd.DataFrame, problems: list[str]) -> pd.DataFrame:
    """The rows of the most frequent data set and features: distances of different kinds do not compare."""
    for column in ("dataset", "features"):
        if rows[column].nunique() > 1:
            kept = rows[column].mode().iloc[0]
            others = sorted(set(rows[column]) - {kept})
            problems.append(f"rows with {column} {', '.join(others)} are left out; this page shows {kept!r}")
            rows = rows[rows[column] == kept]
    return rows


def _missing_runs(study: Study, rows: pd.DataFrame, problems: list[str]) -> tuple[str, ...]:
    planned = len(study.checkpoints) * len(study.sample_shifts)
    lacking = Counter(item.cell.run_id for item in results.missing(study, rows))
    if lacking:
        problems.append(f"{len(lacking)} of {len(cells(study))} planned runs are absent or incomplete")
    return tuple(f"{run_id}: {planned - count} of {planned} rows" for run_id, count in lacking.items())
