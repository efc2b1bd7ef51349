"""Training distributions of the time t on (0, 1): density, CDF, exact inverse CDF, exact sampler.

    ts    uniform, shifted:     t = alpha u / (1 + (alpha - 1) u)
    ln    logit-normal:         logit t ~ N(mu + ln alpha, sigma^2)    (Esser et al. 2024, arXiv 2403.03206)
    pln   plateau logit-normal: ln left of its mode, constant right of it, normalised

Shifting a logit-normal by alpha adds ln alpha to its mean, hence the one parameter `alpha` for all three;
`ts` has no other. Times run from data (0) to noise (1), so alpha > 1 moves mass towards noise. Everything is
computed and returned in float64, and broadcasts over tensors of t, alpha, mu and sigma.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from flowlab.core.choices import lookup

__all__ = ["DISTRIBUTIONS", "Plateau", "cdf", "density", "plateau", "quantile", "sample"]

Number = float | Tensor
_LOG_LARGEST = math.log(torch.finfo(torch.float64).max)


def density(name: str, t: Number, *, alpha: Number = 1.0, mu: Number = 0.0, sigma: Number = 1.0) -> Tensor:
    """p(t), float64 of t's shape; 0 outside [0, 1], finite or 0 at its ends.

    `name` is a key of DISTRIBUTIONS. alpha > 0 is the shift, mu and sigma > 0 belong to the logit-normals. An
    unknown name, or a shift or sigma that is not positive and finite, is a ValueError; so it is for the
    functions below.
    """
    law = lookup(DISTRIBUTIONS, name, "timestep distribution")
    t, *parameters = _arguments(t, alpha, mu, sigma)
    return torch.where((t >= 0) & (t <= 1), law.density(t.clamp(0, 1), *parameters), 0.0)


def cdf(name: str, t: Number, *, alpha: Number = 1.0, mu: Number = 0.0, sigma: Number = 1.0) -> Tensor:
    """P(time <= t), float64 of t's shape; exactly 0 at and below t = 0, exactly 1 at and above t = 1."""
    law = lookup(DISTRIBUTIONS, name, "timestep distribution")
    t, *parameters = _arguments(t, alpha, mu, sigma)
    return law.cdf(t.clamp(0, 1), *parameters)


def quantile(name: str, u: Number, *, alpha: Number = 1.0, mu: Number = 0.0, sigma: Number = 1.0) -> Tensor:
    """The time t with cdf(t) = u, float64 of u's shape; u in [0, 1]. Uniform u gives exact draws."""
    law = lookup(DISTRIBUTIONS, name, "timestep distribution")
    u, *parameters = _arguments(u, alpha, mu, sigma)
    return law.quantile(u, *parameters)


