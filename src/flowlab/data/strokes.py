"""Drawing: the 8x8 digits of scikit-learn as crisp coloured handwriting of any size, posed at random.

Bicubic upsampling gives a smooth ink field once per source digit; an image is that field sampled through an
affine map, turned into antialiased coverage by its distance to the outline, and blended between two colours.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from flowlab.core.seeds import Streams

__all__ = ["DigitStyle", "draw_looks", "ink_fields", "render"]


@dataclass(frozen=True, kw_only=True)
class DigitStyle:
    """How far the rendering varies; every draw is uniform within its range."""

    max_angle: float = 18.0
    """Rotation either way, degrees."""
    scale: tuple[float, float] = (0.8, 1.05)
    """Digit height against the nominal 25.6 of 32 pixels."""
    max_shear: float = 0.15
    """Horizontal shift per unit of height, either way."""
    max_shift: float = 1.5
    """Translation either way on each axis, pixels of a 32-pixel image."""
    edge_width: float = 1.3
    """Pixels over which ink turns into ground, at any resolution."""
    ink_saturation: tuple[float, float] = (0.35, 0.9)
    """0 = white, 1 = pure colour."""
    ink_value: tuple[float, float] = (0.85, 1.0)
    """Brightest channel of the ink, 1 = 255."""
    ground_saturation: tuple[float, float] = (0.3, 0.9)
    """As for ink."""
    ground_value: tuple[float, float] = (0.05, 0.25)
    """Brightest channel of the ground."""


def draw_looks(streams: Streams, style: DigitStyle) -> dict[str, Tensor]:
    """Pose and colours for each stream.

    `angle` (B,) degrees anticlockwise, `scale` (B,), `shear` (B,), `shift` (B, 2) right and down in pixels of
    a 32-pixel image, `ink` and `ground` (B, 3) uint8 RGB.
    """
    draws = streams.uniform(11).unbind(1)  # 11 of (B,)
    return {
        "angle": _within(draws[0], -style.max_angle, style.max_angle),
        "scale": _within(draws[1], *style.scale),
        "shear": _within(draws[2], -style.max_shear, style.max_shear),
        "shift": _within(torch.stack(draws[3:5], 1), -style.max_shift, style.max_shift),
        "ink": _rgb(draws[5], _within(draws[6], *style.ink_saturation), _within(draws[7], *style.ink_value)),
        "ground": _rgb(
            draws[8], _within(draws[9], *style.ground_saturation), _within(draws[10], *style.ground_value)
        ),
    }


def render(
    digit_fields: Tensor, sources: Tensor, looks: dict[str, Tensor], resolution: int, edge: float
) -> Tensor:
    """Digit fields (n, 1, S, S), sources (B,) and looks => uint8 (B, 3, resolution, resolution)."""
    parts = []
    for rows in torch.arange(len(sources)).split(256):  # the warped fields of 256 images stay in cache
        some = {name: value[rows] for name, value in looks.items()}
        grid = F.affine_grid(_affine(some), [len(rows), 1, resolution, resolution], align_corners=False)
        ink = F.grid_sample(digit_fields[sources[rows]], grid, align_corners=False)
        cover = _coverage(ink, edge)  # (b, 1, H, W)
        colour, ground = some["ink"].float()[:, :, None, None], some["ground"].float()[:, :, None, None]
        parts.append(torch.lerp(ground, colour, cover).round_().to(torch.uint8))
    return torch.cat(parts)


# ---- pose, edges, colours ----------------------------------------------------------------------------------


def _affine(looks: dict[str, Tensor]) -> Tensor:
    """The matrices (B, 2, 3) that take output coordinates in [-1, 1] to field coordinates: the inverse of
    x_out = rotation(angle) shear scale x_field + shift."""
    angle = torch.deg2rad(looks["angle"])
    cos, sin = angle.cos(), angle.sin()
    zero, one = torch.zeros_like(cos), torch.ones_like(cos)
    unturn = torch.stack(
        [torch.stack([cos, -sin], 1), torch.stack([sin, cos], 1)], 1
    )  # (B, 2, 2); y points down
    unshear = torch.stack([torch.stack([one, looks["shear"]], 1), torch.stack([zero, one], 1)], 1)
    linear = unshear @ unturn / looks["scale"][:, None, None]
    shift = looks["shift"] / 16  # pixels of 32 => half-widths
    return torch.cat([linear, -linear @ shift[:, :, None]], 2)


def _coverage(ink: Tensor, edge: float) -> Tensor:
    """Ink field (B, 1, H, W) => coverage in [0, 1] that crosses from 0 to 1 within `edge` pixels.

    (ink - level) / |gradient| is the distance to the outline to first order, in pixels of whatever grid the
    field was sampled on; so edges are equally crisp at every scale, slope and resolution.
    """
    padded = F.pad(ink, (1, 1, 1, 1), mode="replicate")
    across = (padded[..., 1:-1, 2:] - padded[..., 1:-1, :-2]) / 2
    down = (padded[..., 2:, 1:-1] - padded[..., :-2, 1:-1]) / 2
    steepness = torch.hypot(across, down).clamp(min=2.0 / ink.shape[-1])  # a plateau is not an outline
    return ((ink - _INK_LEVEL) / (steepness * edge) + 0.5).clamp(0, 1)


def _within(draw: Tensor, low: float, high: float) -> Tensor:
    return low + (high - low) * draw


def _rgb(hue: Tensor, saturation: Tensor, value: Tensor) -> Tensor:
    """HSV (B,) each in [0, 1] => RGB (B, 3) uint8."""
    sector = (
        hue[:, None] * 6 + torch.tensor([5.0, 3.0, 1.0])
    ) % 6  # Smith 1978, in the form without branches
    ramp = torch.minimum(sector, 4 - sector).clamp(0, 1)
    return (value[:, None] * (1 - saturation[:, None] * ramp) * 255).round().to(torch.uint8)


# ---- source digits -----------------------------------------------------------------------------------------

_FIELD_SIZE = 64
_INK_LEVEL = 0.45  # of the sharpened field; keeps both the loop of an 8 open and a pale 0 closed


@cache
def ink_fields() -> tuple[Tensor, Tensor]:
    """(fields (1797, 1, 64, 64) float32, labels (1797,) int64): the 8x8 digits, upsampled and sharpened.

    A source cell counts the inked pixels of a 4x4 block, so the digits are blurred by a box; adding back what
    a Gaussian removes undoes most of it, and a pale stroke clears the ink level as a dark one does.
    """
    from sklearn.datasets import load_digits

    counts, labels = load_digits(return_X_y=True)  # (1797, 64) in 0..16, (1797,)
    cells = torch.from_numpy(np.asarray(counts, np.float32)).view(-1, 1, 8, 8) / 16
    size = (_FIELD_SIZE, _FIELD_SIZE)
    smooth = F.interpolate(F.pad(cells, (1, 1, 1, 1)), size=size, mode="bicubic", align_corners=False)
    return 2 * smooth - _blurred(smooth, sigma=6.0), torch.from_numpy(np.asarray(labels, np.int64))


def _blurred(images: Tensor, sigma: float) -> Tensor:
    """Gaussian blur of (B, 1, H, W), zero outside."""
    radius = math.ceil(3 * sigma)
    kernel = torch.exp(-torch.arange(-radius, radius + 1).square() / (2 * sigma**2))
    kernel = kernel / kernel.sum()
    rows = F.conv2d(images, kernel[None, None, None], padding=(0, radius))
    return F.conv2d(rows, kernel[None, None, :, None], padding=(radius, 0))
