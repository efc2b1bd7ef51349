"""What a study trains and measures, as plain data: the settings, and the cells in order of importance."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import product

from flowlab.core.choices import lookup

__all__ = [
    "AUTOENCODERS",
    "DISTRIBUTIONS",
    "OPTIMISERS",
    "PAPER_AUTOENCODERS",
    "REPAS",
    "SAMPLERS",
    "SHIFTS",
    "WIDE_SHIFTS",
    "Arm",
    "Cell",
    "Cost",
    "Study",
    "cells",
    "check_positive",
    "check_unique",
    "estimate",
    "in_order",
    "own_shift",
    "rule_shift",
    "run_id",
    "validate",
]

SHIFTS = (1.0, 1.78, 2.95, 4.63, 6.93)
"""The paper's shifts, evenly spaced in alpha^(1/4); training and sampling choose from them independently."""
WIDE_SHIFTS = (*SHIFTS, 9.99, 13.97)
"""Two points further on the same law: RAE's optimum lies on the edge of the paper's grid."""

AUTOENCODERS = {  # channels per token of the shipped 32 px autoencoders
    "sd": 4,
    "flux1": 16,
    "flux1_semantic": 16,
    "flux2_plain": 32,
    "flux2": 32,
    "rae": 64,
}
DISTRIBUTIONS = {"ts": "uniform, shifted", "ln": "logit-normal", "pln": "plateau logit-normal"}
REPAS = {"none": "no alignment", "teacher": "REPA with the teacher"}
SAMPLERS = {"euler": 1, "heun": 2}  # evaluations of the network per step
OPTIMISERS = ("adamw", "muon")
LABELS = ("random",)
PRECISIONS = ("float32", "bfloat16")
PAPER_AUTOENCODERS = ("sd", "flux1", "flux2", "rae")
MIN_SAMPLES = 1000
MIN_CHECKPOINTS = 4


# ---- the settings ------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, order=True)
class Arm:
    """One way to train a generator."""

    ae: str
    """A key of AUTOENCODERS."""
    repa: str = "none"
    """A key of REPAS."""
    trainp: str = "ln"
    """A key of DISTRIBUTIONS: the law of the training time."""
    trainshift: float = 1.0
    """The training shift alpha, > 0."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One run: an arm, a seed, and its place in the queue."""

    arm: Arm
    seed: int
    """Of the generator: its initial weights, order of images, times and noise."""
    priority: int
    """0 runs first."""

    @property
    def run_id(self) -> str:
        """As `run_id`."""
        return run_id(self)


@dataclass(frozen=True, kw_only=True)
class Study:
    """A grid of runs, each evaluated at several checkpoints and sampling shifts."""

    name: str
    """The folder under runs/."""
    dataset: str = "digits"
    """An embedded data set or the path of a folder of class folders."""
    autoencoders: tuple[str, ...] = PAPER_AUTOENCODERS
    """Keys of AUTOENCODERS."""
    repas: tuple[str, ...] = ("none", "teacher")
    """Keys of REPAS."""
    distributions: tuple[str, ...] = ("ln", "ts", "pln")
    """Keys of DISTRIBUTIONS, the base one first."""
    train_shifts: tuple[float, ...] = SHIFTS
    """Each > 0, the base one first."""
    sample_shifts: tuple[float, ...] = SHIFTS
    """Each > 0; every checkpoint is evaluated at all of them with shared noise and labels."""
    seeds: tuple[int, ...] = (0,)
    """Of the generators; a whole seed finishes before the next one starts."""
    arms: tuple[Arm, ...] | None = None
    """Explicit arms, most important first, in place of the product of the five fields above."""

    backbone: str = "tiny"
    """A size of flowlab.backbones."""
    batch_size: int = 64
    """Images per update."""
    num_steps: int = 800
    """Updates per run."""
    checkpoints: tuple[int, ...] = (200, 400, 600, 800)
    """Updates after which a run is evaluated, rising; the last is num_steps."""
    optimiser: str = "adamw"
    """adamw (the paper's) or muon."""
    learning_rate: float = 4e-3
    """Per update, constant."""
    weight_decay: float = 0.0
    """Decoupled."""
    ema_decay: float = 0.99
    """Per update; the averaged weights are the ones evaluated."""
    repa_weight: float = 0.5
    """On the alignment loss of the arms with REPA, > 0 where there are any."""
    class_dropout: float = 0.1
    """Share of the training labels replaced by the null label."""
    num_train_images: int = 16_384
    """Distinct training images."""
    gate: bool = True
    """Judge each autoencoder before its training data is encoded; changes no result."""

    num_samples: int = 1000
    """Generated images per distance; below 1,000 only in a draft."""
    num_reference: int = 4000
    """Held-out real images behind the reference statistics."""
    sampler: str = "euler"
    """A key of SAMPLERS."""
    num_sample_steps: int = 50
    """Updates of the sampler from noise to data."""
    guidance: float = 1.0
    """1 = off, as in the paper."""
    precision: str = "bfloat16"
    """Of the networks while they sample and decode: 1.6 times faster here than float32. Training is
    float32."""
    labels: str = "random"
    """Class labels of the samples, drawn once and shared by all runs."""
    sample_seed: int = 0
    """Of the samples' noise and labels, shared by all runs so that comparisons are paired."""
    reconstruction_images: int = 1000
    """Held-out images behind each autoencoder's reconstruction row, at least 2."""
    sample_grid_images: int = 36
    """Images of each run's sample grid; 0 skips the grids."""
    draft: bool = False
    """A rehearsal: too few samples or checkpoints are allowed, and no number of it means anything."""

    seconds_per_step: float = 0.043
    """Measured: one update without REPA on one core of `hardware`."""
    seconds_per_repa_step: float = 0.052
    """Measured: the same with REPA."""
    seconds_per_evaluation: float = 7.5
    """Measured: num_samples images at one sampling shift, decoded and judged, on one core."""
    num_workers: int = 2
    """Runs at the same time in `estimate`: one process with one thread per core."""
    hardware: str = "2 quiet cores of an AMD EPYC with AVX-512"
    """Where the three timings were measured."""


