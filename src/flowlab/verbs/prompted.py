"""`flowlab generate` with prompts: the plan and its cost, then images with their facts inside."""

from __future__ import annotations

import itertools
import json
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flowlab.generate.loading import Located
    from flowlab.generate.pipeline import Pipeline
    from flowlab.generate.plans import Plan
    from flowlab.generate.prompts import Prompt
    from flowlab.verbs.generate import GenerateOptions

__all__ = ["generate_prompts", "repeat_image"]

BATCH_SIZE = 4


def generate_prompts(words: Sequence[str], options: GenerateOptions) -> None:
    """Prompts => a folder of PNG images and a manifest, in the order of the prompts.

    Each image is written when it is done; the same command goes on in a folder where it was stopped.
    """
    from flowlab.generate.images import finish_folder, unfinished
    from flowlab.generate.loading import locate
    from flowlab.generate.pipeline import Pipeline, rewritten

    folder = options.out or _new_folder()
    kept = unfinished(folder)
    prompts = _prompts(words, options)
    located = locate(
        options.model,
        autoencoder=options.autoencoder,
        text_encoder=options.text,
        variant=options.variant,
    )
    plans = _plans(prompts, located, options)
    _describe(located, plans, options, folder)
    if options.dry_run:
        return
    if options.upsample is not None:
        new = rewritten(
            list(plans.values()), options.upsample, offload=options.offload, quantise=options.quantise
        )
        plans = dict(zip(plans, new, strict=True))
    pipeline = Pipeline.from_pretrained(
        options.model,
        autoencoder=options.autoencoder,
        text=options.text,
        variant=options.variant,
        dtype=options.precision,
        loras=_loras(options),
        offload=options.offload,
        quantise=options.quantise,
        tiles=options.tiles,
    )
    _tell_texts(pipeline, plans.values())
    plans = _remaining(pipeline, plans, kept, folder)
    for rows, one in plans.items():
        _make(pipeline, rows, one, folder, _batch_size(options))
    print(finish_folder(folder))


def repeat_image(path: Path, out: Path | None) -> None:
    """A PNG made from a prompt => the same image again."""
    from flowlab.generate.images import check_folder, shared, write_folder
    from flowlab.generate.repeat import repeat

    folder = check_folder(out) if out else _new_folder()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that the prompt was cut is in its facts
        images = repeat(path)
    common, own = shared(images.facts)
    print(write_folder(folder, images.pixels, own, common))


# ---- what is asked for -------------------------------------------------------------------------------------


def _prompts(words: Sequence[str], options: GenerateOptions) -> list[Prompt]:
    """From the command line, then from the file."""
    from flowlab.generate.prompts import as_prompt, read_prompts

    prompts = [as_prompt(word) for word in words]
    prompts += read_prompts(options.prompts) if options.prompts else []
    if not prompts:
        raise ValueError('there is no prompt; run: flowlab generate "a red star above a #3366CC ring"')
    return prompts


def _plans(
    prompts: Sequence[Prompt], located: Located, options: GenerateOptions
) -> dict[tuple[int, ...], Plan]:
    """Row numbers of images => their plan; prompts of one size share a plan."""
    from flowlab.generate.estimate import decoder_of
    from flowlab.generate.plans import plan

    num_images, stride = options.num_images or 1, decoder_of(located.autoencoder).stride
    groups: dict[Any, list[int]] = {}
    for row, prompt in enumerate(prompts):
        size = (prompt.width or options.width, prompt.height or options.height)
        shown = None if all(size) else prompt.references  # its size may be that of the first
        groups.setdefault((size, shown), []).append(row)
    plans = {}
    for group in groups.values():
        images = tuple(row * num_images + i for row in group for i in range(num_images))
        plans[images] = plan(
            [prompts[row] for row in group],
            variant=located.variant,
            stride=stride,
            negative=options.negative,
            width=options.width,
            height=options.height,
            num_steps=options.num_steps,
            guidance=options.guidance,
            shift=options.shift,
            seed=options.seed,
            num_images=num_images,
            references=options.references,
            reference_cap=options.reference_cap,
            image=options.image,
            strength=options.strength,
            mask=options.mask,
        )
    return plans


def _batch_size(options: GenerateOptions) -> int:
    return BATCH_SIZE if options.batch_size is None else options.batch_size


def _loras(options: GenerateOptions) -> Any:
    from flowlab.generate.loading import loras_of

    return loras_of(options.lora)


# ---- what is said ------------------------------------------------------------------------------------------


