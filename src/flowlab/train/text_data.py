"""What text-conditioned training reads, by index: prompts, and cached latents of targets and references."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from flowlab.autoencoders import gate
from flowlab.autoencoders.base import Autoencoder
from flowlab.core.config import config_id
from flowlab.core.devices import device_of
from flowlab.core.pixels import to_float
from flowlab.data.batch import Batch, Dataset, Window, checked, in_order
from flowlab.data.buckets import assign, bucket_sizes, report
from flowlab.data.captioned import Pictures, captioned
from flowlab.data.latents import LatentDataset, default_batch, write_cache

__all__ = ["BucketsConfig", "Encoder", "Example", "TextLatents", "folder_latents"]

IN_MEMORY = 1 << 30
"""Bytes of a cache above which its files are mapped, not read."""


@dataclass(frozen=True, kw_only=True)
class BucketsConfig:
    """The sizes that a folder's pictures are cut to."""

    max_pixels: int = 1024 * 1024
    """Of a bucket, and of a reference."""
    step: int = 64
    """Sides are multiples of it, and it of 16 (of the autoencoder's stride). A wider step, fewer buckets."""
    max_aspect: float = 2.0
    """Longer over shorter side of the most extreme bucket; pictures beyond lose their ends."""


Place = tuple[int, int]
"""Of an encoded picture: the number of its cache and its row there."""


class Example(NamedTuple):
    """What to learn from."""

    prompt: str
    target: Place
    references: Sequence[Place]
    group: int
    window: Window | None = None
    """The part of the target that is learnt, of one side in all of a group; None = the whole."""


class TextLatents:
    """Encoded examples in groups: the target's moments, its prompt, and the means of its references.

    All targets of a group lie in one cache, so that a batch of one group has one shape. References may lie
    anywhere and differ in number and size.
    """

    num_classes = 0

    def __init__(self, caches: Sequence[LatentDataset], examples: Sequence[Example], names: Sequence[str]):
        self.caches, self.names = tuple(caches), tuple(names)
        self.groups = torch.tensor([one.group for one in examples])
        self._examples = tuple(examples)
        outcomes = {cache.gate for cache in caches}
        self.gate = next(one for one in ("warned", "off", "passed") if one in outcomes)
        """The worst that the gate said of the autoencoder."""

    @property
    def identity(self) -> str:
        """Names every cache and the prompts."""
        return f"text latents {config_id([*(cache.identity for cache in self.caches), *self._examples])}"

    @property
    def resolution(self) -> int:
        """The longest side of any picture."""
        return max(cache.resolution for cache in self.caches)

    def __len__(self) -> int:
        return len(self._examples)

    @property
    def prompts(self) -> list[str]:
        """Of every example."""
        return [one.prompt for one in self._examples]

    def first(self, count: int) -> dict[str, Batch]:
        """The first examples of each group that has any, by its name."""
        rows = {name: torch.nonzero(self.groups == i).flatten() for i, name in enumerate(self.names)}
        return {name: self.read(mine[:count]) for name, mine in rows.items() if len(mine)}

    def read(self, indices: Tensor, flip: Tensor | None = None) -> Batch:
        """Examples (B,) of one group: moments, text, and references where any of them has some."""
        assert flip is None, "a mirrored picture would belie its caption"
        indices = checked(indices, len(self))
        examples = [self._examples[index] for index in indices.tolist()]
        numbers, rows = torch.tensor([one.target for one in examples]).unbind(1)
        assert numbers.unique().numel() == 1, "a batch of text latents comes from one group"
        places = [one.references for one in examples]
        windows = tuple(one.window for one in examples if one.window is not None)
        return Batch(
            index=indices,
            moments=self.caches[int(numbers[0])].read(rows).moments,
            windows=windows or None,
            text=tuple(one.prompt for one in examples),
            references=self._means(places) if any(places) else None,
        )

    def _means(self, places: Sequence[Sequence[Place]]) -> tuple[tuple[Tensor, ...], ...]:
        """The means (c, h, w) at `places`, each cache asked once."""
        wanted = sorted({place for row in places for place in row})
        found: dict[Place, Tensor] = {}
        for number in sorted({number for number, _ in wanted}):
            mine = [place for place in wanted if place[0] == number]
            moments = self.caches[number].read(torch.tensor([row for _, row in mine])).moments
            assert moments is not None, "a latent cache without means"
            found |= dict(zip(mine, moments[0], strict=True))
        return tuple(tuple(found[place] for place in row) for row in places)


