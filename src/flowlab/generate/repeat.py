"""Make an image again from the facts inside its PNG: the same bits, on the same machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from flowlab.core.devices import default_device
from flowlab.generate.images import read_facts
from flowlab.generate.loading import LoraFile
from flowlab.generate.pipeline import Images, Pipeline
from flowlab.generate.plans import Plan, plan
from flowlab.generate.prompts import Prompt
from flowlab.generate.references import open_image

__all__ = ["pipeline_of", "repeat"]

IDENTITIES = ("model", "autoencoder", "text")


def repeat(path: Path | str, *, progress: bool = True) -> Images:
    """The image of a PNG that `flowlab generate` wrote from a prompt.

    Its references are found by their paths. A file that changed since, of any of them or of a model, is a
    ValueError. It runs in a batch of the same size, as the last bits of a product depend on that.
    """
    facts = read_facts(path)
    if "prompt" not in facts:
        raise ValueError(
            f"{path} was not made from a prompt; run `flowlab generate` with its model file instead"
        )
    return again(pipeline_of(facts), facts, progress=progress)


def pipeline_of(facts: Mapping[str, Any]) -> Pipeline:
    """The pipeline that made an image; a model whose identity is another now is a ValueError."""
    precision = facts["precision"]
    if torch.device(precision["device"]).type not in ("cpu", default_device().type):
        raise ValueError(
            f"the image was made on {precision['device']}, this is {default_device()}, which rounds"
            " otherwise; repeat it there, or give its prompt and seed"
        )
    for one in facts["loras"]:
        if not Path(one["file"]).is_file():
            raise ValueError(f"the adapter {one['file']} is gone; bring it back to make the image again")
    pipeline = Pipeline.from_pretrained(
        facts["model"]["file"],
        autoencoder=facts["autoencoder"]["name"],
        text=facts["text"]["name"],
        variant=facts["model"]["variant"],
        dtype=precision["weights"],
        device=precision["device"],
        loras=[LoraFile(file=one["file"], scale=one["scale"]) for one in facts["loras"]],
        offload=precision["offload"],
        quantise=precision["quantise"],
        tiles=precision["tiles"],
    )
    for part in IDENTITIES:
        then, now = facts[part]["identity"], pipeline.facts[part]["identity"]
        if then != now:
            name = facts[part].get("file", facts[part].get("name"))
            raise ValueError(
                f"the {part} {name} is {now} now, the image was made with {then}; bring that one back"
            )
    if pipeline.facts["loras"] != facts["loras"]:
        raise ValueError("an adapter changed since the image was made; bring the old file back")
    return pipeline


def again(pipeline: Pipeline, facts: Mapping[str, Any], *, progress: bool) -> Images:
    """The one image, out of a batch of copies of its request."""
    made = _plan(pipeline, facts)
    size, row = facts["batch"]["size"], facts["batch"]["row"]
    images = pipeline.run(replace(made, requests=made.requests * size), batch_size=size, progress=progress)
    return Images(pixels=images.pixels[row : row + 1], facts=images.facts[row : row + 1])


def _plan(pipeline: Pipeline, facts: Mapping[str, Any]) -> Plan:
    files = _unchanged(facts["references"], "reference")
    image, mask = ([one] if (one := facts[name]) else [] for name in ("image", "mask"))
    schedule = facts["schedule"]["name"]
    made = plan(
        Prompt(
            prompt=facts["prompt"], negative=facts["negative"], seed=facts["seed"], references=tuple(files)
        ),
        variant=pipeline.variant,
        stride=pipeline.autoencoder.spec.stride,
        width=facts["width"],
        height=facts["height"],
        num_steps=facts["num_steps"],
        guidance=facts["guidance"]["scale"],
        shift=float(schedule.removeprefix("shift:")) if schedule.startswith("shift:") else None,
        reference_cap=facts["reference_cap"],
        image=next(iter(_unchanged(image, "image")), None),
        mask=next(iter(_unchanged(mask, "mask")), None),
        strength=facts["strength"],
        keep_outside=facts["mask"]["keep_outside"] if mask else True,
    )
    first = replace(made.requests[0], index=facts["index"], rewritten=facts["rewritten"])
    return replace(made, requests=(first,))


def _unchanged(entries: Sequence[Mapping[str, Any]], what: str) -> list[str]:
    """The files of given images; one that changed, or that never was a file, is a ValueError."""
    for entry in entries:
        if entry["file"] is None:
            raise ValueError(f"a {what} was given from memory, not as a file; the image cannot be made again")
        if open_image(entry["file"], what).sha256 != entry["sha256"]:
            raise ValueError(f"the {what} {entry['file']} changed since; bring the old file back")
    return [entry["file"] for entry in entries]
