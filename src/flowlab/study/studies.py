"""The studies that ship with flowlab, one function each, and the sampling sweep on finished runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import product

from flowlab.core.choices import lookup
from flowlab.study.grid import (
    PAPER_AUTOENCODERS,
    SAMPLERS,
    SHIFTS,
    WIDE_SHIFTS,
    Arm,
    Cell,
    Study,
    cells,
    check_positive,
    check_unique,
    validate,
)

__all__ = [
    "STUDIES",
    "SWEEPS",
    "SamplingSweep",
    "build",
    "mini",
    "quickstart",
    "shift_law",
    "sweep_cells",
    "sweep_points",
    "validate_sweep",
]


# ---- studies -----------------------------------------------------------------------------------------------


def quickstart() -> Study:
    """The trade-off in twelve runs: channels, semantic alignment, REPA, reconstruction, a pair of each shift.

    Command: `flowlab study run quickstart --budget 6m`. The arms stand in order of importance, so that a slow
    machine drops the least instructive ones.
    """
    # What the arm adds                                  ae                repa       law   training shift
    arms = (
        Arm(ae="flux1", repa="none", trainp="ln", trainshift=1.0),  # base: 16 channels, weak KL
        Arm(ae="flux2", repa="none", trainp="ln", trainshift=1.0),  # 32 channels, semantic
        Arm(ae="sd", repa="none", trainp="ln", trainshift=1.0),  # 4 channels
        Arm(ae="flux2_plain", repa="none", trainp="ln", trainshift=1.0),  # 32 channels, not semantic
        Arm(ae="rae", repa="none", trainp="ln", trainshift=1.0),  # frozen encoder
        Arm(ae="flux1_semantic", repa="none", trainp="ln", trainshift=1.0),  # 16 channels, semantic
        Arm(
            ae="flux1", repa="teacher", trainp="ln", trainshift=1.0
        ),  # REPA where the latent has no semantics
        Arm(ae="flux2", repa="none", trainp="ln", trainshift=2.95),  # the training shift
        Arm(ae="flux2", repa="teacher", trainp="ln", trainshift=1.0),  # REPA where the latent has some
        Arm(ae="flux1", repa="none", trainp="ln", trainshift=2.95),
        Arm(ae="sd", repa="teacher", trainp="ln", trainshift=1.0),
        Arm(ae="rae", repa="none", trainp="ln", trainshift=2.95),
    )
    return Study(
        name="quickstart",
        arms=arms,
        sample_shifts=(1.0,),
        num_steps=400,
        checkpoints=(100, 200, 300, 400),
        num_train_images=8192,
        num_reference=2000,
        num_sample_steps=20,
        seconds_per_evaluation=5.0,
    )


def mini() -> Study:
    """The paper's whole grid in miniature: 120 runs per seed, 600 rows per checkpoint and seed.

    Command: `flowlab study run mini`. It resumes; seed 0 finishes before seed 1 starts.
    """
    return Study(
        name="mini",
        autoencoders=PAPER_AUTOENCODERS,
        distributions=("ln", "ts", "pln"),
        train_shifts=SHIFTS,
        repas=("none", "teacher"),
        seeds=(0, 1),
        sample_shifts=SHIFTS,
        num_steps=800,
        checkpoints=(200, 400, 600, 800),
    )


def shift_law() -> Study:
    """Does the best shift rise with the latent's dimension once the model is large enough? DiT-S.

    Command: `flowlab study run shift_law`. Meant for a GPU: 56 runs of 5,000 steps.
    """
    return Study(
        name="shift_law",
        autoencoders=PAPER_AUTOENCODERS,
        distributions=("ln",),
        train_shifts=WIDE_SHIFTS,
        repas=("none",),
        seeds=(0, 1),
        sample_shifts=WIDE_SHIFTS,
        backbone="S",
        batch_size=256,
        num_steps=5000,
        checkpoints=(1250, 2500, 3750, 5000),
        learning_rate=1e-4,
        ema_decay=0.999,
        num_samples=10_000,
        num_workers=1,
        seconds_per_step=0.012,
        seconds_per_evaluation=10.0,
        hardware="one data-centre GPU (timings by arithmetic, not measured)",
    )


STUDIES: dict[str, Callable[[], Study]] = {"quickstart": quickstart, "mini": mini, "shift_law": shift_law}


def build(name: str, *, debug: bool = False) -> Study:
    """The study `name`, validated; `debug` is its rehearsal: seconds long, its numbers meaningless."""
    study = lookup(STUDIES, name, "study")()
    return validate(_debug(study) if debug else study)


def _debug(study: Study) -> Study:
    arms = tuple(cell.arm for cell in cells(study)[:2])
    return replace(
        study,
        name=f"{study.name}_debug",
        arms=arms,
        seeds=study.seeds[:1],
        sample_shifts=study.sample_shifts[:2],
        backbone="tiny",
        batch_size=8,
        num_steps=4,
        checkpoints=(2, 4),
        num_train_images=64,
        num_samples=96,
        num_reference=96,
        num_sample_steps=2,
        reconstruction_images=16,
        sample_grid_images=4,
        draft=True,
    )


# ---- the sampling sweep ------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class SamplingSweep:
    """How the best sampling shift moves with the number of steps and the sampler, on finished runs.

    Every chosen run's last checkpoint is sampled again; its rows have the columns of the study's.
    """

    study: str
    """A key of STUDIES, whose runs are sampled."""
    autoencoders: tuple[str, ...] = PAPER_AUTOENCODERS
    """Of the chosen runs."""
    repas: tuple[str, ...] = ("none",)
    """Of the chosen runs."""
    distributions: tuple[str, ...] = ("ln",)
    """Of the chosen runs."""
    train_shifts: tuple[float, ...] = (1.0, 2.95)
    """Of the chosen runs."""
    num_sample_steps: tuple[int, ...] = (10, 25, 50, 100)
    """Updates from noise to data; Heun evaluates the network twice in each."""
    samplers: tuple[str, ...] = ("euler", "heun")
    """Keys of SAMPLERS."""
    sample_shifts: tuple[float, ...] = WIDE_SHIFTS
    """Each > 0. Wide: the best of SHIFTS is the last one in 113 of the 120 runs of mini's seed 0."""


