"""Sampling grids: which times a sampler visits, from noise (t = 1) down to data (t = 0).

A grid for N steps has N + 1 float64 points; its first is exactly 1 and its last exactly 0. The shift used at
sampling is a setting of its own and need not equal the shift used in training.
"""

from __future__ import annotations

import math
from typing import Any, TypeVar

import torch
from torch import Tensor

__all__ = [
    "check_shift",
    "dimension_shift",
    "flux1_grid",
    "flux2_grid",
    "flux2_mu",
    "sampling_grid",
    "shift",
    "unshift",
]

Time = TypeVar("Time", float, Tensor)


def shift(alpha: float | Tensor, t: Time) -> Time:
    """s(alpha, t) = alpha t / (1 + (alpha - 1) t), of t's kind; alpha > 1 moves towards noise, 0 and 1 stay.

    Esser et al. 2024 (arXiv 2403.03206, Eq. 23). In terms of the noise ratio t / (1 - t) it is a product with
    alpha. A shift that is not positive and finite is a ValueError.
    """
    check_shift(alpha)
    raised: Any = alpha * t
    return raised / (raised + (1 - t))  # written so, it is exactly 0 at 0 and exactly 1 at 1


def unshift(alpha: float | Tensor, t: Time) -> Time:
    """The inverse: unshift(alpha, shift(alpha, t)) = t."""
    check_shift(alpha)
    rest: Any = alpha * (1 - t)
    return t / (t + rest)


def dimension_shift(num_values: float, base_values: float) -> float:
    """sqrt(m / n): the shift for a latent of m numbers where n numbers want 1 (Esser et al. 2024, Eq. 23)."""
    if not (num_values > 0 and base_values > 0):
        raise ValueError(f"cannot compare latents of {num_values} and {base_values} values; both must be > 0")
    return math.sqrt(num_values / base_values)


def sampling_grid(num_steps: int, alpha: float = 1.0) -> Tensor:
    """Evenly spaced times, shifted by alpha: (num_steps + 1,) float64 from exactly 1 to exactly 0."""
    if num_steps < 1:
        raise ValueError(f"a sampler cannot take {num_steps} steps; ask for 1 or more")
    return shift(alpha, torch.linspace(1, 0, num_steps + 1, dtype=torch.float64))


# ---- published grids ---------------------------------------------------------------------------------------


def flux1_grid(num_tokens: int, num_steps: int, shifted: bool = True) -> Tensor:
    """FLUX.1's times for an image of num_tokens packed tokens; schnell's are not shifted.

    ln alpha rises linearly with the tokens, through 0.5 at 256 (256 px) and 1.15 at 4096 (1024 px).
    """
    mu = 0.5 + (1.15 - 0.5) * (_checked_tokens(num_tokens) - 256) / (4096 - 256)
    return sampling_grid(num_steps, math.exp(mu) if shifted else 1.0)


def flux2_grid(num_tokens: int, num_steps: int) -> Tensor:
    """FLUX.2's times for a target of num_tokens tokens; reference images do not count."""
    return sampling_grid(num_steps, math.exp(flux2_mu(num_tokens, num_steps)))


def flux2_mu(num_tokens: int, num_steps: int) -> float:
    """ln alpha of FLUX.2: linear in the steps through one line of the tokens at 10 and another at 200.

    Fitted constants of the reference implementation, extrapolated without a clamp (4 steps lie outside), and
    kept with its jump: above 4300 tokens the steps no longer count, so at 50 steps mu falls from 2.04 to 1.18
    there.
    """
    tokens = _checked_tokens(num_tokens)
    at_200_steps = 0.00016927 * tokens + 0.45666666
    if tokens > 4300:
        return at_200_steps
    at_10_steps = 8.73809524e-05 * tokens + 1.89833333
    return at_200_steps + (at_200_steps - at_10_steps) / 190 * (num_steps - 200)


# ---- arguments ---------------------------------------------------------------------------------------------


def check_shift(alpha: float | Tensor, place: str = "the shift alpha") -> None:
    """A ValueError for a shift that is not positive and finite, which names the field or option `place`."""
    if isinstance(alpha, Tensor):
        bad = alpha[~((alpha > 0) & alpha.isfinite())]
        alpha = float(bad[0]) if len(bad) else 1.0
    if not 0 < alpha < math.inf:
        raise ValueError(f"{place} is {alpha}; it must be a positive number")


def _checked_tokens(num_tokens: int) -> int:
    if num_tokens < 1:
        raise ValueError(f"an image cannot have {num_tokens} tokens; give its latent height times width")
    return num_tokens
