"""The rows of a study: their schema, files that survive a killed writer, and what is still missing.

A worker appends each row to cells/<run_id>/rows.jsonl the moment it exists; results.parquet is all of them,
whole or absent. The first seven columns are a stable name: other programs read them.
"""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow
from pyarrow import parquet

from flowlab.core.files import append_line, atomic_path
from flowlab.study.grid import Cell, Study, cells

__all__ = [
    "COLUMNS",
    "KEY",
    "OLDER",
    "RECONSTRUCTION_COLUMNS",
    "Job",
    "Missing",
    "append_row",
    "check_row",
    "collect",
    "empty",
    "frame",
    "merge",
    "missing",
    "next_jobs",
    "planned",
    "read_results",
    "read_reconstruction",
    "read_rows",
    "read_table",
    "write_results",
    "write_reconstruction",
    "write_table",
]

COLUMNS: dict[str, type] = {
    "step": int,  # updates
    "ae": str,
    "repa": str,  # none or teacher
    "trainp": str,
    "trainshift": float,
    "sampleshift": float,
    "fid": float,  # never read without `features`
    "features": str,
    "fid_se": float,
    "num_samples": int,
    "num_reference": int,
    "kid": float,  # in the same features
    "sampler": str,
    "num_steps": int,  # updates from noise to data
    "guidance": float,
    "labels": str,
    "images_seen": int,
    "loss": float,
    "seed": int,
    "run_id": str,
    "config_id": str,
    "dataset": str,
    "backbone": str,
    "optimiser": str,
    "train_seconds": float,  # of the run so far
    "sample_seconds": float,  # of this row
    "machine": str,
    "torch": str,
    "flowlab": str,
    "created": str,  # ISO 8601
    "gate": str,  # passed, warned or off: what judged the autoencoder before the run trained
    "kid_se": float,  # over the images of both sets
}
OLDER: dict[str, Any] = {"gate": "unknown", "kid_se": math.nan}
"""Columns that came later, always last, and what rows from before them read as."""
RECONSTRUCTION_COLUMNS: dict[str, type] = {
    "ae": str,
    "dataset": str,
    "split": str,
    "num_images": int,
    "psnr": float,
    "psnr_se": float,
    "ssim": float,
    "ssim_se": float,
    "perceptual": float,
    "perceptual_se": float,
    "perceptual_features": str,
    "rfid": float,
    "rfid_se": float,
    "features": str,
    "channels": int,  # per token
    "num_tokens": int,
    "stride": int,
    "bits_per_pixel": float,
    "parameters": int,
    "identity": str,
    "flowlab": str,
    "created": str,
}
KEY = ("run_id", "step", "sampleshift", "sampler", "num_steps")
FINITE = ("fid", "trainshift", "sampleshift", "psnr", "ssim", "rfid")
DTYPES = {int: "int64", float: "float64", str: "str"}
ARROW = {int: pyarrow.int64(), float: pyarrow.float64(), str: pyarrow.string()}


ANOTHER_VERSION = "it was written by another version; run the study again in a new folder"


# ---- one row -----------------------------------------------------------------------------------------------


def check_row(values: Mapping[str, Any], where: str, columns: Mapping[str, type] = COLUMNS) -> dict[str, Any]:
    """The values in column order; a missing, unknown or mistyped column is a ValueError that names it."""
    _check_names(list(values), columns, where, ordered=False)
    return {name: _check_value(name, values[name], kind, where) for name, kind in columns.items()}


def append_row(path: Path | str, values: Mapping[str, Any]) -> None:
    """Append one row to a rows.jsonl and force it to disk; half a line that a kill left is cut off first."""
    row = check_row(values, str(path))
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists():
        _cut_half_line(path)
    append_line(path, json.dumps(row))


def read_rows(path: Path | str) -> pd.DataFrame:
    """The rows of a rows.jsonl, none where there is no file.

    A last line without its newline was cut by a kill and does not count; any other damage is a ValueError.
    """
    lines = Path(path).read_bytes().split(b"\n")[:-1] if Path(path).exists() else []
    rows = []
    for number, line in enumerate(lines, start=1):
        where = f"{path} line {number}"
        try:
            values = json.loads(line)
        except ValueError as problem:
            raise ValueError(
                f"{where} is not JSON ({problem}); delete the line to compute it again"
            ) from None
        if not isinstance(values, dict):
            raise ValueError(f"{where} holds {type(values).__name__}, not a row; delete the line")
        rows.append(check_row(OLDER | values, where))
    return frame(rows)


