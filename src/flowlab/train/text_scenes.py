"""`scenes` as text-conditioned training reads it: scenes and edits rendered once, encoded once, by index."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from flowlab.core.files import read_json, write_json
from flowlab.core.seeds import Streams
from flowlab.data.batch import Batch, Window, checked
from flowlab.data.buckets import report
from flowlab.data.latents import LatentDataset
from flowlab.data.scenes import SceneEdits, SceneTable, boxes, scene_edits, scenes
from flowlab.train.text_data import Encoder, Example, TextLatents

__all__ = ["LONE_TOKENS", "ScenesConfig", "scenes_latents"]

BLOCK = 512
"""Prompts made at once."""
LONE_TOKENS = 19
"""Of the longest caption of one object in the embedded encoder: "a large dotted #12ABEF oval at the top left
on a dark background"."""


@dataclass(frozen=True, kw_only=True)
class ScenesConfig:
    """How many examples of each kind, which is also how often each is drawn.

    A kind of 0 is left out, so that a ladder (windows, text, one reference, two) keeps its caches.
    """

    text: int = 40_000
    """Scenes captioned in words."""
    json: int = 12_000
    """Other scenes, captioned as JSON."""
    dense: int = field(default=0, metadata={"in_id": "unless default"})
    """Of the scenes of `text` and `json`, listed a second time with a caption that leaves nothing out."""
    one_reference: int = 16_000
    """Edits of one picture."""
    two_references: int = 12_000
    """Edits with a second picture to take from."""
    lone: int = field(default=0, metadata={"in_id": "unless default"})
    """Scenes of one object captioned in words, of which a window around the object is learnt at its place in
    the whole: a third of the tokens, and most of them show it (Patch Diffusion, arXiv 2304.12526)."""
    times_edits: int = 1
    """How often each edit is listed: more, and edits are drawn more often without more of them."""
    times_lone: int = field(default=1, metadata={"in_id": "unless default"})
    """Likewise of the windows."""

    def validate(self) -> None:
        """At least one example, no negative number."""
        counts = self._counts()
        if min(counts.values()) < 0 or not any(counts.values()):
            raise ValueError(f"scenes has {counts}; give at least one example, and no negative number")
        if self.dense > self.text + self.json:
            raise ValueError(f"scenes.dense is {self.dense} of {self.text + self.json} scenes; give no more")
        for name in ("times_edits", "times_lone"):
            if getattr(self, name) < 1:
                raise ValueError(f"scenes.{name} is {getattr(self, name)}; give 1 or more")

    def at_most(self, count: int) -> ScenesConfig:
        """The same kinds with no more than `count` of each, each listed once."""
        return ScenesConfig(**{name: min(count, number) for name, number in self._counts().items()})

    def _counts(self) -> dict[str, int]:
        return {name: number for name, number in asdict(self).items() if not name.startswith("times")}


def scenes_latents(split: str, config: ScenesConfig, encoder: Encoder, batch_size: int) -> TextLatents:
    """Encoded scenes and edits; groups "text" (words and JSON), "one reference", "two references", and "lone"
    with the side of its windows."""
    parts = []
    if config.text + config.json:
        parts.append(_captioned(split, config, encoder))
    for num_references, num_images in ((1, config.one_reference), (2, config.two_references)):
        if num_images:
            parts.append(_edited(split, num_references, num_images, config.times_edits, encoder))
    if config.lone:
        parts += _lone(split, config.lone, config.times_lone, encoder)
    report([part.times * len(part.prompts) for part in parts], [part.name for part in parts], batch_size)
    return _joined(parts)


@dataclass(frozen=True)
class Part:
    """One group: example i has row `rows[i]` of the targets, n i to n i + n - 1 of the references."""

    name: str
    prompts: Sequence[str]
    targets: LatentDataset
    references: LatentDataset | None = None
    times: int = 1
    """How often each example is listed."""
    rows: Sequence[int] | None = None
    """None = all, in order."""
    windows: Sequence[Window] | None = None
    """Of the targets; None = whole pictures."""


def _joined(parts: Sequence[Part]) -> TextLatents:
    caches, examples = [], []
    for group, part in enumerate(parts):
        target, reference = len(caches), len(caches) + 1
        caches += [cache for cache in (part.targets, part.references) if cache is not None]
        each = 0 if part.references is None else len(part.references) // len(part.prompts)
        examples += [
            Example(
                prompt,
                (target, i if part.rows is None else part.rows[i]),
                [(reference, each * i + k) for k in range(each)],
                group,
                None if part.windows is None else part.windows[i],
            )
            for i, prompt in enumerate(part.prompts)
            for _ in range(part.times)
        ]
    return TextLatents(caches, examples, [part.name for part in parts])


# ---- kinds -------------------------------------------------------------------------------------------------


