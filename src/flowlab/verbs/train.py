"""`flowlab train`: run or resume a preset."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["TrainOptions", "preset", "presets", "train"]


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """Where to, and how far."""

    out: Path | None = None
    """The run's folder; by default runs/PRESET. The same command resumes what the folder holds."""
    until_step: int | None = None
    """Stop after this update; by default at the end of the configuration."""
    debug: bool = False
    """The preset's rehearsal of seconds."""
    dry_run: bool = False
    """Print the plan and stop."""


def train(preset: str, config: Any, options: TrainOptions) -> None:
    """Run or resume a preset."""
    from flowlab.train.run import run

    folder = options.out or Path("runs") / (f"{preset}_debug" if options.debug else preset)
    if options.dry_run:
        print("\n".join(_train_plan(config, folder)))
        return
    print(run(config, folder, until_step=options.until_step))


def _train_plan(config: Any, folder: Path) -> list[str]:
    from flowlab.core.checkpoints import latest, step_of
    from flowlab.core.config import config_id, to_dict
    from flowlab.train.run import check_folder, validate

    validate(config)
    check_folder(config, folder)
    newest = latest(folder / "checkpoints")
    start = f"resumes after step {step_of(newest)}" if newest else "starts at step 0"
    steps, batch = config.loop.num_steps, config.loop.batch_size
    return [
        f"folder    {folder} ({start})",
        f"length    {steps:,} steps of {batch} images: {steps * batch:,} images seen",
        f"config    {config_id(config)} {type(config).__name__}",
        json.dumps(to_dict(config), indent=2),
    ]


def presets() -> dict[str, str]:
    """Each preset with the beginning of its docstring."""
    from flowlab.presets import PRESETS

    return {name: _first_sentence(preset) for name, preset in PRESETS.items()}


def preset(name: str, debug: bool) -> Any:
    """The configuration of a preset; an unknown name is a ValueError that lists the known ones."""
    from flowlab.core.choices import lookup
    from flowlab.presets import PRESETS

    return lookup(PRESETS, name, "preset")(debug=debug)


def _first_sentence(function: Any) -> str:
    return (function.__doc__ or "").strip().split("\n")[0].split("`flowlab")[0].strip()
