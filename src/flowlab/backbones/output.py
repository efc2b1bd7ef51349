"""What every backbone returns."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

__all__ = ["Output"]


@dataclass(frozen=True)
class Output:
    """velocity (B, C, h, w) in the input's dtype; hidden[k] (B, N, width) after block k, counted from 1."""

    velocity: Tensor
    hidden: dict[int, Tensor] = field(default_factory=dict)
