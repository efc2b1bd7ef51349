"""Guidance as velocity functions that wrap velocity functions: samplers never know of it."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from flowlab.flow.samplers import Velocity

__all__ = ["cfg"]


def cfg(
    cond: Velocity, uncond: Velocity, scale: float, interval: tuple[float, float] = (0.0, 1.0)
) -> Velocity:
    """Classifier-free guidance on all channels, inside `interval`: v_uncond + scale (v_cond - v_uncond).

    Ho and Salimans 2022 (arXiv 2207.12598); the interval, ends included, is that of Kynkaanniemi et al. 2024
    (arXiv 2404.07724) in time t. A scale of exactly 1 returns `cond` itself, and outside the interval only
    `cond` is evaluated.
    """
    low, high = interval
    if not math.isfinite(scale):
        raise ValueError(f"guidance scale is {scale}; give a finite number (1 turns guidance off)")
    if not 0 <= low <= high <= 1:
        raise ValueError(f"guidance interval is {interval}; give 0 <= low <= high <= 1 (1 is noise)")
    if scale == 1:
        return cond

    def guided(x: Tensor, t: Tensor) -> Tensor:
        inside = (t >= low) & (t <= high)
        if interval != (0.0, 1.0) and not bool(inside.any()):
            return cond(x, t)
        v_cond = cond(x, t)
        v_uncond = uncond(x, t)
        v = v_uncond + scale * (v_cond - v_uncond)
        return torch.where(inside.view(-1, *[1] * (x.ndim - 1)), v, v_cond)

    return guided
