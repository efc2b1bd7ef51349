"""`flowlab evaluate generation`: result rows of a model file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flowlab.core.counts import AtMost
from flowlab.verbs.generate import load_model, told

__all__ = ["GenerationOptions", "evaluate_generation"]


@dataclass(frozen=True, kw_only=True)
class GenerationOptions:
    """How many samples, against what."""

    shifts: tuple[float, ...] = ()
    """Sampling shifts, a row for each from the same noise and labels; by default the one of --shift."""
    num_samples: int = 1000
    """Images per distance; fewer than 1,000 mean little."""
    num_reference: int = AtMost(4000)
    """Held-out images behind the reference; by default fewer where there are fewer."""
    dataset: str = "digits"
    """Where the reference comes from: an embedded data set, or a folder of class folders."""
    split: str = "heldout"
    """A split of the data set; `all` for a folder without splits."""
    resize: str = "exact"
    """What a folder's images go through: exact (they have the size already) or adm (ADM's centre crop)."""
    judge: str = "digits judge"
    """Network whose features give FID."""
    seed: int = 0
    """Of noise and labels."""
    autoencoder: str | None = None
    """Name or path; by default the one that the model's file names."""
    cache: Path = Path("runs/cache")
    """Where reference features are kept."""
    out: Path | None = None
    """Append the rows to this file, one JSON object a line."""
    dry_run: bool = False
    """Print the plan and stop."""


def evaluate_generation(path: str, sampling: Any, options: GenerationOptions) -> None:
    """A model file => FID and KID at each sampling shift."""
    from flowlab.data import datasets
    from flowlab.evaluate.generation import at_shifts, evaluate
    from flowlab.evaluate.reference import yardstick
    from flowlab.generate.sampling import check
    from flowlab.metrics.frechet import few_images_note

    if options.num_samples < 2 or options.num_reference < 2:
        raise ValueError(
            f"--num-samples is {options.num_samples}, --num-reference {options.num_reference}; give 1,000"
        )
    configs = at_shifts(sampling, options.shifts or (sampling.shift,))
    for config in configs:
        check(config, "--shifts" if options.shifts else "--shift")
    model, autoencoder = load_model(path, options.autoencoder)
    resolution = autoencoder.spec.resolution
    images = datasets.load(
        options.dataset,
        options.split,
        num_images=options.num_reference,
        resolution=resolution,
        resize=options.resize,
    )
    print(
        f"{options.num_samples} samples at {len(configs)} sampling shifts against"
        f" {len(images):,} images of {options.dataset} {options.split}"
    )
    if note := few_images_note(min(options.num_samples, len(images))):
        print(f"note: {note}")
    if options.dry_run:
        return
    ruler = yardstick(
        options.dataset,
        resolution,
        len(images),
        options.judge,
        options.cache,
        split=options.split,
        resize=options.resize,
    )
    for result in evaluate(
        model, autoencoder, ruler, configs, num_samples=options.num_samples, seed=options.seed
    ):
        row = {"model": path, "ae": autoencoder.spec.name, **result.numbers}
        _report_row(row | {"gate": told(path).get("gate", "unknown")}, options.out)


def _report_row(row: Mapping[str, Any], out: Path | None) -> None:
    from flowlab.core.files import append_line

    print("\n".join(f"  {name:<20} {value}" for name, value in row.items()), flush=True)
    if out:
        append_line(out, json.dumps(row))
