"""The sampling sweep on finished runs: which points are missing, and the jobs that compute them."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd

from flowlab.core.devices import num_workers
from flowlab.study import results
from flowlab.study.engine import Engine, LocalEngine
from flowlab.study.grid import SAMPLERS, Study
from flowlab.study.runner import Outcome, Shift, Task, gather, work_through
from flowlab.study.studies import SamplingSweep, sweep_cells, sweep_points, validate_sweep

__all__ = ["Points", "missing_points", "run_sweep", "seconds_of_points"]

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
    """Compute the missing points in the study's folder; a run not trained to its end counts as failed."""
    todo = missing_points(sweep, study, results.collect(folder))
    tasks = [
        Task(
            f"sweep {run}",
            [sys.executable, "-m", "flowlab.jobs.sweep", str(folder), run, *map(_word, points)],
            None,
        )
        for run, points in todo.items()
    ]
    shift = Shift(
        folder=folder,
        gather=lambda: list(missing_points(sweep, study, gather(study, folder))),
        say=say,
        engine=engine or LocalEngine(),
        num_slots=num_workers(workers),
    )
    return work_through(tasks, shift)


def _word(point: tuple[str, int, float]) -> str:
    sampler, steps, shift = point
    return f"{sampler}/{steps}/{shift}"
