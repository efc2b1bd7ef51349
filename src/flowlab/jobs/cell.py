"""One run of a study: train, evaluate every checkpoint at every sampling shift, append a row for each.

`python -m flowlab.jobs.cell STUDY_FOLDER RUN_ID [--until-step N | --train-only]`. Started again, it computes
only what is missing.
"""

from __future__ import annotations

import argparse
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from flowlab import __version__
from flowlab.autoencoders.base import Autoencoder
from flowlab.core import checkpoints
from flowlab.core.config import config_id
from flowlab.core.devices import machine
from flowlab.core.files import atomic_path, read_json, write_json
from flowlab.core.pixels import contact_sheet
from flowlab.data.transforms import to_pil
from flowlab.evaluate.generation import Generated, at_shifts, evaluate
from flowlab.evaluate.reference import Yardstick, yardstick
from flowlab.generate.sampling import SamplingConfig
from flowlab.jobs.files import load_study, reporting
from flowlab.study.grid import Cell, Study, cells
from flowlab.study.results import append_row, planned, read_rows
from flowlab.train.flow import AlignmentConfig, FlowConfig, TimesConfig
from flowlab.train.loop import LoopConfig, load_state
from flowlab.train.optim import OptimiserConfig
from flowlab.train.run import start
from flowlab.train.state import Record, TrainState

__all__ = [
    "Clock",
    "find_cell",
    "flow_config",
    "main",
    "run_cell",
    "sampling_config",
    "study_yardstick",
    "train_cell",
]

JUDGE = "digits judge"


def run_cell(study: Study, cell: Cell, study_folder: Path, until_step: int | None = None) -> None:
    """Train and evaluate `cell`, resuming from what its folder holds."""
    config = flow_config(study, cell, study_folder)
    folder = study_folder / "cells" / cell.run_id
    restart_if_rows_were_lost(study, folder)
    state, records = start(config, folder, until_step)
    run = Run(study, cell, config, folder, state, study_yardstick(study, study_folder), Clock(folder))
    newest = checkpoints.latest(folder / "checkpoints")
    if newest is not None and checkpoints.step_of(newest) in study.checkpoints:
        load_state(state, newest)
        run.evaluate_checkpoint()
    run.clock.start()
    for record in records:
        run.note(record)
        if record.saved and record.step in study.checkpoints:
            run.evaluate_checkpoint()


def train_cell(study: Study, cell: Cell, study_folder: Path) -> None:
    """Train `cell` to its end and evaluate nothing: for a run whose rows were copied without its weights."""
    folder = study_folder / "cells" / cell.run_id
    _, records = start(flow_config(study, cell, study_folder), folder)
    clock = Clock(folder)
    for record in records:
        clock.note(record)


def restart_if_rows_were_lost(study: Study, folder: Path) -> None:
    """Rows of a step whose checkpoint is gone need the run again, which gives the same numbers."""
    newest = checkpoints.latest(folder / "checkpoints")
    if newest is None:
        return
    past = [step for step in study.checkpoints if step < checkpoints.step_of(newest)]
    if any(missing_shifts(study, folder, step) for step in past):
        shutil.rmtree(folder / "checkpoints")
        (folder / "clock.json").unlink(missing_ok=True)


def missing_shifts(study: Study, folder: Path, step: int) -> list[float]:
    """Sampling shifts at which that step has no row yet."""
    rows = planned(study, read_rows(folder / "rows.jsonl"))
    done = set(rows.loc[rows["step"] == step, "sampleshift"])
    return [shift for shift in study.sample_shifts if shift not in done]


class Clock:
    """Training seconds up to the last checkpoint, kept beside it."""

    def __init__(self, folder: Path):
        self.path = folder / "clock.json"
        self.seconds: float = read_json(self.path)["seconds"] if self.path.is_file() else 0.0
        self.start()

    def start(self) -> None:
        """Training goes on from now."""
        self._started = time.perf_counter()

    def note(self, record: Record) -> None:
        """Count the update that `record` describes."""
        if record.saved:
            self.seconds += time.perf_counter() - self._started
            write_json(self.path, {"step": record.step, "seconds": self.seconds})
            self.start()


@dataclass
class Run:
    """A cell being computed."""

    study: Study
    cell: Cell
    config: FlowConfig
    folder: Path
    state: TrainState
    yardstick: Yardstick
    clock: Clock
    losses: list[Tensor] = field(default_factory=list)
    """Of this process."""

    def note(self, record: Record) -> None:
        """Count the update that `record` describes."""
        self.losses.append(record.scalars["flow"])
        self.clock.note(record)

    def mean_loss(self) -> float:
        """Mean flow loss of the last hundred updates; NaN right after a resume."""
        return float(torch.stack(self.losses[-100:]).mean()) if self.losses else float("nan")

    def evaluate_checkpoint(self) -> None:
        """Append the rows that this step still lacks."""
        model, autoencoder = self.state.emas["model"].module, self.state.fixed.autoencoder
        shifts = missing_shifts(self.study, self.folder, self.state.step)
        before = self.clock.seconds
        for result in sample_and_judge(self.study, model, autoencoder, self.yardstick, shifts):
            row = row_of(self.study, self.cell, self.config, self.state, result.numbers)
            row |= {"loss": self.mean_loss(), "train_seconds": before}
            self._keep_sheet(result, row)  # before the row: a row that exists is never computed again
            append_row(self.folder / "rows.jsonl", row)
        self.clock.start()

    def _keep_sheet(self, result: Generated, row: dict[str, Any]) -> None:
        """The last checkpoint leaves a sheet of samples at its first sampling shift, for the report."""
        num = self.study.sample_grid_images
        last = self.state.step == self.study.num_steps
        if not (num and last and result.numbers["sampleshift"] == self.study.sample_shifts[0]):
            return
        with atomic_path(self.folder / "samples.png") as draft:
            to_pil(contact_sheet(result.images[:num], columns=12)).save(draft, format="PNG")
        write_json(self.folder / "samples.json", row)


