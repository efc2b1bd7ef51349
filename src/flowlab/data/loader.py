"""The endless shuffled stream of batches: resumable at any image, optionally read ahead by a thread.

Sample number g (0, 1, 2, ... over the whole run) belongs to epoch g // n and shows image
`order(n, seed, g)`, a keyed permutation of the epoch. Nothing else decides the order: no generator state, no
batch size. To resume is to start at `images_seen`.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator, Iterator
from functools import lru_cache
from typing import TypeVar

import torch
from torch import Tensor

from flowlab.core.seeds import Streams
from flowlab.data.batch import Batch, Dataset

__all__ = ["batches", "order", "read_ahead"]

T = TypeVar("T")


def batches(
    dataset: Dataset,
    *,
    batch_size: int,
    seed: int,
    images_seen: int = 0,
    flip: bool = False,
    prefetch: int = 0,
) -> Iterator[tuple[Batch, int]]:
    """Yield (batch, images seen after it) without end; a batch may cross from one epoch into the next.

    `flip` mirrors each sample with probability 1/2, keyed by (seed, g), so it differs between epochs.
    `prefetch` > 0 reads that many batches ahead in a background thread.
    """
    if batch_size < 1 or images_seen < 0 or prefetch < 0:
        raise ValueError(
            f"{batch_size=}, {images_seen=}, {prefetch=}; a batch needs at least 1, the others 0"
        )
    if len(dataset) == 0:
        raise ValueError(f"the dataset {dataset.identity} holds no images; nothing can be trained on it")
    stream = _stream(dataset, batch_size, seed, images_seen, flip)
    return read_ahead(stream, prefetch) if prefetch else stream


def _stream(dataset: Dataset, size: int, seed: int, seen: int, flip: bool) -> Iterator[tuple[Batch, int]]:
    while True:
        samples = torch.arange(seen, seen + size)
        mirrored = (
            Streams.for_samples(seed, samples, purpose="flip").integers(2) == 1 if flip else None
        )  # (B,)
        seen += size
        yield dataset.read(order(len(dataset), seed, samples), mirrored), seen


def order(num_images: int, seed: int, samples: Tensor) -> Tensor:
    """Sample numbers g (B,) int64 => the images (B,) int64 they show; every epoch shows each image once."""
    epochs = samples // num_images
    indices = torch.empty_like(samples)
    for epoch in epochs.unique().tolist():
        mine = epochs == epoch
        indices[mine] = _permutation(num_images, seed, epoch)[samples[mine] - epoch * num_images]
    return indices


@lru_cache(maxsize=4)
def _permutation(num_images: int, seed: int, epoch: int) -> Tensor:
    """The order (n,) of one epoch: images by their keys, distinct because the hash is a bijection."""
    return Streams.for_samples(seed, torch.arange(num_images), step=epoch, purpose="order").keys.argsort()


# ---- reading ahead -----------------------------------------------------------------------------------------


def read_ahead(items: Iterator[T], depth: int) -> Generator[T, None, None]:
    """The same items, produced by a background thread that stays at most `depth` ahead.

    What the thread raises is raised here, after the items before it. Closing or dropping the iterator ends
    the thread before it returns.
    """
    ready: queue.Queue[list[T] | BaseException] = queue.Queue(
        maxsize=depth
    )  # [item], [] at the end, or a failure
    stop = threading.Event()
    thread = threading.Thread(target=_produce, args=(items, ready, stop), name="read_ahead", daemon=True)
    thread.start()
    try:
        while entry := ready.get():
            if isinstance(entry, BaseException):
                raise entry
            yield entry[0]
    finally:
        stop.set()
        thread.join()


def _produce(items: Iterator[T], ready: queue.Queue[list[T] | BaseException], stop: threading.Event) -> None:
    try:
        for item in items:
            if not _put(ready, [item], stop):
                return
        _put(ready, [], stop)
    except BaseException as problem:  # noqa: BLE001  whatever it is, it belongs to the consumer
        _put(ready, problem, stop)


def _put(
    ready: queue.Queue[list[T] | BaseException], entry: list[T] | BaseException, stop: threading.Event
) -> bool:
    """Put when there is room; False once the consumer has gone."""
    while not stop.is_set():
        try:
            ready.put(entry, timeout=0.05)
            return True
        except queue.Full:
            continue
    return False
