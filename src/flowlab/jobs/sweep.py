"""One finished run sampled again: other samplers, numbers of steps and shifts, on its last checkpoint.

`python -m flowlab.jobs.sweep STUDY_FOLDER RUN_ID SAMPLER/STEPS/SHIFT ...`. A row is appended once it exists.
First one of the rows that the run has is computed again: a run that was trained again, by other code or on
another machine, can be another model, whose rows must not stand among its own.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from flowlab.core import checkpoints
from flowlab.evaluate.generation import evaluate
from flowlab.generate.sampling import SamplingConfig
from flowlab.jobs.cell import find_cell, flow_config, row_of, sampling_config, study_yardstick
from flowlab.jobs.files import load_study, reporting
from flowlab.study.grid import Cell, Study
from flowlab.study.results import append_row, collect
from flowlab.train.loop import load_state
from flowlab.train.run import start

__all__ = ["main", "sweep_cell"]

SAME = 1e-3
"""Relative difference of the FID of one model, noise and labels: rounding only."""


def sweep_cell(study: Study, cell: Cell, study_folder: Path, points: Sequence[SamplingConfig]) -> None:
    """Append one row per point, all from the study's shared noise and labels.

    A checkpoint that does not give the FID of the run's own row is a ValueError.
    """
    config = flow_config(study, cell, study_folder)
    folder = study_folder / "cells" / cell.run_id
    newest = checkpoints.latest(folder / "checkpoints")
    if newest is None or checkpoints.step_of(newest) != study.num_steps:
        raise ValueError(f"run {cell.run_id!r} is not finished; `flowlab study run` trains it to its end")
    state, _ = start(config, folder)
    load_state(state, newest)
    model, autoencoder = state.emas["model"].module, state.fixed.autoencoder
    ruler = study_yardstick(study, study_folder)
    counts = {"num_samples": study.num_samples, "seed": study.sample_seed}
    base = replace(sampling_config(study), shift=study.sample_shifts[0])
    wanted = _fid(collect(study_folder), cell, study.num_steps, base)
    if wanted is not None:
        (again,) = evaluate(model, autoencoder, ruler, [base], **counts)
        _check_same(cell, wanted, again.numbers["fid"])
    for result in evaluate(model, autoencoder, ruler, points, **counts):
        append_row(folder / "rows.jsonl", row_of(study, cell, config, state, result.numbers))


def _fid(rows: pd.DataFrame, cell: Cell, step: int, sampling: SamplingConfig) -> float | None:
    """That of the run's row at `sampling`; None where there is none."""
    own = rows[(rows["run_id"] == cell.run_id) & (rows["step"] == step)]
    own = own[(own["sampler"] == sampling.sampler) & (own["num_steps"] == sampling.num_steps)]
    found = own[np.isclose(own["sampleshift"], sampling.shift)]["fid"]
    return float(found.iloc[0]) if len(found) else None


def _check_same(cell: Cell, wanted: float, found: float) -> None:
    if abs(found - wanted) > SAME * wanted:
        raise ValueError(
            f"run {cell.run_id!r} as it is trained here has FID {found:.4f}, its row {wanted:.4f}: code or"
            " machine differ, and so the model; run the study's arms of the sweep in a folder of their own"
            " (`flowlab study run NAME --arms ... --out FOLDER`), and sweep there"
        )


def _point(study: Study, word: str) -> SamplingConfig:
    """`heun/25/2.95` as the study's sampling with these three changed."""
    try:
        sampler, steps, shift = word.split("/")
        return replace(sampling_config(study), sampler=sampler, num_steps=int(steps), shift=float(shift))
    except ValueError:
        raise ValueError(f"cannot read the point {word!r}; write it as heun/25/2.95") from None


def main() -> None:
    """Command line of the job."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("study_folder", type=Path)
    parser.add_argument("run_id")
    parser.add_argument("points", nargs="+")
    options = parser.parse_args()
    with reporting():
        study = load_study(options.study_folder)
        points = [_point(study, word) for word in options.points]
        sweep_cell(study, find_cell(study, options.run_id), options.study_folder, points)


if __name__ == "__main__":
    main()
