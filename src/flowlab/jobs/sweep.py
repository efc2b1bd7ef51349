"""One finished run sampled again: other samplers, numbers of steps and shifts, on its last checkpoint.

`python -m flowlab.jobs.sweep STUDY_FOLDER RUN_ID SAMPLER/STEPS/SHIFT ...`. A row is appended once it exists.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from flowlab.core import checkpoints
from flowlab.evaluate.generation import evaluate
from flowlab.generate.sampling import SamplingConfig
from flowlab.jobs.cell import find_cell, flow_config, row_of, sampling_config, study_yardstick
from flowlab.jobs.files import load_study, reporting
from flowlab.study.grid import Cell, Study
from flowlab.study.results import append_row
from flowlab.train.loop import load_state
from flowlab.train.run import start

__all__ = ["main", "sweep_cell"]


def sweep_cell(study: Study, cell: Cell, study_folder: Path, points: Sequence[SamplingConfig]) -> None:
    """Append one row per point, all from the study's shared noise and labels."""
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
    for result in evaluate(model, autoencoder, ruler, points, **counts):
        append_row(folder / "rows.jsonl", row_of(study, cell, config, state, result.numbers))


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