def sample_and_judge(
    study: Study, model: nn.Module, autoencoder: Autoencoder, ruler: Yardstick, shifts: Sequence[float]
) -> Any:
    """Evaluate at `shifts` as the study asks."""
    configs = at_shifts(sampling_config(study), shifts)
    return evaluate(model, autoencoder, ruler, configs, num_samples=study.num_samples, seed=study.sample_seed)


def row_of(
    study: Study, cell: Cell, config: FlowConfig, state: TrainState, numbers: dict[str, Any]
) -> dict[str, Any]:
    """A result row: the arm, the numbers, and everything needed to trace them."""
    arm = cell.arm
    return {
        "step": state.step,
        "ae": arm.ae,
        "repa": arm.repa,
        "trainp": arm.trainp,
        "trainshift": float(arm.trainshift),
        **numbers,
        "images_seen": state.images_seen,
        "seed": cell.seed,
        "run_id": cell.run_id,
        "config_id": config_id(replace(config, cache="")),
        "dataset": study.dataset,
        "backbone": study.backbone,
        "optimiser": study.optimiser,
        "loss": float("nan"),
        "train_seconds": float("nan"),
        "machine": machine(state.device),
        "torch": torch.__version__,
        "flowlab": __version__,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "gate": state.fixed.gate,
    }


# ---- a study's settings as configurations ------------------------------------------------------------------


def flow_config(study: Study, cell: Cell, study_folder: Path) -> FlowConfig:
    """The generator that `cell` trains."""
    arm = cell.arm
    weight = study.repa_weight if arm.repa != "none" else 0.0
    return FlowConfig(
        autoencoder=arm.ae,
        dataset=study.dataset,
        num_images=study.num_train_images,
        cache=str(cache_of(study_folder)),
        gate=study.gate,
        backbone=study.backbone,
        times=TimesConfig(distribution=arm.trainp, alpha=arm.trainshift),
        alignment=AlignmentConfig(weight=weight),
        class_dropout=study.class_dropout,
        ema_decay=study.ema_decay,
        optimiser=OptimiserConfig(
            name=study.optimiser, learning_rate=study.learning_rate, weight_decay=study.weight_decay
        ),
        loop=LoopConfig(
            seed=cell.seed,
            batch_size=study.batch_size,
            num_steps=study.num_steps,
            save_steps=study.checkpoints,
            keep=1,
        ),
    )


def neediest_cell(study: Study, ae: str) -> Cell:
    """A cell of that autoencoder whose training data serves all its cells: one with alignment, if any has."""
    mine = [cell for cell in cells(study) if cell.arm.ae == ae]
    if not mine:
        used = ", ".join(sorted({cell.arm.ae for cell in cells(study)}))
        raise ValueError(f"study {study.name!r} has no run on autoencoder {ae!r}; it has: {used}")
    return max(mine, key=lambda cell: cell.arm.repa != "none")


def sampling_config(study: Study) -> SamplingConfig:
    """How the study samples, at shift 1."""
    return SamplingConfig(
        sampler=study.sampler,
        num_steps=study.num_sample_steps,
        guidance=study.guidance,
        precision=study.precision,
    )


def study_yardstick(study: Study, study_folder: Path) -> Yardstick:
    """The judge and reference that every row of the study shares."""
    return yardstick(study.dataset, 32, study.num_reference, JUDGE, cache_of(study_folder))


def cache_of(study_folder: Path) -> Path:
    """Encoded data sets are shared by the studies beside each other."""
    return study_folder.parent / "cache"


def find_cell(study: Study, run_id: str) -> Cell:
    """The cell of that name; an unknown name is a ValueError."""
    for cell in cells(study):
        if cell.run_id == run_id:
            return cell
    raise ValueError(
        f"study {study.name!r} has no run {run_id!r}; `flowlab study plan {study.name}` lists them"
    )


def main() -> None:
    """Command line of the job."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("study_folder", type=Path)
    parser.add_argument("run_id")
    until = parser.add_mutually_exclusive_group()
    until.add_argument("--until-step", type=int)
    until.add_argument("--train-only", action="store_true")
    options = parser.parse_args()
    with reporting():
        study = load_study(options.study_folder)
        cell = find_cell(study, options.run_id)
        if options.train_only:
            train_cell(study, cell, options.study_folder)
        else:
            run_cell(study, cell, options.study_folder, options.until_step)


if __name__ == "__main__":
    main()
