"""Samplers: integrate dx/dt = velocity(x, t) along a grid of times, one function each with one signature.

    name    order   velocity calls for N steps
    euler   1       N
    heun    2       2 N     (the last call is at t = 0, where the velocity of a flow is defined)

`times` is (N + 1,): x is given at times[0], each step is one update, and the result is at times[-1]. A
falling grid samples, a rising one runs the same equation from data to noise. `velocity(x, t)` receives t as
(B,) in x's precision, float32 at least. `on_step(i, t, x)` sees x after update i, at time t = times[i + 1]
(no axes), and returns the x to go on with (previews return it as it is, inpainting replaces a part).
`generators` is one stream per image for samplers that draw; these two do not. Call under torch.no_grad unless
gradients through the steps are wanted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from flowlab.core.seeds import Streams

__all__ = ["CALLS_PER_STEP", "SAMPLERS", "OnStep", "Sampler", "Velocity", "euler", "heun"]

Velocity = Callable[[Tensor, Tensor], Tensor]
OnStep = Callable[[int, Tensor, Tensor], Tensor]
Sampler = Callable[..., Tensor]


def euler(
    velocity: Velocity,
    x: Tensor,
    times: Tensor,
    *,
    generators: Streams | None = None,
    on_step: OnStep | None = None,
) -> Tensor:
    """Euler's method: x <- x + (t_next - t) v(x, t). x (B, ...) at times[0] => x at times[-1]."""
    for i, t, t_next in _steps(times, x):
        v = velocity(x, t.expand(len(x))).to(x.dtype)
        x = x + (t_next - t) * v
        x = x if on_step is None else on_step(i, t_next, x)
    return x


def heun(
    velocity: Velocity,
    x: Tensor,
    times: Tensor,
    *,
    generators: Streams | None = None,
    on_step: OnStep | None = None,
) -> Tensor:
    """Heun's method: an Euler step, then again with the mean of the velocities at both its ends."""
    for i, t, t_next in _steps(times, x):
        v = velocity(x, t.expand(len(x))).to(x.dtype)
        v_next = velocity(x + (t_next - t) * v, t_next.expand(len(x))).to(x.dtype)
        x = x + (t_next - t) * (v + v_next) / 2
        x = x if on_step is None else on_step(i, t_next, x)
    return x


SAMPLERS: dict[str, Sampler] = {"euler": euler, "heun": heun}
CALLS_PER_STEP = {"euler": 1, "heun": 2}


def _steps(times: Tensor, x: Tensor) -> Iterator[tuple[int, Tensor, Tensor]]:
    """(i, times[i], times[i + 1]) on x's device, in float32 or better even where x is not."""
    if times.ndim != 1 or len(times) < 2:
        raise ValueError(f"times have the shape {tuple(times.shape)}; give the N + 1 points of N >= 1 steps")
    times = times.to(x.device, torch.promote_types(x.dtype, torch.float32))
    for i in range(len(times) - 1):
        yield i, times[i], times[i + 1]
