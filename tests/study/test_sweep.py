"""The sampling sweep knows what it lacks, and what that costs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from flowlab.study import results
from flowlab.study.engine import Job
from flowlab.study.grid import Arm, Study, cells
from flowlab.study.studies import SamplingSweep
from flowlab.study.sweep import missing_points, run_sweep, seconds_of_points, untrained

ARMS = (Arm(ae="sd"), Arm(ae="rae"), Arm(ae="rae", trainshift=6.93))
STUDY = Study(name="toy", arms=ARMS, num_sample_steps=50, sampler="euler", seconds_per_evaluation=8.0)
SWEEP = SamplingSweep(
    study="toy",
    train_shifts=(1.0,),
    num_sample_steps=(10, 50),
    samplers=("euler", "heun"),
    sample_shifts=(1.0, 6.93),
)


def _row(run: str, step: int, sampler: str, steps: int, shift: float) -> dict[str, object]:
    row: dict[str, object] = {name: kind() for name, kind in results.COLUMNS.items()}
    return row | {"run_id": run, "step": step, "sampler": sampler, "num_steps": steps, "sampleshift": shift}


def test_only_chosen_runs_lack_points_cheapest_first() -> None:
    lacking = missing_points(SWEEP, STUDY, results.empty())
    assert list(lacking) == ["sd_none_ln_1.0_s0", "rae_none_ln_1.0_s0"]
    points = lacking["sd_none_ln_1.0_s0"]
    assert len(points) == 8 and points[0][:2] == ("euler", 10) and points[-1][:2] == ("heun", 50)


def test_rows_of_the_last_step_count_and_no_others() -> None:
    rows = [
        _row("sd_none_ln_1.0_s0", STUDY.num_steps, "euler", 50, 6.93),
        _row("sd_none_ln_1.0_s0", STUDY.num_steps // 2, "euler", 10, 1.0),
        _row("rae_none_ln_6.93_s0", STUDY.num_steps, "euler", 10, 1.0),
    ]
    points = missing_points(SWEEP, STUDY, results.frame(rows))["sd_none_ln_1.0_s0"]
    assert ("euler", 50, 6.93) not in points and ("euler", 10, 1.0) in points and len(points) == 7


def test_a_complete_run_is_left_out() -> None:
    one = replace(SWEEP, autoencoders=("sd",))
    todo = missing_points(one, STUDY, results.empty())
    rows = results.frame(
        [_row(run, STUDY.num_steps, *point) for run, points in todo.items() for point in points]
    )
    assert missing_points(one, STUDY, rows) == {}


class Recorder:
    """An engine whose jobs end at once; `commands` are what they were."""

    def __init__(self) -> None:
        self.commands: list[str] = []

    def submit(self, command: list[str], log: Path, num_threads: int) -> Job:
        self.commands.append(" ".join([*command[2:3], *command[4:]]))
        return Job(len(self.commands), log)

    def poll(self, job: Job) -> str:
        return "done"

    def cancel(self, job: Job) -> None:
        raise AssertionError(job)


def test_a_run_that_came_without_its_checkpoint_is_trained_again_first(tmp_path: Path) -> None:
    """And one that lacks rows is left to the study, which trains and evaluates it."""
    sd, rae, _ = (cell.run_id for cell in cells(STUDY))
    rows = [_row(sd, step, "euler", 50, shift) for step in STUDY.checkpoints for shift in STUDY.sample_shifts]
    results.write_results(tmp_path / "results.parquet", results.frame(rows))
    one, engine = replace(SWEEP, num_sample_steps=(10,), samplers=("euler",)), Recorder()
    found = results.collect(tmp_path)
    assert untrained(STUDY, tmp_path, found, missing_points(one, STUDY, found)) == cells(STUDY)[:1]
    run_sweep(one, STUDY, tmp_path, workers=1, engine=engine, say=lambda line: None)
    sweeps = [f"flowlab.jobs.sweep {run} euler/10/1.0 euler/10/6.93" for run in (sd, rae)]
    trained = f"flowlab.jobs.cell {sd} --train-only"
    assert engine.commands == ["flowlab.jobs.prepare sd", trained, *sweeps]
    (tmp_path / "cells" / sd / "checkpoints" / f"step_{STUDY.num_steps:08d}").mkdir(parents=True)
    run_sweep(one, STUDY, tmp_path, workers=1, engine=engine, say=lambda line: None)
    assert engine.commands[4:] == sweeps


def test_cost_counts_evaluations_of_the_network() -> None:
    points = {"a": [("euler", 50, 1.0), ("heun", 50, 1.0), ("euler", 10, 1.0)]}
    assert seconds_of_points(STUDY, points) == pytest.approx(8.0 * (1 + 2 + 0.2))


def test_a_sweep_that_chooses_nothing_says_so() -> None:
    with pytest.raises(ValueError, match="chooses no run of 'toy'"):
        missing_points(replace(SWEEP, distributions=("ts",)), STUDY, results.empty())
