"""The best shift with its uncertainty: the minimum of a parabola in ln alpha, or the edge it lies beyond."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike

from flowlab.metrics.intervals import finite_values, student_quantile

__all__ = ["Optimum", "fit_optimum"]


@dataclass(frozen=True, kw_only=True)
class Optimum:
    """Where a parabola in ln alpha is lowest within the measured range, and how sure that is.

    `status` is one of
    * "interior": the minimum lies inside the range, and at least one side of the interval is bounded;
    * "at low edge", "at high edge": the fit still falls where the measurements stop, and the other edge is
      excluded; read `alpha` as "at most" or "at least" and measure further out;
    * "undetermined": the curvature is positive, but the interval leaves the range on both sides;
    * "no minimum": the curvature is not positive and no edge is excluded; `alpha` is the fit's lower end.
    """

    alpha: float
    """The minimum, clipped to the measured range."""
    low: float
    """Lower bound; 0 where it lies below the measured range (nothing is extrapolated)."""
    high: float
    """Upper bound; infinity where it lies above the measured range."""
    status: str
    level: float
    curvature: float
    """c of y = a + b x + c x^2, x = ln alpha."""
    curvature_error: float
    """Standard error of c."""
    n: int
    """Measurements behind the fit."""

    def __str__(self) -> str:
        low = f"{self.low:.3g}" if self.low > 0 else "?"
        high = f"{self.high:.3g}" if np.isfinite(self.high) else "?"
        words = {
            "at low edge": f"at edge: <={self.alpha:.3g}",
            "at high edge": f"at edge: >={self.alpha:.3g}",
        }
        words |= {"interior": f"{self.alpha:.3g}"}
        return f"{words.get(self.status, self.status)} [{low}, {high}]"


def fit_optimum(
    alphas: ArrayLike,
    values: ArrayLike,
    *,
    errors: ArrayLike | None = None,
    groups: Sequence[object] | None = None,
    level: float = 0.95,
) -> Optimum:
    """Fit y = a + b x + c x^2 in x = ln alpha by least squares and locate its minimum -b / 2c.

    The interval is Fieller's (1954, "Some problems in interval estimation"), the set of x where the fitted
    slope b + 2 c x does not differ from zero, cut at the measured range; unlike the delta method it stays
    right where the curvature is poorly known. It says how sure the fit is, not that a parabola is right.
    `errors` are standard errors of the values: weights 1 / errors^2, and the fit's own scatter widens the
    interval where it exceeds them. Without `errors` the scatter alone decides, which takes more measurements
    than parameters. `groups` labels measurements that
    share an offset (one training seed, one set of noise): each gets its own a, so that differences between
    groups do not count as scatter. Pass ln FID where factors are more alike than gaps.
    """
    x, y, sigma, design = _design(alphas, values, errors, groups, level)
    design, target = design / sigma[:, None], y / sigma
    beta, covariance, quantile = _least_squares(design, target, level, known=errors is not None)
    middle = float(x.mean())  # the columns are u = x - middle and u^2
    slope = _Slope(float(beta[-2]), float(beta[-1]), covariance[-2:, -2:] * quantile**2)
    ends = (float(x.min()) - middle, float(x.max()) - middle)
    point = slope.lowest(*ends)
    low, high = slope.first_flat(*ends), slope.last_flat(*ends)
    return Optimum(
        alpha=float(np.exp(point + middle)),
        low=0.0 if low is None else float(np.exp(low + middle)),
        high=float("inf") if high is None else float(np.exp(high + middle)),
        status=_status(point, ends, low is None and high is None, slope.curvature),
        level=level,
        curvature=slope.curvature,
        curvature_error=float(covariance[-1, -1] ** 0.5),
        n=len(x),
    )


@dataclass(frozen=True)
class _Slope:
    """The fitted slope b + 2 c u; `covariance` (2, 2) of (b, c) already carries the squared quantile."""

    b: float
    curvature: float
    covariance: np.ndarray

    def at(self, u: float) -> tuple[float, float]:
        """Slope and the half width of its interval."""
        direction = np.array([1.0, 2 * u])
        variance = max(float(direction @ self.covariance @ direction), 0.0)
        return self.b + 2 * self.curvature * u, variance**0.5

    def lowest(self, start: float, end: float) -> float:
        """Where the fitted parabola is lowest on [start, end]."""
        inside = -self.b / (2 * self.curvature) if self.curvature > 0 else start
        candidates = [start, end, min(max(inside, start), end)]
        return min(candidates, key=lambda u: self.b * u + self.curvature * u**2)

    def first_flat(self, start: float, end: float) -> float | None:
        """Lower bound of the minimum: where the slope, surely negative before, may first be zero.

        None where it is surely negative neither at `start` nor in the middle (the sign there says which end
        of a parabola is the lower one, whatever its curvature).
        """
        for u in (start, (start + end) / 2):
            slope, half = self.at(u)
            if slope + half < 0:
                return min([root for root in self._roots() if u < root < end], default=end)
        return None

    def last_flat(self, start: float, end: float) -> float | None:
        """Upper bound of the minimum, likewise: where the slope, surely positive after, may last be zero."""
        for u in (end, (start + end) / 2):
            slope, half = self.at(u)
            if slope - half > 0:
                return max([root for root in self._roots() if start < root < u], default=start)
        return None

    def _roots(self) -> list[float]:
        """Where the slope is exactly its half width from zero: (b + 2cu)^2 = V_bb + 4 u V_bc + 4 u^2 V_cc."""
        (bb, bc), (_, cc) = self.covariance.tolist()
        square, linear = 4 * (self.curvature**2 - cc), 4 * (self.b * self.curvature - bc)
        constant = self.b**2 - bb
        discriminant = linear**2 - 4 * square * constant
        if discriminant < -1e-12 * linear**2:  # rounding may push the double root of a perfect fit below zero
            return []
        q = -(linear + float(np.copysign(max(discriminant, 0.0) ** 0.5, linear))) / 2
        return [top / bottom for top, bottom in ((q, square), (constant, q)) if bottom != 0]


def _status(point: float, ends: tuple[float, float], unbounded: bool, curvature: float) -> str:
    if unbounded:
        return "undetermined" if curvature > 0 else "no minimum"
    return {ends[0]: "at low edge", ends[1]: "at high edge"}.get(point, "interior")


def _design(
    alphas: ArrayLike,
    values: ArrayLike,
    errors: ArrayLike | None,
    groups: Sequence[object] | None,
    level: float,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """x, y, standard errors (n,) and the design matrix (n, groups + 2): one offset a group, u, u^2."""
    alpha, y = np.asarray(alphas, dtype=np.float64), finite_values(values, level)
    sigma = np.ones_like(y) if errors is None else np.asarray(errors, dtype=np.float64)
    labels = [0] * len(y) if groups is None else list(groups)
    if not alpha.shape == y.shape == sigma.shape == (len(labels),):
        raise ValueError(
            f"{alpha.shape=} {y.shape=} {sigma.shape=} {len(labels)=}; give one of each for each measurement"
        )
    if not (alpha > 0).all() or len(np.unique(alpha)) < 3:
        raise ValueError(
            f"a parabola in ln alpha needs 3 different shifts > 0, got {sorted(set(alpha.tolist()))}"
        )
    if not ((sigma > 0) & np.isfinite(sigma)).all():
        raise ValueError(
            f"standard errors must be positive numbers, got {float(sigma.min())}; leave them out if unknown"
        )
    x = np.log(alpha)
    u = x - x.mean()
    names = list(dict.fromkeys(labels))
    offsets = np.array([[label == name for name in names] for label in labels], dtype=np.float64)
    return x, y, sigma, np.column_stack([offsets, u, u**2])


def _least_squares(
    design: np.ndarray, target: np.ndarray, level: float, known: bool
) -> tuple[np.ndarray, np.ndarray, float]:
    """Coefficients, their covariance, and its quantile: t where the scatter was estimated, else normal."""
    n, parameters = design.shape
    degrees = n - parameters
    if np.linalg.matrix_rank(design) < parameters or (degrees < 1 and not known):
        raise ValueError(
            f"{n} measurements cannot fix {parameters} parameters and their error; add shifts or seeds, "
            "or pass errors"
        )
    beta = np.linalg.lstsq(design, target, rcond=None)[0]
    covariance = np.linalg.inv(design.T @ design)
    scatter = float(np.square(target - design @ beta).sum()) / max(degrees, 1)
    probability = (1 + level) / 2
    if known and (degrees < 1 or scatter <= 1):
        return beta, covariance, NormalDist().inv_cdf(probability)
    return beta, covariance * scatter, student_quantile(probability, degrees)
