"""What every dataset hands to training and evaluation: one `Batch`, read by index."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

__all__ = ["Batch", "Dataset", "Window", "checked", "in_order"]


class Dataset(Protocol):
    """A map-style dataset: an image is a function of its index alone, whatever batch it is read in."""

    @property
    def identity(self) -> str:
        """One line that changes whenever any image would."""
        ...

    @property
    def num_classes(self) -> int:
        """Labels are 0..num_classes-1; 0 = no labels."""
        ...

    @property
    def resolution(self) -> int:
        """Height and width of the pixels that are read or were encoded."""
        ...

    def __len__(self) -> int: ...

    def read(self, indices: Tensor, flip: Tensor | None = None) -> Batch:
        """The images at indices (B,) int64, in that order; mirrored where flip (B,) bool is True."""
        ...


class Window(NamedTuple):
    """A square of a latent, in tokens."""

    row: int
    column: int
    side: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """B examples. A field is None where the dataset does not have it."""

    index: Tensor
    """(B,) int64, the position in the dataset."""
    pixels: Tensor | None = None
    """(B, 3, H, W) uint8."""
    moments: tuple[Tensor, Tensor | None] | None = None
    """(mean, logvar or None) as the encoder emitted them, float (B, ...)."""
    windows: tuple[Window, ...] | None = None
    """Of each example the part of its latent that is learnt, one side for all; None = the whole latent."""
    label: Tensor | None = None
    """(B,) int64 class."""
    text: tuple[str, ...] | None = None
    """B prompts."""
    references: tuple[tuple[Tensor, ...], ...] | None = None
    """B rows of the moments' means (c, h_i, w_i) of reference pictures, any number and size each."""
    teacher: Tensor | None = None
    """(B, N, D) alignment targets, tokens row-major."""
    flip: Tensor | None = None
    """(B,) bool, True where the image was mirrored; None = nowhere."""

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, rows: slice) -> Batch:
        """The examples of a slice."""
        return Batch(**{field.name: _sliced(getattr(self, field.name), rows) for field in fields(self)})

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> Batch:
        """The same batch with its tensors on `device`."""
        return Batch(
            **{field.name: _moved(getattr(self, field.name), device, non_blocking) for field in fields(self)}
        )


def in_order(
    dataset: Dataset, *, batch_size: int, start: int = 0, stop: int | None = None
) -> Iterator[Batch]:
    """One pass over images start..stop-1 (default: all) in index order; the last batch may be smaller."""
    stop = len(dataset) if stop is None else stop
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}; give at least 1")
    if not 0 <= start <= stop <= len(dataset):
        raise ValueError(f"images {start}..{stop} were asked of a dataset of {len(dataset)}; stay within it")
    for first in range(start, stop, batch_size):
        yield dataset.read(torch.arange(first, min(first + batch_size, stop)))


def checked(indices: Tensor, num_images: int) -> Tensor:
    """Indices (B,) as int64 on the CPU; one outside 0..num_images-1 is a ValueError that names it."""
    indices = torch.as_tensor(indices).to("cpu", torch.int64)
    assert indices.ndim == 1 and len(indices), f"indices must be (B,) with B > 0, got {tuple(indices.shape)}"
    outside = indices[(indices < 0) | (indices >= num_images)]
    if len(outside):
        raise ValueError(
            f"index {int(outside[0])} is outside a dataset of {num_images} images; use 0..{num_images - 1}"
        )
    return indices


# ---- one field ---------------------------------------------------------------------------------------------


def _sliced(value: Any, rows: slice) -> Any:
    if value is None:
        return None
    if isinstance(value, tuple) and isinstance(value[0], Tensor):  # moments; other tuples have B items
        return tuple(_sliced(item, rows) for item in value)
    return value[rows]


def _moved(value: Any, device: torch.device | str, non_blocking: bool) -> Any:
    if isinstance(value, Window):
        return value
    if isinstance(value, tuple):
        return tuple(_moved(item, device, non_blocking) for item in value)
    return value.to(device, non_blocking=non_blocking) if isinstance(value, Tensor) else value