def _describe(
    located: Located, plans: dict[tuple[int, ...], Plan], options: GenerateOptions, folder: Path
) -> None:
    """The plan line by line; with --dry-run its cost, too."""
    from flowlab.core.choices import lookup
    from flowlab.core.devices import PRECISIONS, default_device
    from flowlab.generate.estimate import estimate
    from flowlab.generate.variants import VARIANTS

    kind = VARIANTS[located.variant].kind
    for rows, made in plans.items():
        taken = len(made.times) - 1
        steps = f"{taken} of {made.num_steps} steps" if taken < made.num_steps else f"{taken} steps"
        scale = "no guidance" if kind == "none" else f"guidance {made.guidance} ({kind})"
        name = f"{located.variant}, schedule {made.schedule}"
        print(f"{len(rows)} images, {made.width} x {made.height}, {steps}, {scale}, {name} => {folder}")
        given = [one for request in made.requests for one in request.references]
        given += [one for one in (made.image, made.mask) if one is not None]
        for line in dict.fromkeys(
            f"  {one.file}: {', '.join(one.transforms)}" for one in given if one.transforms
        ):
            print(line)
    if not options.dry_run:
        return
    device = default_device()
    precision = options.precision or ("float32" if device.type == "cpu" else "bfloat16")
    found = estimate(
        located,
        list(plans.values()),
        batch_size=_batch_size(options),
        precision=lookup(PRECISIONS, precision, "precision"),
        device=device,
        quantise=options.quantise,
        offload=options.offload,
        tiles=options.tiles,
    )
    print("\n".join(found.lines()))
    if options.upsample is not None:
        from flowlab.text.upsampling import upsampler_gb

        size = upsampler_gb(options.upsample, None if options.quantise == "none" else options.quantise)
        print(f"rewriting about {size:.2f} GB for {options.upsample}, before the rest is loaded")


def _tell_texts(pipeline: Pipeline, plans: Any) -> None:
    """Rewritten prompts, and those that are too long."""
    requests = [request for made in plans for request in made.requests if request.index == 0]
    for request in requests:
        if request.rewritten is not None:
            print(f"  rewritten: {request.rewritten}")
        texts = (request.text, request.negative or "")
        for text in texts:
            if (num := pipeline.text.num_tokens(text)) > pipeline.text.length:
                print(
                    f"  {num - pipeline.text.length} of {num} tokens are cut, the encoder reads"
                    f" {pipeline.text.length}: {text[:40]}..."
                )


# ---- what is made ------------------------------------------------------------------------------------------


def _remaining(
    pipeline: Pipeline, plans: dict[tuple[int, ...], Plan], kept: dict[int, Any], folder: Path
) -> dict[tuple[int, ...], Plan]:
    """The plans without the images that are there; one that was made otherwise is a ValueError."""
    asked = {
        row: (made, one) for rows, made in plans.items() for row, one in zip(rows, made.requests, strict=True)
    }
    for row, facts in kept.items():
        other = "number" if row not in asked else _difference(facts, pipeline.facts_of(*asked[row]))
        if other is not None:
            raise ValueError(
                f"{folder}/{row:05d}.png is of another run (its {other} differs);"
                " give another --out or delete it"
            )
    if kept:
        print(f"  {len(kept)} images are there already")
    left = {}
    for rows, made in plans.items():
        rows = tuple(row for row in rows if row not in kept)
        if rows:
            left[rows] = replace(made, requests=tuple(asked[row][1] for row in rows))
    return left


def _difference(found: dict[str, Any], expected: dict[str, Any]) -> str | None:
    """The first fact, but for the batch, in which an image on disk differs; None where none does."""
    expected = json.loads(json.dumps(expected))  # tuples as they come back from a file
    names = {**expected, **found}.keys() - {"batch"}
    return next((name for name in sorted(names) if found.get(name) != expected.get(name)), None)


def _make(pipeline: Pipeline, rows: tuple[int, ...], made: Plan, folder: Path, batch_size: int) -> None:
    """Image by image into the folder, under the numbers `rows`."""
    from flowlab.generate.images import write_image

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # said by _tell_texts
        for number, pixels, facts in pipeline.stream(made, batch_size=batch_size):
            write_image(folder, rows[number], pixels, facts)


def _new_folder() -> Path:
    """samples, samples_2, ...: the first that does not exist."""
    names = itertools.chain(["samples"], (f"samples_{number}" for number in itertools.count(2)))
    return next(Path(name) for name in names if not Path(name).exists())
