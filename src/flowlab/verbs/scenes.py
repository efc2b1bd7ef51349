"""`flowlab evaluate scenes`: what images of coloured shapes show of what their prompts ask for."""

from __future__ import annotations

import shlex
import time
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flowlab.evaluate.scenes import SceneScoring, Scored
    from flowlab.generate.loading import Located
    from flowlab.generate.pipeline import Pipeline

__all__ = ["ScenesOptions", "evaluate_scenes"]

SHIPPED = "flux2_scenes"


@dataclass(frozen=True, kw_only=True)
class ScenesOptions:
    """How many prompts of which kinds, and where the scores go."""

    num_prompts: int = 500
    """Of each kind."""
    kinds: tuple[str, ...] = ("text", "json", "hex", "one_reference", "two_references")
    """Kinds of prompts, with spaces or commas between them."""
    seed: int = 0
    """Of the noise; the prompts are always the same held-out ones."""
    num_steps: int | None = None
    """Updates from noise to image; by default the model's own."""
    guidance: float | None = None
    """Guidance scale; by default the model's own."""
    batch_size: int = 16
    """Images at once: changes speed and memory."""
    out: Path = Path("scene_scores")
    """A new folder for the tables, the sheets and the images."""
    dry_run: bool = False
    """Print the plan and stop."""


def evaluate_scenes(model: str | None, options: ScenesOptions) -> None:
    """A model that reads prompts => a folder of table.md, scores.parquet, scores.json, sheets and images."""
    from flowlab.evaluate import scenes, scenes_sheet
    from flowlab.evaluate.scenes_table import line
    from flowlab.features import scene_reader
    from flowlab.generate.images import check_folder
    from flowlab.generate.pipeline import Pipeline

    model, kinds = model or SHIPPED, _kinds(options.kinds)
    config = _config(options)
    folder = check_folder(options.out)
    reader = scene_reader.load()
    _plan(_located(model, kinds), kinds, config, folder)
    if options.dry_run:
        return
    pipeline = Pipeline.from_pretrained(model)
    start, results = time.perf_counter(), []
    for result in scenes.evaluate(pipeline, reader, kinds, config):
        kind = result.questions.kind
        scenes_sheet.write(folder / f"sheet_{kind}.png", result)
        _write_images(folder / "images" / kind, result)
        print(f"{kind}: {line(result.judged['model'])}", flush=True)
        results.append(result)
    facts = _facts(model, pipeline, kinds, options, results, time.perf_counter() - start)
    _write(folder, results, reader.error_rates, facts)


# ---- before the first expensive second ---------------------------------------------------------------------


def _kinds(words: Sequence[str]) -> list[str]:
    """Each kind once, in the order given."""
    from flowlab.core.choices import lookup
    from flowlab.evaluate.scenes import KINDS

    kinds = list(dict.fromkeys(kind for word in words for kind in word.split(",") if kind))
    if not kinds:
        raise ValueError(f"--kinds names none; choose from: {', '.join(KINDS)}")
    for kind in kinds:
        lookup(KINDS, kind, "kind of prompt")
    return kinds


def _config(options: ScenesOptions) -> SceneScoring:
    from flowlab.evaluate.scenes import SceneScoring

    if options.batch_size < 1:
        raise ValueError(f"--batch-size is {options.batch_size}; give 1 or more")
    return SceneScoring(**{one.name: getattr(options, one.name) for one in fields(SceneScoring)})


def _located(model: str, kinds: Sequence[str]) -> Located:
    """The parts, known to read prompts and to take the references that `kinds` come with."""
    from flowlab.evaluate.scenes import NUM_REFERENCES
    from flowlab.generate.loading import locate
    from flowlab.generate.variants import VARIANTS

    located = locate(model)
    takes = VARIANTS[located.variant].max_references
    refused = [kind for kind in kinds if NUM_REFERENCES[kind] > takes]
    if refused:
        raise ValueError(f"{model} takes {takes or 'no'} references; leave {refused[0]} out of --kinds")
    return located


def _plan(located: Located, kinds: Sequence[str], config: SceneScoring, folder: Path) -> None:
    """Print what will be done; what the model cannot be asked for is a ValueError."""
    from flowlab.evaluate.scenes import RESOLUTION
    from flowlab.generate.estimate import decoder_of
    from flowlab.generate.variants import check_size, settle_guidance, settle_steps

    check_size(located.variant, RESOLUTION, RESOLUTION, decoder_of(located.autoencoder).stride)
    steps = settle_steps(located.variant, config.num_steps)
    scale = settle_guidance(located.variant, config.guidance, False)
    print(
        f"{located.model} ({located.variant}) on {config.num_prompts} held-out prompts of each kind:"
        f" {', '.join(kinds)}; {steps} steps, guidance {scale}, seed {config.seed} => {folder}",
        flush=True,
    )


# ---- what is written ---------------------------------------------------------------------------------------


def _write_images(folder: Path, result: Scored) -> None:
    """The model's images; what all have in common stands once in their manifest."""
    from flowlab.generate.images import shared, write_folder

    common, own = shared(result.facts)
    write_folder(folder, result.judged["model"].pixels, own, common)


def _facts(
    model: str,
    pipeline: Pipeline,
    kinds: Sequence[str],
    options: ScenesOptions,
    results: Sequence[Scored],
    seconds: float,
) -> dict[str, Any]:
    """How the scores came to be."""
    from flowlab.core.devices import machine

    first = results[0].facts[0]
    given = [("num_steps", options.num_steps), ("guidance", options.guidance)]
    words = ["flowlab", "evaluate", "scenes", model, "--num-prompts", options.num_prompts, "--kinds", *kinds]
    words += ["--seed", options.seed, "--batch-size", options.batch_size]
    for name, value in given:
        words += [] if value is None else [f"--{name.replace('_', '-')}", value]
    settings = {name: first[name] for name in ("num_steps", "guidance", "schedule", "sampler", "precision")}
    return {
        "command": shlex.join(map(str, words)),
        "model": {**first["model"], "file": Path(first["model"]["file"]).name},
        "autoencoder": first["autoencoder"],
        "text": first["text"],
        "machine": machine(pipeline.device),
        "seconds": round(seconds, 1),
        "seed": options.seed,
        "settings": {**settings, "num_prompts": options.num_prompts, "batch_size": options.batch_size},
    }


def _write(folder: Path, results: Sequence[Scored], errors: dict[str, Any], facts: dict[str, Any]) -> None:
    """The tables, each whole or absent."""
    from flowlab.core.files import atomic_path, write_json
    from flowlab.evaluate import scenes_table

    scenes_table.write_records(folder / "scores.parquet", results)
    scores = {"reader_error_rates": errors, "scores": scenes_table.numbers(results)}
    write_json(folder / "scores.json", {**facts, **scores})
    made = scenes_table.markdown(results, errors)
    with atomic_path(folder / "table.md") as draft:
        draft.write_text(made, encoding="utf-8")
    print(f"\n{made}\n{folder / 'table.md'}")
