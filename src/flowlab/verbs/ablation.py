"""`flowlab study ablate`: do the regularisers of autoencoders work?"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from flowlab.verbs.console import Verb

if TYPE_CHECKING:
    from flowlab.study.ablation import Ablation

__all__ = ["ABLATE"]


@dataclass(frozen=True, kw_only=True)
class AblateOptions:
    """Where, and on how many cores."""

    out: Path | None = None
    """The ablation's folder; by default runs/NAME."""
    workers: int | None = None
    """Arms at the same time, one core each; by default one per usable core, or one on a GPU."""
    debug: bool = False
    """The ablation's rehearsal of seconds; its numbers mean nothing."""
    dry_run: bool = False
    """Print the plan and stop."""


def ablate(name: str, ablation: Ablation, options: AblateOptions) -> None:
    """Train what is missing, then write ablation.parquet and ablation.html."""
    from flowlab.core.devices import num_workers
    from flowlab.study import ablation as ablations
    from flowlab.study.ablation_page import write
    from flowlab.study.ablation_runner import run

    folder, workers = options.out or Path("runs") / ablation.name, num_workers(options.workers)
    todo = ablations.missing(ablation, ablations.collect(folder))
    total = len(ablation.arms) * len(ablation.seeds)
    print(
        f"{ablation.name} in {folder}: {total} autoencoders, {len(ablation.flow_seeds)} flow models on each,"
        f" {workers} at a time"
    )
    print("".join(f"  {run}  to do\n" for run, _, _ in todo), end="")
    if options.dry_run:
        return
    outcome = run(ablation, folder, workers=workers)
    print(write(folder))
    if outcome.failed:
        task, line = next(iter(outcome.failed.items()))
        raise ValueError(f"{len(outcome.failed)} arms failed, the first is {task!r}: {line}")


def _names() -> dict[str, str]:
    from flowlab.study.ablation import ABLATIONS

    return {name: (function.__doc__ or "").split("\n")[0] for name, function in ABLATIONS.items()}


def _build(name: str, debug: bool) -> Ablation:
    from flowlab.study.ablation import build

    return build(name, debug=debug)


ABLATE = Verb(
    run=ablate,
    options=AblateOptions,
    summary="Train an autoencoder with each regulariser, and a fixed generator on each; compare them.",
    examples=(
        "flowlab study ablate ae_ablation",
        "flowlab study ablate ae_ablation --seeds 0 1 2 --workers 2 --out runs/three_seeds",
    ),
    subject="NAME",
    names=_names,
    config=_build,
    if_stopped="the same command goes on from here",
)
