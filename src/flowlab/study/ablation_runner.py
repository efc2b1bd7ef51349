"""Run an ablation: one job per autoencoder; the rows that the jobs leave are gathered in ablation.parquet.

The same command computes only what is missing.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pandas as pd

from flowlab.core.config import to_dict
from flowlab.core.files import write_json
from flowlab.study import results
from flowlab.study.ablation import COLUMNS, Ablation, collect, load, missing
from flowlab.study.engine import Engine, LocalEngine
from flowlab.study.runner import Outcome, Shift, Task, work_through

__all__ = ["claim", "gather", "run"]


def run(
    ablation: Ablation,
    folder: Path,
    *,
    workers: int,
    engine: Engine | None = None,
    say: Callable[[str], None] = print,
) -> Outcome:
    """Compute what is missing of `ablation` in `folder`."""
    claim(ablation, folder)
    shift = Shift(
        folder=folder,
        gather=lambda: [name for name, _, _ in missing(ablation, gather(folder))],
        say=say,
        engine=engine or LocalEngine(),
        num_slots=workers,
    )
    return work_through(list(_tasks(ablation, folder)), shift)


def claim(ablation: Ablation, folder: Path) -> None:
    """Write ablation.json, or refuse a folder that holds another one; its arms and seeds may grow."""
    path = folder / "ablation.json"
    if path.is_file():
        found = load(folder)
        same = replace(found, arms=ablation.arms, seeds=ablation.seeds, flow_seeds=ablation.flow_seeds)
        if same != ablation:
            raise ValueError(f"{folder} holds an ablation with other settings; give another --out")
    write_json(path, to_dict(ablation))


def gather(folder: Path) -> pd.DataFrame:
    """Gather the rows into ablation.parquet and return them."""
    rows = collect(folder)
    results.write_table(folder / "ablation.parquet", rows, COLUMNS)
    return rows


def _tasks(ablation: Ablation, folder: Path) -> Iterator[Task]:
    for name, arm, seed in missing(ablation, collect(folder)):
        yield Task(name, [sys.executable, "-m", "flowlab.jobs.ablation", str(folder), arm, str(seed)], None)
