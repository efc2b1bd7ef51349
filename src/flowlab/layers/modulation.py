"""Adaptive layer norm: shift, scale and gate from the condition (adaLN-Zero of DiT, arXiv 2212.09748)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["Modulation", "gated", "modulate"]


class Modulation(nn.Module):
    """SiLU(condition) => `num` vectors of `width`, ready to broadcast over tokens.

    The caller applies the SiLU, once for all blocks. The input is (B, 1, width), or (B, N, width) where each
    token has its own condition. Order of the vectors: shift, scale, gate of attention, then of the MLP.
    """

    def __init__(self, width: int, num: int, bias: bool = True):
        super().__init__()
        self.num = num
        self.lin = nn.Linear(width, num * width, bias=bias)

    def forward(self, activated: Tensor) -> tuple[Tensor, ...]:
        return self.lin(activated).chunk(self.num, dim=-1)  # num x (B, 1 or N, width)


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """(1 + scale) x + shift."""
    return torch.addcmul(shift, x, 1 + scale)


def gated(x: Tensor, gate: Tensor, branch: Tensor) -> Tensor:
    """x + gate branch: the residual update."""
    return torch.addcmul(x, gate, branch)