# ---- encoding ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Encoder:
    """An autoencoder with the place of its caches."""

    model: Autoencoder
    cache: Path
    gate: bool
    """Whether the gate judges the model before each cache is written."""

    def encoded(self, pictures: Dataset, judged_by: Dataset | None = None) -> LatentDataset:
        """The posterior means of `pictures`, from the cache where they are there.

        The variance is not kept: FLUX.2 trains and edits on means. The gate judges by the pictures
        `judged_by` where `pictures` are a chosen few, less varied than what the autoencoder learned.
        """
        model, device = self.model, device_of(self.model)
        folder = self.cache / f"{model.spec.name}_{config_id([model.identity, pictures.identity, 'mean'])}"
        write_cache(
            folder,
            pictures,
            lambda images: (model.encode(to_float(images).to(device)).mean, None),
            identity=model.identity,
            dtype="float16",
            gate=partial(self._outcome, judged_by),
        )
        size = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
        return LatentDataset(folder, identity=model.identity, in_memory=size < IN_MEMORY)

    def _outcome(self, judged_by: Dataset | None, images: Iterator[Tensor]) -> str:
        if judged_by is not None:
            batches = in_order(judged_by, batch_size=default_batch(judged_by.resolution))
            images = (batch.pixels for batch in batches if batch.pixels is not None)
        return gate.check(self.model, images, enabled=self.gate).outcome


def folder_latents(
    root: Path | str, buckets: BucketsConfig, encoder: Encoder, batch_size: int
) -> TextLatents:
    """The captioned pictures of a folder, encoded per bucket; a group is a bucket of targets."""
    stride = encoder.model.spec.stride
    if buckets.step % stride:
        raise ValueError(
            f"buckets.step is {buckets.step}; give a multiple of the autoencoder's stride {stride}"
        )
    folder = captioned(root)
    sizes = bucket_sizes(buckets.max_pixels, step=buckets.step, max_aspect=buckets.max_aspect)
    owner = dict(zip(folder.files, assign(folder.sizes, sizes).tolist(), strict=True))
    groups = [owner[one.file] for one in folder.examples]
    names = [f"{height}x{width}" for height, width in sizes]
    report([groups.count(bucket) for bucket in range(len(sizes))], names, batch_size)
    _warn_of_long(folder.sizes, buckets.max_aspect)
    caches, places = [], {}
    for bucket in sorted(set(owner.values())):
        files = [file for file in folder.files if owner[file] == bucket]
        places |= {file: (len(caches), row) for row, file in enumerate(files)}
        caches.append(encoder.encoded(Pictures(folder.root, files, sizes[bucket])))
    examples = [
        Example(one.text, places[one.file], [places[file] for file in one.references], group)
        for one, group in zip(folder.examples, groups, strict=True)
    ]
    return TextLatents(caches, examples, names)


def _warn_of_long(sizes: Sequence[tuple[int, int]], max_aspect: float) -> None:
    """Say how many pictures are cropped hard."""
    long = sum(abs(math.log(width / height)) > math.log(max_aspect) + 0.1 for height, width in sizes)
    if long:
        warnings.warn(
            f"{long} of {len(sizes)} pictures are longer than {max_aspect}:1 and lose their ends; raise"
            " buckets.max_aspect to keep them",
            stacklevel=3,
        )
