"""`flowlab study`: plan, run, status, report and sweep."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flowlab.core.choices import lookup
from flowlab.verbs.ablation import ABLATE
from flowlab.verbs.console import Verb

if TYPE_CHECKING:
    from flowlab.study.grid import Arm, Study
    from flowlab.study.studies import SamplingSweep

__all__ = ["VERBS", "seconds_of"]


@dataclass(frozen=True, kw_only=True)
class FolderOptions:
    """Where the study is."""

    out: Path | None = None
    """The study's folder; by default runs/NAME."""


@dataclass(frozen=True, kw_only=True)
class PlanOptions(FolderOptions):
    """Which folder counts as done, and how many cores there are."""

    workers: int | None = None
    """Runs at the same time, one core each; by default one per usable core, or one on a GPU."""
    debug: bool = False
    """The study's rehearsal of seconds; its numbers mean nothing."""


@dataclass(frozen=True, kw_only=True)
class RunOptions(PlanOptions):
    """How long."""

    budget: str | None = None
    """Start nothing that would end later than this, such as 6m or 1h30m; what is missing is listed."""
    dry_run: bool = False
    """Print the plan and stop."""


def plan(name: str, study: Study, options: PlanOptions) -> None:
    """Print cells, cost and time; start nothing."""
    _planned(name, study, options)


def _planned(name: str, study: Study, options: PlanOptions) -> Study:
    """The study as it can run here, its plan printed; what cannot run is refused, and nothing is written."""
    from flowlab.core.devices import num_workers
    from flowlab.jobs import inputs
    from flowlab.study import runner
    from flowlab.study.grid import validate

    standard, workers = _build(name, options.debug), num_workers(options.workers)
    _check_arms(study, standard)
    study = inputs.fitted(validate(study), standard)
    inputs.check(study)
    folder = _folder(study.name, options.out)
    runner.check_folder(study, folder)
    print("\n".join(_plan_lines(study, folder, workers)))
    return study


def run(name: str, study: Study, options: RunOptions) -> None:
    """Compute what is missing, then write the report."""
    from flowlab.study import runner

    budget = seconds_of(options.budget) if options.budget else None
    study = _planned(name, study, options)
    if options.dry_run:
        return
    folder = _folder(study.name, options.out)
    outcome = runner.run(study, folder, budget_seconds=budget, workers=options.workers)
    print(f"{len(outcome.finished)} tasks in {outcome.seconds:.0f} s; {len(outcome.missing)} runs incomplete")
    print("".join(f"  missing: {run}\n" for run in outcome.missing), end="")
    report(study.name, options)
    _complain(outcome.failed, folder)


def _complain(failed: Mapping[str, str], folder: Path) -> None:
    """A ValueError that names the first failed task and where its log is."""
    if failed:
        task, line = next(iter(failed.items()))
        logs = folder / "logs"
        raise ValueError(f"{len(failed)} tasks failed, the first is {task!r}: {line} (see {logs})")


def status(name: str, options: FolderOptions) -> None:
    """Count what is finished, and name what is not."""
    from flowlab.jobs.files import load_study
    from flowlab.study import results
    from flowlab.study.grid import cells

    folder = _folder(name, options.out)
    study, rows = load_study(folder), results.collect(folder)
    todo = results.next_jobs(study, rows)
    planned = len(cells(study)) * len(study.checkpoints) * len(study.sample_shifts)
    print(f"{folder}: {len(cells(study)) - len(todo)} of {len(cells(study))} runs are complete")
    print(f"{planned - sum(len(job.missing) for job in todo)} of {planned} rows")
    print("".join(f"  {job.run_id}: {len(job.missing)} rows missing\n" for job in todo), end="")


def report(name: str, options: FolderOptions) -> None:
    """Write report.html from the rows there are, and print its path."""
    from flowlab.study.report import write

    print(write(_folder(name, options.out)))