def sample(
    name: str,
    n: int,
    *,
    alpha: Number = 1.0,
    mu: Number = 0.0,
    sigma: Number = 1.0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """n independent times by inverse CDF, (n,) float64 on the generator's device: exact, nothing is rejected.

    Training draws through `quantile` instead, from one keyed uniform number per image.
    """
    if n < 0:
        raise ValueError(f"cannot draw {n} times; ask for 0 or more")
    device = generator.device if generator is not None else None
    u = torch.rand(n, dtype=torch.float64, generator=generator, device=device).clamp_(min=2.0**-54)
    return quantile(name, u, alpha=alpha, mu=mu, sigma=sigma)


# ---- shifted uniform ---------------------------------------------------------------------------------------


def _ts_density(t: Tensor, alpha: Tensor, mu: Tensor, sigma: Tensor) -> Tensor:
    return alpha / (t + alpha * (1 - t)).square()


def _ts_cdf(t: Tensor, alpha: Tensor, mu: Tensor, sigma: Tensor) -> Tensor:
    return t / (t + alpha * (1 - t))


def _ts_quantile(u: Tensor, alpha: Tensor, mu: Tensor, sigma: Tensor) -> Tensor:
    return alpha * u / (alpha * u + (1 - u))


# ---- logit-normal ------------------------------------------------------------------------------------------


def _ln_density(t: Tensor, alpha: Tensor, mu: Tensor, sigma: Tensor) -> Tensor:
    z = (t.logit() - mu - alpha.log()) / sigma
    log_p = -z.square() / 2 - (sigma * math.sqrt(2 * math.pi)).log() - t.log() - (-t).log1p()
    return torch.where((t > 0) & (t < 1), log_p.clamp(max=_LOG_LARGEST).exp(), 0.0)


def _ln_cdf(t: Tensor, alpha: Tensor, mu: Tensor, sigma: Tensor) -> Tensor:
    return _normal_cdf((t.logit() - mu - alpha.log()) / sigma)


def _ln_quantile(u: Tensor, alpha: Tensor, mu: Tensor, sigma: Tensor) -> Tensor:
    return torch.sigmoid(mu + alpha.log() + sigma * torch.special.ndtri(u))


def _normal_cdf(z: Tensor) -> Tensor:
    """Of N(0, 1); torch's own ndtr loses the left tail to rounding."""
    return torch.erfc(z * -math.sqrt(0.5)) / 2


# ---- plateau logit-normal ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Plateau:
    """Constants of `pln`; float64 tensors of the broadcast shape of the parameters."""

    mode: Tensor
    """t*, where the plateau starts: the right-most maximum of the logit-normal."""
    peak: Tensor
    """p(t*) of the logit-normal."""
    left: Tensor
    """P(t < t*) of the logit-normal."""
    total: Tensor
    """Z = left + (1 - t*) peak."""
    width: Tensor
    """Z / peak, one over the plateau's height; finite too where peak and Z, beyond float64, are inf."""


def plateau(*, alpha: Number = 1.0, mu: Number = 0.0, sigma: Number = 1.0) -> Plateau:
    """Where the plateau of `pln` starts and what normalises it."""
    t, alpha, mu, sigma = _arguments(0.0, alpha, mu, sigma)
    return _plateau(alpha, mu, sigma, t.device)


def _pln_density(t: Tensor, alpha: Tensor, mu: Tensor, sigma: Tensor) -> Tensor:
    flat = _plateau(alpha, mu, sigma, t.device)
    rising = _ln_density(t, alpha, mu, sigma) / flat.total
    return torch.where(t < flat.mode, rising, _height(flat))


def _pln_cdf(t: Tensor, alpha: Tensor, mu: Tensor, sigma: Tensor) -> Tensor:
    flat = _plateau(alpha, mu, sigma, t.device)
    rising = _ln_cdf(t, alpha, mu, sigma) / flat.total
    inside = torch.where(t < flat.mode, rising, 1 - (1 - t) * _height(flat)).clamp(0, 1)
    return _exact_ends(t, inside)


def _pln_quantile(u: Tensor, alpha: Tensor, mu: Tensor, sigma: Tensor) -> Tensor:
    """With probability left / Z a logit-normal conditioned on t < t*, otherwise uniform on (t*, 1)."""
    flat = _plateau(alpha, mu, sigma, u.device)
    mass = u * flat.total
    rising = _ln_quantile(mass.clamp(max=1), alpha, mu, sigma).minimum(flat.mode)
    constant = (1 - (1 - u) * flat.width).maximum(flat.mode)
    return _exact_ends(u, torch.where(mass < flat.left, rising, constant))


def _height(flat: Plateau) -> Tensor:
    """Of the plateau; one too narrow for float64, at t = 1 alone, counts as the largest number."""
    return (1 / flat.width).clamp(max=torch.finfo(torch.float64).max)


def _exact_ends(x: Tensor, y: Tensor) -> Tensor:
    """y, but 0 at x = 0 and 1 at x = 1: where a plateau is all or nothing, rounding would decide there."""
    return torch.where((x == 0) | (x == 1), x, y)


def _plateau(alpha: Tensor, mu: Tensor, sigma: Tensor, device: torch.device) -> Plateau:
    """Solved once for each set of plain numbers; tensors are solved all at once, where they are."""
    centre = mu + alpha.log()
    if centre.ndim == sigma.ndim == 0:
        return _plateau_of_numbers(float(centre), float(sigma), device)
    return _solve_plateau(centre, sigma)


@lru_cache(maxsize=256)
def _plateau_of_numbers(centre: float, sigma: float, device: torch.device) -> Plateau:
    both = torch.tensor([centre, sigma], dtype=torch.float64)
    on_cpu = _solve_plateau(both[0], both[1])
    values = (on_cpu.mode, on_cpu.peak, on_cpu.left, on_cpu.total, on_cpu.width)
    return Plateau(*(value.to(device) for value in values))


def _solve_plateau(centre: Tensor, sigma: Tensor) -> Plateau:
    x = _rightmost_mode(centre, sigma)
    z = (x - centre) / sigma
    bell = (-z.square() / 2).exp() / (sigma * math.sqrt(2 * math.pi))  # density of logit t at x
    mode, left = torch.sigmoid(x), _normal_cdf(z)
    peak, total = bell / (mode * torch.sigmoid(-x)), left + bell / mode
    peak, total = (value.nan_to_num(math.inf, math.inf) for value in (peak, total))  # 0 / 0 only there
    return Plateau(mode, peak, left, total, _width(x, z, sigma, total / peak))


def _width(x: Tensor, z: Tensor, sigma: Tensor, quotient: Tensor) -> Tensor:
    """Z / peak = (1 - t*) + left / peak from x = logit t* and its z, in logs where peak and Z overflow.

    Elsewhere the quotient, to the bit: the times of trained runs were drawn with it.
    """
    log_bell = -z.square() / 2 - (sigma * math.sqrt(2 * math.pi)).log()
    log_peak = log_bell - F.logsigmoid(x) - F.logsigmoid(-x)
    in_logs = torch.sigmoid(-x) + (torch.special.log_ndtr(z) - log_peak).exp()
    return torch.where(quotient.isnan(), in_logs, quotient)


def _rightmost_mode(centre: Tensor, sigma: Tensor) -> Tensor:
    """logit of the right-most maximum of a logit-normal: the largest root of g(x) = m - x + s^2 tanh(x / 2).

    g / s^2 is the slope of ln p over x = logit t. For s^2 > 2 there can be three roots. g falls beyond +x0
    and before -x0, where cosh(x0 / 2) = s / sqrt 2, is concave on the right and convex on the left of 0. So
    the largest root lies beyond x0 if g(x0) > 0, else before -x0, and Newton's method started at m + s^2 or m
    - s^2 walks to it from its outer side without crossing it.
    """
    centre, sigma = torch.broadcast_tensors(centre, sigma)
    spread = sigma.square()
    turn = 2 * torch.acosh((sigma / math.sqrt(2)).clamp(min=1))
    right = centre - turn + spread * (turn / 2).tanh() > 0
    x = torch.where(right, centre + spread, centre - spread)
    for _ in range(100):  # quadratic, but only linear (rate 2/3) where two roots meet
        bend = (x / 2).tanh()
        g = centre - x + spread * bend
        step = torch.where(g == 0, 0.0, g / (spread / 2 * (1 - bend.square()) - 1))
        x = x - step
        if bool((step.abs() <= 1e-15 * (1 + x.abs())).all()):
            break
    return x


# ---- table and arguments -----------------------------------------------------------------------------------

Law = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Distribution:
    """Three functions of (t or u, alpha, mu, sigma), all float64 tensors."""

    density: Law
    cdf: Law
    quantile: Law


DISTRIBUTIONS = {
    "ts": Distribution(_ts_density, _ts_cdf, _ts_quantile),  #     uniform at alpha = 1
    "ln": Distribution(_ln_density, _ln_cdf, _ln_quantile),  #     the usual choice since SD3
    "pln": Distribution(_pln_density, _pln_cdf, _pln_quantile),  # does not thin out towards noise
}


def _arguments(t: Number, alpha: Number, mu: Number, sigma: Number) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """All four as float64 tensors, alpha and sigma checked; t is where the first one with axes is."""
    device = next((v.device for v in (t, alpha, mu, sigma) if isinstance(v, Tensor) and v.ndim), None)
    t = torch.as_tensor(t, dtype=torch.float64, device=device)
    alpha, mu, sigma = (torch.as_tensor(value, dtype=torch.float64) for value in (alpha, mu, sigma))
    for value, name in ((alpha, "the shift alpha"), (sigma, "sigma")):
        bad = value[~((value > 0) & value.isfinite())]
        if len(bad):
            raise ValueError(f"{name} is {float(bad[0])}; it must be a positive number")
    return t, alpha, mu, sigma
