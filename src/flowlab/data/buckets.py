"""Batches of one shape: sizes that pictures of any aspect are cut to, and an order whose batches never mix.

A bucket is one size in pixels. Every picture goes to the bucket of nearest aspect, is resized until it covers
that size and cropped at its centre. More generally a *group* is any set of examples that may share a batch:
one bucket, or the edits with two references.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Protocol

import torch
from PIL import Image
from torch import Tensor

from flowlab.core.seeds import Streams
from flowlab.data.batch import Batch, Dataset

__all__ = ["Grouped", "assign", "bucket_sizes", "cover", "grouped_batches", "grouped_order", "report"]

Size = tuple[int, int]
"""(height, width) in pixels."""


class Grouped(Dataset, Protocol):
    """A dataset whose batches must not mix groups."""

    @property
    def groups(self) -> Tensor:
        """(n,) int64, the group of each example, numbered from 0."""
        ...


# ---- sizes -------------------------------------------------------------------------------------------------


def bucket_sizes(max_pixels: int, *, step: int = 64, max_aspect: float = 2.0) -> tuple[Size, ...]:
    """(height, width) of every bucket, from the tallest to the widest; sides are multiples of `step`.

    Every size within `max_pixels` and `max_aspect` (longer over shorter side) that fits into no other. A cap
    below one step by one step, or an aspect below 1, is a ValueError.
    """
    if step < 1 or max_pixels < step * step or max_aspect < 1:
        raise ValueError(
            f"buckets: {max_pixels=}, {step=}, {max_aspect=}; give at least step x step pixels and aspect 1"
        )
    wide = []
    for width in range(step, int(math.sqrt(max_pixels * max_aspect)) + 1, step):
        height = min(max_pixels // width, width) // step * step
        if height and width <= max_aspect * height:
            wide.append((height, width))
    best = {(h, w) for h, w in wide if not any((h, w) != (a, b) and h <= a and w <= b for a, b in wide)}
    return tuple(sorted(best | {(w, h) for h, w in best}, key=lambda size: size[1] / size[0]))


def assign(sizes: Sequence[Size], buckets: Sequence[Size]) -> Tensor:
    """The bucket (n,) int64 of pictures of `sizes`: the nearest in log aspect, the first of equals."""
    aspects = [
        torch.tensor([math.log(w / h) for h, w in each], dtype=torch.float64) for each in (sizes, buckets)
    ]
    return (aspects[0][:, None] - aspects[1]).abs().argmin(1)


def cover(image: Image.Image, size: Size) -> Image.Image:
    """The picture resized (Lanczos, aspect kept) until it just covers `size`, then cropped at its centre."""
    height, width = size
    scale = max(width / image.width, height / image.height)
    resized = max(width, round(image.width * scale)), max(height, round(image.height * scale))
    image = image.resize(resized, Image.Resampling.LANCZOS)
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))


def report(counts: Sequence[int], names: Sequence[str], batch_size: int) -> None:
    """Warn, in one line each, of groups that hold nothing and of those that hold less than a batch."""
    empty = [name for name, count in zip(names, counts, strict=True) if count == 0]
    small = [f"{name} ({count})" for name, count in zip(names, counts, strict=True) if 0 < count < batch_size]
    if empty:
        warnings.warn(f"{len(empty)} of {len(names)} groups are empty: {', '.join(empty)}", stacklevel=2)
    if small:
        warnings.warn(
            f"{len(small)} of {len(names)} groups hold less than a batch of {batch_size} and repeat in it:"
            f" {', '.join(small)}; lower the batch size, add images, or take fewer buckets",
            stacklevel=2,
        )


# ---- order -------------------------------------------------------------------------------------------------


def grouped_batches(
    dataset: Grouped, *, batch_size: int, seed: int, images_seen: int = 0
) -> Iterator[tuple[Batch, int]]:
    """Yield (batch of one group, images seen after it) without end, from any whole number of batches on."""
    if batch_size < 1 or images_seen < 0 or images_seen % batch_size:
        raise ValueError(f"{batch_size=}, {images_seen=}; grouped batches resume at whole batches only")
    if len(dataset) == 0:
        raise ValueError(f"the dataset {dataset.identity} holds no images; nothing can be trained on it")
    members = _members(dataset.groups)
    number = images_seen // batch_size
    while True:
        yield dataset.read(grouped_order(members, batch_size, seed, number)), (number + 1) * batch_size
        number += 1


def grouped_order(members: Sequence[Tensor], batch_size: int, seed: int, number: int) -> Tensor:
    """The examples (batch_size,) int64 of batch `number`, all of one group; `members` lists each group's.

    A group is an endless row of its examples, each pass in another keyed order, cut into whole batches. By
    the end of epoch e, group g has given floor(e n_g / batch_size) of them. What is over stands at the head
    of its next batch, so nothing is dropped: each example is shown once per pass, and after any epoch no
    group is a batch behind. Within an epoch the batches of all groups come in a keyed order.
    """
    counts = tuple(len(member) for member in members)
    epoch = _epoch_of(counts, batch_size, number)
    before = _batches_by(counts, batch_size, epoch)
    group, turn = _schedule(counts, batch_size, seed, epoch)[number - sum(before)]
    first = (before[group] + turn) * batch_size
    positions = torch.arange(first, first + batch_size)
    passes, places = positions // counts[group], positions % counts[group]
    rows = torch.empty_like(positions)
    for one in passes.unique().tolist():
        mine = passes == one
        rows[mine] = _permutation(counts[group], seed, group, one)[places[mine]]
    return members[group][rows]


def _members(groups: Tensor) -> list[Tensor]:
    """The examples of each group that has any, in order."""
    return [torch.nonzero(groups == group).flatten() for group in groups.unique().tolist()]


def _batches_by(counts: Sequence[int], batch_size: int, epoch: int) -> list[int]:
    """How many batches each group has given before `epoch`."""
    return [epoch * count // batch_size for count in counts]


def _epoch_of(counts: Sequence[int], batch_size: int, number: int) -> int:
    """The epoch in which batch `number` falls."""
    epoch = number * batch_size // sum(counts)  # as if nothing were carried: never too late
    while sum(_batches_by(counts, batch_size, epoch + 1)) <= number:
        epoch += 1
    return epoch


@lru_cache(maxsize=2)
def _schedule(counts: tuple[int, ...], batch_size: int, seed: int, epoch: int) -> list[tuple[int, int]]:
    """(group, its how manieth batch in this epoch) for each batch of an epoch."""
    before, after = (_batches_by(counts, batch_size, e) for e in (epoch, epoch + 1))
    groups = torch.arange(len(counts)).repeat_interleave(torch.tensor(after) - torch.tensor(before))
    keys = Streams.for_samples(seed, torch.arange(len(groups)), step=epoch, purpose="bucket order").keys
    shuffled = groups[keys.argsort()].tolist()
    given = [0] * len(counts)
    schedule = []
    for group in shuffled:
        schedule.append((group, given[group]))
        given[group] += 1
    return schedule


@lru_cache(maxsize=64)
def _permutation(count: int, seed: int, group: int, one_pass: int) -> Tensor:
    """The order (n,) of one pass through one group."""
    purpose = f"order of group {group}"
    return Streams.for_samples(seed, torch.arange(count), step=one_pass, purpose=purpose).keys.argsort()
