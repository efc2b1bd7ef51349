"""The two number formats of an image, and the only conversions between them.

float32 NCHW in [-1, 1] inside; uint8 NCHW on disk and where metrics look. Conversion rounds: truncating
makes every picture half a grey level darker.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["contact_sheet", "to_float", "to_uint8"]


def to_uint8(pixels: Tensor) -> Tensor:
    """[-1, 1] float (..., H, W) => uint8: clamp, scale, round."""
    assert pixels.is_floating_point(), f"expected float pixels in [-1, 1], got {pixels.dtype}"
    return (pixels.float().clamp(-1, 1) + 1).mul(127.5).round().to(torch.uint8)


def to_float(images: Tensor) -> Tensor:
    """uint8 (..., H, W) => float32 in [-1, 1]; exact inverse of `to_uint8` on its outputs."""
    assert images.dtype == torch.uint8, f"expected uint8 images, got {images.dtype}"
    return images.float().div(127.5).sub(1)


def contact_sheet(images: Tensor, columns: int, gap: int = 2) -> Tensor:
    """uint8 (B, C, H, W) => one uint8 image (C, rows (H + gap) + gap, ...) on white, row by row."""
    num, channels, height, width = images.shape
    rows = -(-num // columns)
    sheet = torch.full(
        (channels, rows * (height + gap) + gap, columns * (width + gap) + gap), 255, dtype=torch.uint8
    )
    for i, image in enumerate(images):
        top, left = gap + i // columns * (height + gap), gap + i % columns * (width + gap)
        sheet[:, top : top + height, left : left + width] = image
    return sheet