# ---- cells, most important first ---------------------------------------------------------------------------


def cells(study: Study) -> list[Cell]:
    """Every run of the study; a whole seed before the next.

    Within a seed the product is walked along diagonals from the base setting (the first of each field): first
    what differs from it in nothing, then in one step of one factor, and so on, all autoencoders side by side.
    A study that stops on time has therefore compared every autoencoder at the settings nearest to the base.
    """
    queue = [(seed, arm) for seed in study.seeds for arm in _arms(study)]
    return [Cell(arm=arm, seed=seed, priority=place) for place, (seed, arm) in enumerate(queue)]


def run_id(cell: Cell) -> str:
    """A readable name that no other cell of any study shares, such as `flux2_teacher_ln_4.63_s0`."""
    arm = cell.arm
    return f"{arm.ae}_{arm.repa}_{arm.trainp}_{float(arm.trainshift)}_s{cell.seed}"


def own_shift(ae: str) -> float:
    """The shift an autoencoder's own recipe asks for, on the paper's grid.

    The rule of SD3 (Esser et al. 2024, arXiv 2403.03206) and RAE (Zheng et al. 2025, arXiv 2510.11690):
    sqrt(m/n) with m numbers per latent against SD's n; of SHIFTS the one nearest in ln alpha. On the
    published latents it gives 1.0, 1.78, 2.95 and 6.93; on ours (4 channels per token for SD, 64 for RAE)
    1.0, 1.78, 2.95 and 4.63.
    """
    rule = rule_shift(ae)
    return min(SHIFTS, key=lambda shift: abs(math.log(shift / rule)))


def rule_shift(ae: str) -> float:
    """sqrt(m/n), as in `own_shift`, before rounding to the grid."""
    return math.sqrt(lookup(AUTOENCODERS, ae, "autoencoder") / AUTOENCODERS["sd"])


def in_order(aes: Iterable[str]) -> list[str]:
    """Autoencoder names, each once, as AUTOENCODERS lists them; others follow by name."""
    known = list(AUTOENCODERS)
    return sorted(set(aes), key=lambda ae: (known.index(ae) if ae in known else len(known), ae))


def _arms(study: Study) -> list[Arm]:
    if study.arms is not None:
        return list(study.arms)
    outer = product(enumerate(study.train_shifts), enumerate(study.distributions), enumerate(study.repas))
    walk = sorted(outer, key=lambda axes: (sum(place for place, _ in axes), [place for place, _ in axes]))
    return [
        Arm(ae=ae, repa=repa, trainp=trainp, trainshift=shift)
        for (_, shift), (_, trainp), (_, repa) in walk
        for ae in study.autoencoders
    ]


# ---- validation --------------------------------------------------------------------------------------------


