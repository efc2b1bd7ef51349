"""How sure a comparison is: intervals for paired differences and for shares.

Everything is float64 numpy on a handful of numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike

__all__ = [
    "Interval",
    "finite_values",
    "student_quantile",
    "t_interval",
    "wilson_interval",
]


@dataclass(frozen=True, kw_only=True)
class Interval:
    """An estimate between two bounds."""

    estimate: float
    low: float
    high: float
    level: float
    """Intended coverage, such as 0.95."""
    n: int
    """Independent units behind it: cells or trials."""
    method: str

    def excludes(self, value: float) -> bool:
        """Whether `value` lies outside."""
        return not self.low <= value <= self.high

    def __str__(self) -> str:
        bounds = f"[{self.low:.4g}, {self.high:.4g}]"
        return f"{self.estimate:.4g} {bounds} ({self.level:.0%}, n={self.n}, {self.method})"


def t_interval(differences: ArrayLike, *, level: float = 0.95) -> Interval:
    """Student's t interval for the mean of independent, roughly normal paired differences."""
    values = finite_values(differences, level)
    n = len(values)
    half = student_quantile((1 + level) / 2, n - 1) * float(values.std(ddof=1)) / n**0.5
    mean = float(values.mean())
    return Interval(estimate=mean, low=mean - half, high=mean + half, level=level, n=n, method="t")


def wilson_interval(successes: int, total: int, *, level: float = 0.95) -> Interval:
    """Interval for a share (Wilson 1927, "Probable inference"): right near 0 and 1 and for small totals."""
    _check_level(level)
    if total < 1 or not 0 <= successes <= total:
        raise ValueError(f"{successes} of {total} is no share; count at least one trial")
    z = NormalDist().inv_cdf((1 + level) / 2)
    share, shrink = successes / total, 1 + z**2 / total
    centre = (share + z**2 / (2 * total)) / shrink
    half = z / shrink * (share * (1 - share) / total + z**2 / (4 * total**2)) ** 0.5
    return Interval(
        estimate=share,
        low=max(0.0, centre - half) if successes else 0.0,
        high=min(1.0, centre + half) if successes < total else 1.0,
        level=level,
        n=total,
        method="Wilson",
    )


def student_quantile(probability: float, degrees: float) -> float:
    """Quantile of Student's t for 0.5 <= probability < 1, to 1e-9; infinite `degrees` give the normal's."""
    if not 0.5 <= probability < 1 or degrees < 1:
        raise ValueError(f"no t quantile for {probability=} and {degrees=} degrees of freedom")
    if np.isinf(degrees):
        return NormalDist().inv_cdf(probability)
    low, high = 0.0, np.pi / 2  # t = sqrt(degrees) tan(angle): the tail becomes a bounded angle
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _student_share(middle, degrees) < probability else (low, middle)
    return float(degrees**0.5 * np.tan(low))


def finite_values(values: ArrayLike, level: float) -> np.ndarray:
    """Values (n,) float64; fewer than two, a non-finite one or an impossible `level` is a ValueError."""
    _check_level(level)
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 1 or len(values) < 2:
        raise ValueError(f"an interval needs at least 2 values, got shape {values.shape}; add runs or seeds")
    if not np.isfinite(values).all():
        place = int(np.argmin(np.isfinite(values)))
        raise ValueError(f"value {place} is {values[place]}; drop that cell or compute it again")
    return values


# ---- small maths -------------------------------------------------------------------------------------------

_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(64)


def _student_share(angle: float, degrees: float) -> float:
    """P(T <= sqrt(degrees) tan(angle)) = 1/2 + integral of cos^(degrees-1), normalised over a half circle."""
    nodes, weights = (_NODES + 1) / 2, _WEIGHTS / 2

    def integral(end: float) -> float:
        return float(end * (weights * np.cos(end * nodes) ** (degrees - 1)).sum())

    whole = min(np.pi / 2, 12 / max(degrees, 1) ** 0.5)
    return 0.5 + 0.5 * integral(min(angle, whole)) / integral(whole)


def _check_level(level: float) -> None:
    if not 0 < level < 1:
        raise ValueError(f"{level=} is no coverage; use a number such as 0.95")
