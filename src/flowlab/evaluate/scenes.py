"""A model that reads prompts => exactly how much of each prompt about coloured shapes its images show.

Prompts and edits are of held-out scenes, whose truth is known, and a reader on whose answers nothing was ever
trained says what each image shows. Beside the model's images stand three sets that give the scale: the truth
itself (what the reader can confirm at best), the truth through the autoencoder (what a model could reach in
that latent space), and images that ignore the prompt.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from flowlab.autoencoders.base import Autoencoder
from flowlab.core.choices import lookup
from flowlab.core.devices import device_of
from flowlab.core.pixels import to_float, to_uint8
from flowlab.data.scenes import Prompt as ScenePrompt
from flowlab.data.scenes import Scene, changed, render, scene_edits, scenes
from flowlab.data.scenes_objects import COLOURS
from flowlab.features.scene_reader import SceneReader, SeenScene
from flowlab.generate.pipeline import Pipeline
from flowlab.generate.prompts import Prompt
from flowlab.metrics.intervals import Interval
from flowlab.metrics.scenes import PictureScore, edit_success, score, summary, unchanged

__all__ = [
    "KINDS",
    "NUM_REFERENCES",
    "RESOLUTION",
    "SOURCES",
    "Judged",
    "Questions",
    "SceneScoring",
    "Scored",
    "evaluate",
    "questions",
]

RESOLUTION = 64
"""Pixels per side of everything here; the reader reads at this size."""
FIRST = 1 << 30
"""The first held-out scene that is asked about: previews during training count from 0."""
EVERY = 1 << 40
"""How many held-out scenes there are."""
SEEDS = 1 << 32
"""Noise seeds for each `seed`, so that no two share an image's noise."""
AT_ONCE = 64
"""Images read, or sent through the autoencoder, together."""
SOURCES = {
    "model": "model",
    "truth": "truth (ceiling)",
    "decoded": "truth through the autoencoder",
    "floor": "prompt ignored (floor)",
}
"""Whose images are read, with headings. `floor`: the truth of another prompt, or the unedited image."""


@dataclass(frozen=True, kw_only=True)
class SceneScoring:
    """How many prompts, and how their images are sampled."""

    num_prompts: int = 500
    """Of each kind."""
    seed: int = 0
    """Of the noise; the prompts are always the same."""
    num_steps: int | None = None
    """None = the model's own."""
    guidance: float | None = None
    """None = the model's own."""
    batch_size: int = 16
    """Images at once: changes speed and memory."""

    def __post_init__(self) -> None:
        if self.num_prompts < 2:
            raise ValueError(
                f"num_prompts is {self.num_prompts}; ask for at least 2, and 500 to mean something"
            )


# ---- what is asked -----------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Questions:
    """n prompts of one kind, with all that is needed to score their images."""

    kind: str
    """A key of KINDS."""
    indices: tuple[int, ...]
    """Held-out scenes or edits behind them."""
    prompts: tuple[str, ...]
    """As the model reads them."""
    asked: tuple[dict[str, Any], ...]
    """What is scored, as `metrics.scenes.score` takes it."""
    truth: Tensor
    """uint8 (n, 3, 64, 64): an image that is right in everything."""
    references: Tensor | None = None
    """uint8 (n, references, 3, 64, 64) of edits."""
    changed: Tensor | None = None
    """bool (n, 64, 64): where an edit had to change its first reference."""
    edits: tuple[str, ...] = ()
    """The kind of each edit, such as "recolour"."""


def questions(kind: str, num: int) -> Questions:
    """The first `num` of a kind, a key of KINDS; more only adds to them."""
    return lookup(KINDS, kind, "kind of prompt")(kind, num)


def _described(
    kind: str, num: int, style: str, keep: Callable[[ScenePrompt], bool], first: int = FIRST
) -> Questions:
    """Held-out scenes whose prompt `keep` takes."""
    dataset = scenes("heldout", num_images=EVERY, style=style)
    found = list[tuple[int, ScenePrompt, Scene]]()
    for start in itertools.count(first, num):
        indices = torch.arange(start, start + num)
        drawn = zip(indices.tolist(), dataset.prompts(indices), dataset.scenes(indices), strict=True)
        found += [one for one in drawn if keep(one[1])]
        if len(found) >= num:
            break
    places, said, truth = zip(*found[:num], strict=True)
    return Questions(
        kind=kind,
        indices=places,
        prompts=tuple(one.text for one in said),
        asked=tuple(one.asked for one in said),
        truth=render(truth, RESOLUTION),
    )


def _edited(kind: str, num: int, num_references: int) -> Questions:
    dataset = scene_edits("heldout", num_references=num_references, num_images=EVERY)
    indices = torch.arange(FIRST, FIRST + num)
    edits = dataset.edits(indices)
    shown = render([scene for one in edits for scene in one.references], RESOLUTION)
    return Questions(
        kind=kind,
        indices=tuple(indices.tolist()),
        prompts=tuple(one.instruction for one in edits),
        asked=tuple(one.asked for one in edits),
        truth=render([one.target for one in edits], RESOLUTION),
        references=shown.unflatten(0, (num, num_references)),
        changed=changed(edits, RESOLUTION),
        edits=tuple(one.kind for one in edits),
    )