SWEEPS = {"mini": SamplingSweep(study="mini")}


def sweep_cells(sweep: SamplingSweep, study: Study) -> list[Cell]:
    """The runs of `study` that the sweep samples, in the study's order."""
    chosen = {
        Arm(ae=ae, repa=repa, trainp=trainp, trainshift=shift)
        for ae, repa, trainp, shift in product(
            sweep.autoencoders, sweep.repas, sweep.distributions, sweep.train_shifts
        )
    }
    return [cell for cell in cells(study) if cell.arm in chosen]


def sweep_points(sweep: SamplingSweep) -> list[tuple[str, int, float]]:
    """Every (sampler, steps, sampling shift), the cheapest first."""
    points = product(sweep.samplers, sweep.num_sample_steps, sweep.sample_shifts)
    return sorted(points, key=lambda point: SAMPLERS[point[0]] * point[1])


def validate_sweep(sweep: SamplingSweep, study: Study) -> SamplingSweep:
    """Return the sweep; the first fault is a ValueError that names the value and the remedy."""
    where = f"the sampling sweep of {sweep.study!r}"
    for field in ("num_sample_steps", "samplers", "sample_shifts"):
        check_unique(where, field, getattr(sweep, field))
    for sampler in sweep.samplers:
        lookup(SAMPLERS, sampler, "sampler")
    for field in ("num_sample_steps", "sample_shifts"):
        for value in getattr(sweep, field):
            check_positive(where, f"a value of {field}", value)
    if not sweep_cells(sweep, study):
        raise ValueError(
            f"{where} chooses no run of {study.name!r}; take arms that `flowlab study plan` lists"
        )
    return sweep
