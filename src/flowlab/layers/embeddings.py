"""Fixed sinusoids for time and position, and the MLPs that read the time or a vector."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["TimeEmbedding", "VectorEmbedding", "sincos_2d", "sinusoid"]


class TimeEmbedding(nn.Module):
    """t of any shape (...) => (..., width): sinusoid, linear, SiLU, linear.

    `time_scale` multiplies t before the sinusoid: 1 in the SiT family, 1000 in DiT's steps and FLUX. Weights
    trained with one do not work with another, so every spec states it.
    """

    def __init__(self, width: int, time_scale: float, *, num_channels: int = 256, bias: bool = True):
        super().__init__()
        self.time_scale = time_scale
        self.num_channels = num_channels
        self.in_layer = nn.Linear(num_channels, width, bias=bias)
        self.out_layer = nn.Linear(width, width, bias=bias)

    def forward(self, t: Tensor) -> Tensor:
        waves = sinusoid(t.float() * self.time_scale, self.num_channels)
        return self.out_layer(F.silu(self.in_layer(waves.to(self.in_layer.weight.dtype))))


class VectorEmbedding(nn.Module):
    """(..., in_width) => (..., width): linear, SiLU, linear, as FLUX.1 reads its pooled text."""

    def __init__(self, in_width: int, width: int):
        super().__init__()
        self.in_layer = nn.Linear(in_width, width)
        self.out_layer = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.out_layer(F.silu(self.in_layer(x)))


def sinusoid(t: Tensor, num_channels: int, max_period: float = 10000.0) -> Tensor:
    """(...) => (..., num_channels) float32: cosines, then sines, of t max_period^(-k / half) for k < half."""
    assert num_channels % 2 == 0, f"{num_channels=} must be even"
    half = num_channels // 2
    rates = torch.exp(-math.log(max_period) / half * torch.arange(half, dtype=torch.float32, device=t.device))
    angle = t.float()[..., None] * rates
    return torch.cat([angle.cos(), angle.sin()], dim=-1)


def sincos_2d(width: int, rows: int, columns: int, step: float = 1.0) -> Tensor:
    """MAE's fixed position table (rows columns, width) float32, row-major, as DiT uses it.

    The first half of the channels encodes the column, the second the row; each is sines, then cosines. `step`
    is the distance between neighbours.
    """
    if width % 4:
        raise ValueError(f"width {width} is not a multiple of 4; a 2-D position table needs that")
    rates = 10000.0 ** -(torch.arange(width // 4, dtype=torch.float64) / (width // 4))
    row, column = torch.meshgrid(
        torch.arange(rows, dtype=torch.float64), torch.arange(columns, dtype=torch.float64), indexing="ij"
    )
    places = (column.flatten()[:, None] * step, row.flatten()[:, None] * step)
    angles = [place * rates for place in places]  # (rows columns, width / 4) each
    return torch.cat([wave(angle) for angle in angles for wave in (torch.sin, torch.cos)], dim=1).float()