def validate(study: Study) -> Study:
    """Return the study; the first fault is a ValueError that names the value, the field and the remedy."""
    where = f"study {study.name!r}"
    arms, source = _arms(study), "train_shifts" if study.arms is None else "arms"
    check_unique(where, "arms", arms)
    for arm in arms:
        _names(arm)
        check_positive(where, f"a shift of {source}", arm.trainshift)
    for field in ("seeds", "sample_shifts", "checkpoints"):
        check_unique(where, field, getattr(study, field))
    for shift in study.sample_shifts:
        check_positive(where, "a shift of sample_shifts", shift)
    lookup(SAMPLERS, study.sampler, "sampler")
    lookup(dict.fromkeys(OPTIMISERS), study.optimiser, "optimiser")
    lookup(dict.fromkeys(LABELS), study.labels, "label policy")
    lookup(dict.fromkeys(PRECISIONS), study.precision, "precision")
    counts = (
        "batch_size",
        "num_steps",
        "num_train_images",
        "num_samples",
        "num_reference",
        "num_sample_steps",
    )
    for field in (*counts, "learning_rate", "guidance", "num_workers"):
        check_positive(where, field, getattr(study, field))
    if any(arm.repa != "none" for arm in arms):
        check_positive(where, "repa_weight", study.repa_weight)
    if not 0 <= study.ema_decay < 1:
        raise ValueError(f"{where}: ema_decay is {study.ema_decay}; choose 0 <= ema_decay < 1")
    _checkpoints(where, study)
    _samples(where, study)
    return study


def _checkpoints(where: str, study: Study) -> None:
    steps = study.checkpoints
    if list(steps) != sorted(steps) or steps[0] <= 0 or steps[-1] != study.num_steps:
        raise ValueError(
            f"{where}: checkpoints are {steps}; they must rise from above 0 to num_steps = {study.num_steps}"
        )
    if len(steps) < MIN_CHECKPOINTS and not study.draft:
        raise ValueError(f"{where}: {len(steps)} checkpoints draw no curve; give at least {MIN_CHECKPOINTS}")


def _samples(where: str, study: Study) -> None:
    for field in ("num_samples", "num_reference"):
        if getattr(study, field) < MIN_SAMPLES and not study.draft:
            raise ValueError(
                f"{where}: {field} is {getattr(study, field)}; "
                f"a distance in 64 features needs at least {MIN_SAMPLES}"
            )
    for field, least in (("reconstruction_images", 2), ("sample_grid_images", 0)):
        if getattr(study, field) < least:
            raise ValueError(f"{where}: {field} is {getattr(study, field)}; give {least} or more")


def _names(arm: Arm) -> None:
    lookup(AUTOENCODERS, arm.ae, "autoencoder")
    lookup(REPAS, arm.repa, "REPA setting")
    lookup(DISTRIBUTIONS, arm.trainp, "timestep distribution")


def check_positive(where: str, what: str, value: float) -> None:
    """A ValueError that names a value which is not a finite number above 0."""
    if not (value > 0 and math.isfinite(value)):
        raise ValueError(f"{where}: {what} is {value}; it must be above 0")


def check_unique(where: str, field: str, values: Iterable[object]) -> None:
    """A ValueError that names the first value given twice, or an empty list."""
    if not list(values):
        raise ValueError(f"{where}: {field} is empty; give at least one")
    seen: set[object] = set()
    for value in values:
        if value in seen:
            raise ValueError(f"{where}: {field} holds {value} twice; keep it once")
        seen.add(value)


# ---- cost --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Cost:
    """An estimate from the study's own measured timings."""

    train_seconds: float
    """Core-seconds of training."""
    sample_seconds: float
    """Core-seconds of sampling, decoding and judging."""
    wall_seconds: float
    """Seconds on the clock with num_workers runs at a time."""


def estimate(study: Study, todo: list[Cell] | None = None) -> Cost:
    """What the cells of `todo` (None = all of them) take from the first update to the last row."""
    todo = cells(study) if todo is None else todo
    per_step = {"none": study.seconds_per_step, "teacher": study.seconds_per_repa_step}
    train = sum(study.num_steps * per_step[cell.arm.repa] for cell in todo)
    sample = len(todo) * len(study.checkpoints) * len(study.sample_shifts) * study.seconds_per_evaluation
    return Cost(train_seconds=train, sample_seconds=sample, wall_seconds=(train + sample) / study.num_workers)