@dataclass(frozen=True, kw_only=True)
class SweepOptions(FolderOptions):
    """On which folder, on how many cores."""

    workers: int | None = None
    """Runs at the same time, one core each; by default one per usable core, or one on a GPU."""
    dry_run: bool = False
    """Print the plan and stop."""


def sweep(name: str, settings: SamplingSweep, options: SweepOptions) -> None:
    """Sample finished runs again with other steps, samplers and shifts, then write the report."""
    from flowlab.core.devices import num_workers
    from flowlab.jobs.files import load_study
    from flowlab.study import results
    from flowlab.study.grid import estimate
    from flowlab.study.sweep import missing_points, run_sweep, seconds_of_points, untrained

    folder = _folder(settings.study, options.out)
    study, rows = load_study(folder), results.collect(folder)
    todo = missing_points(settings, study, rows)
    again = untrained(study, folder, rows, todo)
    print("".join(f"  {run:<36} {len(points):>4} points\n" for run, points in todo.items()), end="")
    work, workers = seconds_of_points(study, todo), num_workers(options.workers)
    work += estimate(study, again).train_seconds
    first = f" ({len(again)} trained again first: their checkpoints are not here)" if again else ""
    print(f"to do: {len(todo)} runs{first}, about {_clock(work / workers)} with {_workers(workers)}")
    if options.dry_run:
        return
    outcome = run_sweep(settings, study, folder, workers=options.workers)
    report(study.name, options)
    _complain(outcome.failed, folder)


def _check_arms(study: Study, original: Study) -> None:
    """Refuse to ignore an option: explicit arms stand in place of the five fields of the product."""
    for field in ("autoencoders", "repas", "distributions", "train_shifts"):
        if study.arms is not None and getattr(study, field) != getattr(original, field):
            option = f"--{field.replace('_', '-')}"
            raise ValueError(
                f"{option} has no effect beside explicit arms; add `--arms None`, or give --arms instead"
            )


# ---- the plan ----------------------------------------------------------------------------------------------


def _plan_lines(study: Study, folder: Path, workers: int) -> Iterator[str]:
    from flowlab.study import results
    from flowlab.study.grid import cells, estimate

    queue = cells(study)
    todo = {job.run_id for job in results.next_jobs(study, results.collect(folder))}
    rows = len(study.checkpoints) * len(study.sample_shifts)
    yield f"study {study.name} in {folder}: {len(queue)} runs of {study.num_steps} steps, {rows} rows each"
    yield (
        f"images of {study.dataset}: {study.num_train_images:,} for training; held out"
        f" {study.num_reference:,} behind distances, {study.reconstruction_images:,} for reconstruction"
    )
    for cell in queue:
        cost = estimate(study, [cell])
        state = "to do" if cell.run_id in todo else "done"
        yield f"  {cell.run_id:<36} {_clock(cost.train_seconds + cost.sample_seconds):>12}  {state}"
    left = estimate(replace(study, num_workers=workers), [cell for cell in queue if cell.run_id in todo])
    train, sample = _clock(left.train_seconds), _clock(left.sample_seconds)
    yield f"to do: {len(todo)} runs; training {train}, sampling {sample} of core time"
    yield f"about {_clock(left.wall_seconds)} with {_workers(workers)}, by timings of {study.hardware}"


def _workers(count: int) -> str:
    return "1 worker" if count == 1 else f"{count} workers"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s"


def seconds_of(text: str) -> float:
    """The seconds of "90s", "6m" or "1h30m"; anything else is a ValueError."""
    match = re.fullmatch(
        r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s)?", text.replace(" ", "")
    )
    parts = [float(part or 0) for part in match.groups()] if match else []
    if not sum(parts):
        raise ValueError(f"cannot read {text!r} as a duration above 0; write it as 90s, 6m or 1h30m")
    return parts[0] * 3600 + parts[1] * 60 + parts[2]


# ---- names -------------------------------------------------------------------------------------------------


def studies() -> dict[str, str]:
    """Each study with the first line of its description."""
    from flowlab.study.studies import STUDIES

    return {name: (study.__doc__ or "").split("\n")[0] for name, study in STUDIES.items()}