def _any_prompt(prompt: ScenePrompt) -> bool:
    return True


def _by_hex(prompt: ScenePrompt) -> bool:
    """Every colour that the prompt asks for is written as a hex code."""
    return not {item["color"] for item in prompt.asked["objects"]} & set(COLOURS.values())


KINDS: dict[str, Callable[[str, int], Questions]] = {
    "text": partial(_described, style="words", keep=_any_prompt),
    "json": partial(_described, style="json", keep=_any_prompt),
    "hex": partial(_described, style="words", keep=_by_hex, first=FIRST + (1 << 20)),
    "one_reference": partial(_edited, num_references=1),
    "two_references": partial(_edited, num_references=2),
}
"""Prompts in words (half of the colours as hex codes), the same scenes as JSON, others in hex codes alone,
and edits of one and of two images."""
NUM_REFERENCES = {"text": 0, "json": 0, "hex": 0, "one_reference": 1, "two_references": 2}
"""Images that the prompts of a kind come with."""


# ---- what is seen ------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Judged:
    """What n images show, against what was asked."""

    pixels: Tensor
    """uint8 (n, 3, 64, 64)."""
    seen: tuple[SeenScene, ...]
    """By the reader."""
    scores: tuple[PictureScore, ...]
    changes: tuple[float, ...] | None
    """Of edits: how much the rest of the picture moved, see `metrics.scenes.unchanged`."""

    def right(self) -> list[bool]:
        """For each image: everything is as asked, and in an edit the rest unchanged."""
        if self.changes is None:
            return [one.all_right for one in self.scores]
        return [edit_success(*pair) for pair in zip(self.scores, self.changes, strict=True)]

    def numbers(self, rows: Sequence[int] | None = None) -> dict[str, Interval]:
        """The shares and the median of all images, or of some."""
        rows = range(len(self.scores)) if rows is None else rows
        changes = None if self.changes is None else [self.changes[row] for row in rows]
        return summary([self.scores[row] for row in rows], changes)


@dataclass(frozen=True, kw_only=True)
class Scored:
    """One kind of prompts, answered by all SOURCES."""

    questions: Questions
    facts: list[dict[str, Any]]
    """How each image of the model came to be."""
    judged: dict[str, Judged]
    """By source."""


def evaluate(
    pipeline: Pipeline,
    reader: SceneReader,
    kinds: Sequence[str],
    config: SceneScoring,
    *,
    progress: bool = True,
) -> Iterator[Scored]:
    """Yield each kind when it is done; `progress` shows a bar with the time left on stderr."""
    for kind in kinds:
        asked = questions(kind, config.num_prompts)
        made = pipeline(
            _requests(asked, config.seed),
            width=RESOLUTION,
            height=RESOLUTION,
            num_steps=config.num_steps,
            guidance=config.guidance,
            batch_size=config.batch_size,
            progress=progress,
        )
        images = {"model": made.pixels, **_yardsticks(asked, pipeline.autoencoder)}
        judged = {source: _judged(asked, images[source], reader) for source in SOURCES}
        yield Scored(questions=asked, facts=made.facts, judged=judged)


def _requests(asked: Questions, seed: int) -> list[Prompt]:
    """Each prompt with its references and noise of its own."""
    shown = [()] * len(asked.prompts) if asked.references is None else map(tuple, asked.references)
    return [
        Prompt(prompt=text, seed=seed * SEEDS + number, references=references)
        for number, (text, references) in enumerate(zip(asked.prompts, shown, strict=True))
    ]


def _yardsticks(asked: Questions, autoencoder: Autoencoder) -> dict[str, Tensor]:
    """The images beside the model's, in the order of the prompts."""
    ignored = asked.truth.roll(1, 0) if asked.references is None else asked.references[:, 0]
    return {"truth": asked.truth, "decoded": _round_trip(asked.truth, autoencoder), "floor": ignored}


@torch.no_grad()
def _round_trip(pixels: Tensor, autoencoder: Autoencoder) -> Tensor:
    """uint8 (n, 3, 64, 64) encoded and decoded again."""
    device = device_of(autoencoder)
    parts = [
        autoencoder.decode(autoencoder.latents(to_float(part.to(device)))).float()
        for part in pixels.split(AT_ONCE)
    ]
    return torch.cat([to_uint8(part).cpu() for part in parts])


def _judged(asked: Questions, pixels: Tensor, reader: SceneReader) -> Judged:
    seen = [one for part in pixels.split(AT_ONCE) for one in reader(part)]
    changes = None
    if asked.references is not None and asked.changed is not None:
        changes = tuple(unchanged(pixels, asked.references[:, 0], asked.changed).tolist())
    return Judged(
        pixels=pixels,
        seen=tuple(seen),
        scores=tuple(score(*pair) for pair in zip(seen, asked.asked, strict=True)),
        changes=changes,
    )
