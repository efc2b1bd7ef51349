"""The sampling sweep on finished runs: which points are missing, and the jobs that compute them."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd

from flowlab.core import checkpoints
from flowlab.core.devices import num_workers
from flowlab.study import results
from flowlab.study.engine import Engine, LocalEngine
from flowlab.study.grid import SAMPLERS, Cell, Study, cells
from flowlab.study.runner import Outcome, Shift, Task, cell_tasks, gather, work_through
from flowlab.study.studies import SamplingSweep, sweep_cells, sweep_points, validate_sweep

__all__ = ["Points", "missing_points", "run_sweep", "seconds_of_points", "untrained"]

Points = dict[str, list[tuple[str, int, float]]]
"""run_id => (sampler, steps, sampling shift)."""


def missing_points(sweep: SamplingSweep, study: Study, rows: pd.DataFrame) -> Points:
    """What the sweep still lacks of each chosen run, the cheapest points first; only incomplete runs."""
    validate_sweep(sweep, study)
    last = rows[rows["step"] == study.num_steps]
    keys = zip(last["run_id"], last["sampler"], last["num_steps"], last["sampleshift"].round(6), strict=True)
    found = set(keys)
    lacking: Points = {}
    for cell in sweep_cells(sweep, study):
        for sampler, steps, shift in sweep_points(sweep):
            if (cell.run_id, sampler, steps, round(shift, 6)) not in found:
                lacking.setdefault(cell.run_id, []).append((sampler, steps, shift))
    return lacking


def untrained(study: Study, folder: Path, rows: pd.DataFrame, points: Points) -> list[Cell]:
    """The complete runs of `points` without their last checkpoint, as a folder of copied rows has them."""
    incomplete = {job.run_id for job in results.next_jobs(study, rows)}
    complete = [cell for cell in cells(study) if cell.run_id in points and cell.run_id not in incomplete]
    return [cell for cell in complete if _last_step(folder / "cells" / cell.run_id) != study.num_steps]


def seconds_of_points(study: Study, points: Points) -> float:
    """Core-seconds, scaled from the study's measured evaluation by evaluations of the network."""
    base = SAMPLERS[study.sampler] * study.num_sample_steps
    work = sum(SAMPLERS[sampler] * steps / base for run in points.values() for sampler, steps, _ in run)
    return work * study.seconds_per_evaluation


def run_sweep(
    sweep: SamplingSweep,
    study: Study,
    folder: Path,
    *,
    workers: int | None = None,
    engine: Engine | None = None,
    say: Callable[[str], None] = print,
) -> Outcome:
    """Compute the missing points in the study's folder; a run that lacks rows counts as failed.

    A run that has its rows and lacks its last checkpoint is trained again first, and refused by its job
    (jobs/sweep) where that gives another model.
    """
    rows = results.collect(folder)
    todo = missing_points(sweep, study, rows)
    again = untrained(study, folder, rows, todo)
    tasks = list(cell_tasks(folder, [(cell, ["--train-only"]) for cell in again]))
    for run, points in todo.items():
        words = [str(folder), run, *map(_word, points)]
        tasks.append(Task(f"sweep {run}", [sys.executable, "-m", "flowlab.jobs.sweep", *words], needs=run))
    shift = Shift(
        folder=folder,
        gather=lambda: list(missing_points(sweep, study, gather(study, folder))),
        say=say,
        engine=engine or LocalEngine(),
        num_slots=num_workers(workers),
    )
    return work_through(tasks, shift)


def _last_step(cell_folder: Path) -> int:
    newest = checkpoints.latest(cell_folder / "checkpoints")
    return 0 if newest is None else checkpoints.step_of(newest)


def _word(point: tuple[str, int, float]) -> str:
    sampler, steps, shift = point
    return f"{sampler}/{steps}/{shift}"