def written_arms() -> Any:
    """On the command line an arm is one word: AE/REPA/DISTRIBUTION/SHIFT."""
    from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

    from flowlab.study.grid import Arm

    def rule(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Arm] | None:
        if info.type is not Arm:
            return None
        return PrimitiveConstructorSpec(
            nargs=1,
            metavar="AE/REPA/DISTRIBUTION/SHIFT",
            instance_from_str=lambda words: _arm_of(words[0]),
            is_instance=lambda value: isinstance(value, Arm),
            str_from_instance=lambda arm: [f"{arm.ae}/{arm.repa}/{arm.trainp}/{arm.trainshift}"],
        )

    registry = ConstructorRegistry()
    registry.primitive_rule(rule)
    return registry


def _arm_of(word: str) -> Arm:
    from flowlab.study.grid import Arm

    parts = word.split("/")
    if len(parts) != 4 or not re.fullmatch(r"\d+(\.\d+)?", parts[3]):
        raise ValueError(f"cannot read the arm {word!r}; write it as flux2/teacher/ln/2.95")
    return Arm(ae=parts[0], repa=parts[1], trainp=parts[2], trainshift=float(parts[3]))


def _build(name: str, debug: bool) -> Study:
    from flowlab.study.studies import build

    return build(name, debug=debug)


def sweeps() -> dict[str, str]:
    """Each sweep with the size of its product."""
    from flowlab.study.studies import SWEEPS, sweep_points

    return {
        name: f"{len(sweep_points(one))} points on the last checkpoint of chosen runs of {one.study}"
        for name, one in SWEEPS.items()
    }


def _sweep(name: str, debug: bool) -> SamplingSweep:
    from flowlab.study.studies import SWEEPS

    return lookup(SWEEPS, name, "sweep")


def _folder(name: str, out: Path | None) -> Path:
    """`out`, or the folder of that name under runs/, if there is such a folder or such a study."""
    folder = out or Path("runs") / name
    if not folder.exists():
        lookup(studies(), name.removesuffix("_debug"), "study")
    return folder


VERBS = {
    "plan": Verb(
        run=plan,
        options=PlanOptions,
        summary="Print the runs of a study, most important first, with cost and time; start nothing.",
        examples=(
            "flowlab study plan mini",
            "flowlab study plan quickstart --num-steps 200 --checkpoints 50 100 150 200",
        ),
        subject="NAME",
        names=studies,
        config=_build,
        registry=written_arms,
    ),
    "run": Verb(
        run=run,
        options=RunOptions,
        summary="Compute what is missing of a study, then write its report.",
        examples=(
            "flowlab study run quickstart --budget 6m",
            "flowlab study run mini --seeds 0 --workers 2 --out runs/one_seed",
            "flowlab study run quickstart --dataset path/to/class/folders --dry-run",
        ),
        subject="NAME",
        names=studies,
        config=_build,
        registry=written_arms,
        if_stopped="the same command goes on from here",
    ),
    "status": Verb(
        run=status,
        options=FolderOptions,
        summary="Count finished runs and rows, and name what is missing.",
        examples=("flowlab study status mini",),
        subject="NAME",
        names=studies,
    ),
    "report": Verb(
        run=report,
        options=FolderOptions,
        summary="Write report.html from the rows there are: one file that opens from disk.",
        examples=("flowlab study report quickstart", "flowlab study report mini --out runs/one_seed"),
        subject="NAME",
        names=studies,
    ),
    "sweep": Verb(
        run=sweep,
        options=SweepOptions,
        summary="Sample a study's finished runs again: other steps, samplers and sampling shifts.",
        examples=(
            "flowlab study sweep mini --dry-run",
            "flowlab study sweep mini --samplers heun --num-sample-steps 10 25 --out runs/one_seed",
        ),
        subject="NAME",
        names=sweeps,
        config=_sweep,
        if_stopped="the same command goes on from here",
    ),
    "ablate": ABLATE,
}
