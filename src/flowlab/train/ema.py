"""Exponential moving average of a module, buffers included."""

from __future__ import annotations

import copy

import torch
from torch import nn

__all__ = ["Ema", "check_decay"]


def check_decay(decay: float, place: str = "EMA decay") -> None:
    """A ValueError for a decay under which an average would not follow; it names the field `place`."""
    if not 0 <= decay < 1:
        raise ValueError(f"{place} is {decay}; it must lie in [0, 1)")


class Ema:
    """A frozen copy of `module` whose parameters follow it: e <- d e + (1 - d) p; buffers are copied.

    The decay warms up as min(decay, (1 + n) / (10 + n)) after n updates (the rule of TensorFlow's
    ExponentialMovingAverage), without which a run shorter than 1 / (1 - decay) updates is mostly its
    initialisation.
    """

    def __init__(self, module: nn.Module, decay: float):
        check_decay(decay)
        self.decay = decay
        self.module = copy.deepcopy(module).eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, module: nn.Module, num_updates: int) -> None:
        """Follow `module` after its update number `num_updates` (1 is the first)."""
        decay = min(self.decay, (1 + num_updates) / (10 + num_updates))
        pairs = list(self.module.parameters()), list(module.parameters())
        torch._foreach_lerp_(*pairs, 1 - decay)  # pyright: ignore  (one kernel for all tensors)
        for mine, theirs in zip(self.module.buffers(), module.buffers(), strict=True):
            mine.copy_(theirs)