# ---- tables ------------------------------------------------------------------------------------------------


def empty(columns: Mapping[str, type] = COLUMNS) -> pd.DataFrame:
    """A table without rows."""
    return frame([], columns)


def frame(rows: Iterable[Mapping[str, Any]], columns: Mapping[str, type] = COLUMNS) -> pd.DataFrame:
    """Rows as a table with the schema's order and types."""
    table = pd.DataFrame(list(rows), columns=list(columns))
    return table.astype({name: DTYPES[kind] for name, kind in columns.items()})


def merge(tables: Iterable[pd.DataFrame]) -> pd.DataFrame:
    """All rows, sorted; of rows with one key the first stays, with a warning where their FIDs differ.

    Rows of one run from two configurations are a ValueError: they do not belong in one curve.
    """
    filled = [table for table in tables if len(table)]
    if not filled:
        return empty()
    rows = pd.concat(filled, ignore_index=True)
    _check_configs(rows)
    _warn_of_differences(rows)
    rows = rows.drop_duplicates(list(KEY), keep="first")
    return rows.sort_values(["seed", *KEY], kind="stable", ignore_index=True)


def collect(folder: Path | str) -> pd.DataFrame:
    """The rows of a run folder: those gathered in results.parquet, and those that its cells have added since.

    A study therefore goes on from a results.parquet and its study.json: the runs behind its rows are not
    repeated. A run that its cell computes anew, with another configuration, replaces its gathered rows.
    """
    folder = Path(folder)
    path = folder / "results.parquet"
    own = merge(read_rows(path) for path in sorted(folder.glob("cells/*/rows.jsonl")))
    gathered = read_results(path) if path.is_file() else empty()
    configs = dict(zip(own["run_id"], own["config_id"], strict=True))
    pairs = zip(gathered["run_id"], gathered["config_id"], strict=True)
    kept = [configs.get(run, config) == config for run, config in pairs]
    return merge([gathered[kept], own])


def write_results(path: Path | str, rows: pd.DataFrame) -> None:
    """Write results.parquet atomically."""
    write_table(path, rows, COLUMNS)


def read_results(path: Path | str) -> pd.DataFrame:
    """Read results.parquet; an absent, damaged or foreign file is a ValueError naming it and the column.

    A file from before a column of OLDER reads all the same.
    """
    return read_table(path, COLUMNS, OLDER)


def write_reconstruction(path: Path | str, rows: pd.DataFrame) -> None:
    """Write reconstruction.parquet atomically, one row per autoencoder."""
    write_table(path, rows, RECONSTRUCTION_COLUMNS)


def read_reconstruction(path: Path | str) -> pd.DataFrame:
    """Read reconstruction.parquet as `read_results` does its own."""
    return read_table(path, RECONSTRUCTION_COLUMNS)


# ---- what is missing ---------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Missing:
    """One row that a study plans and a table lacks."""

    cell: Cell
    step: int
    """Updates at the checkpoint."""
    sampleshift: float


@dataclass(frozen=True, kw_only=True)
class Job:
    """Train a cell until a step and evaluate the checkpoints on the way."""

    cell: Cell
    until_step: int
    """The last checkpoint with a missing row."""
    missing: tuple[Missing, ...]
    """The rows to compute, by rising step."""

    @property
    def run_id(self) -> str:
        """Of the cell."""
        return self.cell.run_id


def planned(study: Study, rows: pd.DataFrame) -> pd.DataFrame:
    """The rows that are sampled as `study` asks; those of a sampling sweep are left out."""
    own = (rows["sampler"] == study.sampler) & (rows["num_steps"] == study.num_sample_steps)
    shifts = [round(shift, 6) for shift in study.sample_shifts]
    return rows[own & rows["sampleshift"].round(6).isin(shifts)]


def missing(study: Study, rows: pd.DataFrame) -> list[Missing]:
    """Every planned row that `rows` lacks, in the study's order, by rising step and shift."""
    own = planned(study, rows)
    found = set(zip(own["run_id"], own["step"], own["sampleshift"].round(6), strict=True))
    return [
        Missing(cell=cell, step=step, sampleshift=shift)
        for cell in cells(study)
        for step in study.checkpoints
        for shift in study.sample_shifts
        if (cell.run_id, step, round(shift, 6)) not in found
    ]


