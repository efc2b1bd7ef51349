"""Cuts pictures of coloured shapes into connected pieces: whatever differs from the background."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["SIDE", "Pieces", "components", "cut", "pieces"]

SIDE = 64
"""Pictures are cut at this size; others are resized."""
DIFFERENCE = (26.0, 50.0)
"""From the background, Euclidean in RGB, for a pixel to belong to an object: three times the picture's median
difference (its noise, as most of it is background) within these bounds."""
MIN_AREA = 14
"""Pixels of 64 x 64; smaller pieces are specks."""


@dataclass(frozen=True, kw_only=True)
class Pieces:
    """n connected pieces of B pictures, in pixels of a 64 x 64 picture."""

    pixels: Tensor
    """(B, 3, 64, 64) float in 0..255."""
    background: Tensor
    """(B, 3) float."""
    labels: Tensor
    """(B, 64, 64) int64, 0 = background; a piece's number is unique over the batch."""
    image: Tensor
    """(n,) int64, the picture of each piece."""
    label: Tensor
    """(n,) its number in `labels`."""
    centre: Tensor
    """(n, 2) float x, y of the middle of its box."""
    half: Tensor
    """(n,) float, half the longer side of its box with a border."""


def pieces(images: Tensor) -> Pieces:
    """Connected pieces of uint8 (B, 3, H, W); the background is the median colour of each picture."""
    assert images.dtype == torch.uint8 and images.ndim == 4, f"{images.dtype=} {images.shape=}"
    pixels = images.float()
    if pixels.shape[2:] != (SIDE, SIDE):
        pixels = F.interpolate(pixels, size=(SIDE, SIDE), mode="bilinear", antialias=True)
    background = pixels.flatten(2).median(2).values  # (B, 3); objects never cover half of a picture
    difference = (pixels - background[:, :, None, None]).square().sum(1).sqrt()
    noise = difference.flatten(1).median(1).values[:, None, None]
    labels = components(difference > (3 * noise).clamp(*DIFFERENCE))
    numbers, inverse, area = labels.unique(return_inverse=True, return_counts=True)
    line = torch.arange(SIDE, device=labels.device)
    low, high = [], []
    for where in (line[None, None, :], line[None, :, None]):  # x, y
        spread = where.expand_as(labels).flatten()
        start = torch.full_like(numbers, SIDE)
        low.append(start.scatter_reduce(0, inverse.flatten(), spread, "amin"))
        high.append(torch.zeros_like(numbers).scatter_reduce(0, inverse.flatten(), spread, "amax"))
    first, last = torch.stack(low, 1).float(), torch.stack(high, 1).float() + 1  # (numbers, 2)
    keep = (numbers > 0) & (area >= MIN_AREA)
    return Pieces(
        pixels=pixels,
        background=background,
        labels=labels,
        image=(numbers[keep] - 1) // SIDE**2,
        label=numbers[keep],
        centre=((first + last) / 2)[keep],
        half=(last - first).amax(1)[keep] * 0.6 + 1,
    )


def components(mask: Tensor) -> Tensor:
    """(B, H, W) bool => int64 labels of 8-connected pieces, 0 outside; numbers differ between pictures.

    Each pixel takes the largest number around it until nothing changes.
    """
    labels = torch.arange(1, mask.numel() + 1, device=mask.device).view_as(mask) * mask
    while True:
        spread = _largest_near(_largest_near(labels, 1), 2) * mask
        if torch.equal(spread, labels):
            return labels
        labels = spread


def _largest_near(labels: Tensor, axis: int) -> Tensor:
    """The largest of each value and its two neighbours along `axis`."""
    found, last = labels.clone(), labels.shape[axis] - 1
    low, high = found.narrow(axis, 0, last), found.narrow(axis, 1, last)
    torch.maximum(low, labels.narrow(axis, 1, last), out=low)
    torch.maximum(high, labels.narrow(axis, 0, last), out=high)
    return found


def cut(found: Pieces, side: int) -> tuple[Tensor, Tensor]:
    """Crops (n, 5, side, side): difference from the background, this piece, other pieces; and the colours
    (n, 3, side, side) in 0..255."""
    line = (torch.arange(side, device=found.centre.device) + 0.5) / side * 2 - 1
    across = found.centre[:, 0, None] + line * found.half[:, None]  # (n, side) pixels
    down = found.centre[:, 1, None] + line * found.half[:, None]
    grid = torch.stack(
        [across[:, None, :].expand(-1, side, -1), down[:, :, None].expand(-1, -1, side)], -1
    )  # (n, side, side, 2)
    labels = found.labels[found.image]
    mine = labels == found.label[:, None, None]
    planes = torch.stack([mine, (labels > 0) & ~mine], 1).float()
    source = torch.cat([found.pixels[found.image], planes], 1)  # (n, 5, 64, 64)
    crops = F.grid_sample(source, grid / SIDE * 2 - 1, padding_mode="border", align_corners=False)
    colours = crops[:, :3]
    difference = (colours - found.background[found.image][:, :, None, None]) / 128
    return torch.cat([difference, crops[:, 3:]], 1), colours