def _captioned(split: str, config: ScenesConfig, encoder: Encoder) -> Part:
    """Scenes, the first ones captioned in words and the others as JSON; then the first again, densely."""
    num_images, resolution = config.text + config.json, encoder.model.spec.resolution
    data = {
        style: scenes(split, num_images=num_images, resolution=resolution, style=style)
        for style in ("words", "json", "dense")
    }
    first, rest = torch.arange(num_images).split([config.text, config.json])
    rows = {"words": first, "json": rest, "dense": torch.arange(config.dense)}
    targets = encoder.encoded(data["words"])

    def say() -> list[str]:
        blocks = [(style, block) for style, own in rows.items() for block in own.split(BLOCK) if len(block)]
        return [prompt.text for style, block in blocks for prompt in data[style].prompts(block)]

    file = targets.folder / f"prompts_{config.text}_{config.dense}.json"
    return Part("text", _kept(file, say), targets, rows=torch.cat(list(rows.values())).tolist())


def _edited(split: str, num_references: int, num_images: int, times: int, encoder: Encoder) -> Part:
    """Edits with one or two references."""
    resolution = encoder.model.spec.resolution
    data = scene_edits(split, num_references=num_references, num_images=num_images, resolution=resolution)
    targets = encoder.encoded(data)
    name = {1: "one reference", 2: "two references"}[num_references]

    def say() -> list[str]:
        blocks = torch.arange(num_images).split(BLOCK)
        return [one.instruction for block in blocks for one in data.edits(block)]

    prompts = _kept(targets.folder / "prompts.json", say)
    return Part(name, prompts, targets, encoder.encoded(References(data)), times)


def _lone(split: str, num_images: int, times: int, encoder: Encoder) -> list[Part]:
    """Scenes of one object, a group for each side of their windows."""
    resolution, stride = encoder.model.spec.resolution, encoder.model.spec.stride
    data = scenes(split, num_images=num_images, resolution=resolution, num_objects=1)
    ordinary = scenes(split, num_images=num_images, resolution=resolution)
    targets = encoder.encoded(data, judged_by=ordinary)
    blocks = torch.arange(num_images).split(BLOCK)

    def say() -> list[str]:
        return [prompt.text for block in blocks for prompt in data.prompts(block)]

    prompts = _kept(targets.folder / "prompts.json", say)
    windows = torch.cat([_windows(data.table(block), block, resolution // stride) for block in blocks])
    parts = []
    for side in windows[:, 2].unique().tolist():
        rows = torch.nonzero(windows[:, 2] == side).flatten().tolist()
        own = [Window(*row) for row in windows[rows].tolist()]
        name = f"lone {side} x {side}"
        parts.append(Part(name, [prompts[i] for i in rows], targets, None, times, rows, own))
    return parts


def _windows(table: SceneTable, indices: Tensor, grid: int) -> Tensor:
    """(B, 3) int64: row, column and side, in tokens, of a square that holds each scene's first object.

    The picture is `grid` x `grid` tokens. A square is as small as holds the object's box wherever it lies
    between tokens, but half the picture at least; of the places that it can have, the index draws one.
    """
    first, last = (boxes(table)[:, 0] * grid).unflatten(1, (2, 2)).flip(-1).unbind(1)  # (B, 2) row and column
    side = ((last - first).amax(1, keepdim=True) + 1).ceil().clamp(grid // 2, grid)
    lowest = (last - side).ceil().clamp(min=0)
    highest = torch.minimum(first.floor(), grid - side)
    draw = Streams.for_samples(0, indices, purpose="lone window").uniform(2)  # (B, 2)
    origin = torch.lerp(lowest, highest + 1, draw).floor().clamp(max=highest)
    return torch.cat([origin, side], 1).long()


def _kept(file: Path, say: Callable[[], list[str]]) -> list[str]:
    """What `say` says, said once: an edit takes 2 ms, and a run may start many times."""
    if not file.is_file():
        write_json(file, say())
    return read_json(file)


class References:
    """The reference pictures of edits as a dataset: number n i + k is the k-th of edit i."""

    num_classes = 0

    def __init__(self, edits: SceneEdits):
        self.edits, self.resolution = edits, edits.resolution

    @property
    def identity(self) -> str:
        """Names the edits."""
        return f"references of {self.edits.identity}"

    def __len__(self) -> int:
        return len(self.edits) * self.edits.num_references

    def read(self, indices: Tensor, flip: Tensor | None = None) -> Batch:
        """Pixels uint8 (B, 3, R, R)."""
        assert flip is None, "a mirrored reference would belie its instruction"
        indices = checked(indices, len(self))
        wanted, rows = (indices // self.edits.num_references).unique(return_inverse=True)
        pictures = self.edits.references(wanted)  # (edits, n, 3, R, R)
        return Batch(index=indices, pixels=pictures[rows, indices % self.edits.num_references])