def next_jobs(study: Study, rows: pd.DataFrame) -> list[Job]:
    """The planner: one job per unfinished cell, most important first; empty when the study is complete."""
    lacking: dict[str, list[Missing]] = {}
    for item in missing(study, rows):
        lacking.setdefault(item.cell.run_id, []).append(item)
    return [
        Job(cell=items[0].cell, until_step=items[-1].step, missing=tuple(items)) for items in lacking.values()
    ]


# ---- checks ------------------------------------------------------------------------------------------------


def _check_names(names: list[str], columns: Mapping[str, type], where: str, *, ordered: bool) -> None:
    absent = [name for name in columns if name not in names]
    if absent:
        raise ValueError(f"{where} lacks the column {absent[0]!r}; {ANOTHER_VERSION}")
    unknown = [name for name in names if name not in columns]
    if unknown:
        raise ValueError(f"{where} has the unknown column {unknown[0]!r}; {ANOTHER_VERSION}")
    if ordered and names != list(columns):
        place, name = next((i, a) for i, (a, b) in enumerate(zip(names, columns, strict=True)) if a != b)
        raise ValueError(
            f"{where} has the column {name!r} in place {place + 1}, which is {list(columns)[place]!r}'s"
        )


def _check_value(name: str, value: Any, kind: type, where: str) -> Any:
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if not isinstance(value, kind) or isinstance(value, bool):
        raise ValueError(f"{where}: the column {name!r} holds {value!r}; expected {kind.__name__}")
    if name in FINITE and not math.isfinite(value):
        raise ValueError(f"{where}: the column {name!r} holds {value}; expected a finite number")
    return value


def _check_configs(rows: pd.DataFrame) -> None:
    counts = rows.groupby("run_id")["config_id"].nunique()
    mixed = counts[counts > 1]
    if len(mixed):
        raise ValueError(
            f"run {mixed.index[0]} has rows of {mixed.iloc[0]} configurations; delete its folder in cells/"
        )


def _warn_of_differences(rows: pd.DataFrame) -> None:
    fids = rows.groupby(list(KEY))["fid"].agg(["min", "max"])
    apart = fids[fids["max"] - fids["min"] > 1e-6 * fids["max"].abs()]
    for key, (low, high) in zip(apart.index, apart.to_numpy(), strict=True):
        warnings.warn(
            f"two rows of {key} differ: fid {low:.6g} and {high:.6g}; the first is kept", stacklevel=3
        )


def _cut_half_line(path: Path) -> None:
    data = path.read_bytes()
    whole = data.rfind(b"\n") + 1
    if whole < len(data):
        with open(path, "r+b") as file:
            file.truncate(whole)


def write_table(path: Path | str, rows: pd.DataFrame, columns: Mapping[str, type]) -> None:
    """Write rows of any such schema as parquet, atomically."""
    _check_names(list(rows.columns), columns, str(path), ordered=True)
    schema = pyarrow.schema([(name, ARROW[kind]) for name, kind in columns.items()])
    table = pyarrow.Table.from_pandas(rows, schema=schema, preserve_index=False)
    with atomic_path(path) as draft:
        parquet.write_table(table, draft)


def read_table(
    path: Path | str, columns: Mapping[str, type], older: Mapping[str, Any] | None = None
) -> pd.DataFrame:
    """Read what `write_table` wrote; an absent, damaged or foreign file is a ValueError that names it.

    `older` are the columns that a file may lack, with what its rows then read as.
    """
    if not Path(path).is_file():
        raise ValueError(f"{path} does not exist; `flowlab study run` writes it")
    try:
        table = parquet.read_table(path)
    except (pyarrow.ArrowInvalid, OSError) as problem:
        raise ValueError(
            f"{path} cannot be read as parquet ({str(problem).splitlines()[0]}); write it again"
        ) from None
    for name, value in (older or {}).items():
        if name not in table.column_names:
            table = table.append_column(name, pyarrow.array([value] * len(table), ARROW[columns[name]]))
    _check_names(table.column_names, columns, str(path), ordered=True)
    for name, kind in columns.items():
        if table.schema.field(name).type not in (
            ARROW[kind],
            pyarrow.large_string() if kind is str else None,
        ):
            found = table.schema.field(name).type
            raise ValueError(f"{path}: the column {name!r} holds {found}; expected {ARROW[kind]}")
    return frame(table.to_pylist(), columns)
