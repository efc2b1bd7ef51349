"""The rectified path between data and noise and the velocity along it (Liu et al. 2022, arXiv 2209.03003).

x_t = (1 - t) x0 + t noise, so that t = 0 is data and t = 1 is noise, and the velocity dx_t/dt = noise - x0 is
the same at every t. Other projects run t the other way; they are converted where their weights are read.
"""

from __future__ import annotations

from torch import Tensor

__all__ = ["interpolate", "target"]


def interpolate(x0: Tensor, noise: Tensor, t: Tensor | float) -> Tensor:
    """x_t, of the shape and dtype of x0 (B, ...), at times t: (B,), or one time for all."""
    assert x0.shape == noise.shape, f"data is {tuple(x0.shape)}, noise is {tuple(noise.shape)}"
    if isinstance(t, Tensor) and t.ndim:
        assert t.shape == x0.shape[:1], f"t is {tuple(t.shape)}, expected ({len(x0)},)"
        t = t.to(x0.dtype).view(-1, *[1] * (x0.ndim - 1))  # (B, 1, ...)
    return (1 - t) * x0 + t * noise


def target(x0: Tensor, noise: Tensor) -> Tensor:
    """The velocity noise - x0 that the model learns, (B, ...)."""
    return noise - x0
