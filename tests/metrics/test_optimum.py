"""The fitted optimum: exact on exact data, covering on noisy data, and silent about nothing at the edge."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowlab.metrics.optimum import fit_optimum

SHIFTS = [1.0, 1.78, 2.95, 4.63, 6.93]


def parabola(best: float, alphas=SHIFTS, curvature: float = 1.0) -> np.ndarray:
    return 10 + curvature * np.square(np.log(alphas) - math.log(best))


def noisy(best: float, noise: float, seeds: int, rng: np.random.Generator) -> tuple[list[float], np.ndarray]:
    alphas = SHIFTS * seeds
    return alphas, parabola(best, alphas) + rng.normal(0, noise, len(alphas))


@settings(max_examples=50, deadline=None)
@given(best=st.floats(1.05, 6.5), curvature=st.floats(0.01, 100), offset=st.floats(-100, 100))
def test_exact_data_give_the_exact_optimum(best, curvature, offset):
    own = fit_optimum(SHIFTS, parabola(best, curvature=curvature) + offset, errors=[1e-6] * 5)
    assert own.status == "interior"
    assert own.alpha == pytest.approx(best, rel=1e-5)
    assert own.low <= own.alpha <= own.high
    assert own.curvature == pytest.approx(curvature, rel=1e-4)


def test_perfect_fit_has_no_width():
    own = fit_optimum([1.0, math.e, math.e**2, math.e**3], [4.0, 1, 0, 1])
    assert own.alpha == pytest.approx(math.e**2) and own.n == 4
    assert (own.low, own.high) == pytest.approx((own.alpha, own.alpha), rel=1e-5)


@pytest.mark.parametrize("known", [False, True])
def test_interval_covers_the_truth(known):
    rng, hits, bounded = np.random.default_rng(1), 0, 0
    for _ in range(400):
        alphas, values = noisy(2.5, 0.1, 2, rng)
        own = fit_optimum(alphas, values, errors=[0.1] * 10 if known else None)
        hits += own.low <= 2.5 <= own.high
        bounded += own.status == "interior" and own.low > 0 and math.isfinite(own.high)
    assert 0.92 <= hits / 400 <= 0.985
    assert bounded > 350


def test_interval_covers_where_the_curvature_is_poorly_known():
    rng, hits = np.random.default_rng(2), 0
    for _ in range(400):
        own = fit_optimum(*noisy(4.0, 0.8, 2, rng))
        hits += own.low <= 4.0 <= own.high
    assert hits / 400 >= 0.93


@pytest.mark.parametrize(
    ("best", "status", "text", "alpha"),
    [(40.0, "at high edge", ">=6.93", 6.93), (0.2, "at low edge", "<=1", 1.0)],
)
def test_optimum_beyond_the_range_is_said(best, status, text, alpha):
    own = fit_optimum(*noisy(best, 0.05, 2, np.random.default_rng(0)))
    assert own.status == status and text in str(own)
    assert own.alpha == pytest.approx(alpha)
    assert (own.low == 0) == (status == "at low edge") and math.isinf(own.high) == (status == "at high edge")


def test_falling_and_concave_is_the_edge_too():
    values = 10 - np.square(np.log(SHIFTS))
    own = fit_optimum(SHIFTS, values + np.array([1, -1, 0, 1, -1]) * 0.01)
    assert own.curvature < 0 and own.status == "at high edge" and math.isinf(own.high)


def test_hill_has_no_minimum():
    own = fit_optimum(SHIFTS, -parabola(6.93**0.5), errors=[0.01] * 5)  # both ends equally low
    assert own.status == "no minimum" and own.curvature < 0
    assert (own.low, own.high) == (0.0, math.inf) and str(own) == "no minimum [?, ?]"


def test_noise_alone_is_undetermined_or_no_minimum():
    rng = np.random.default_rng(3)
    statuses = [fit_optimum(SHIFTS * 2, rng.normal(0, 1, 10)).status for _ in range(200)]
    assert np.mean([status in ("undetermined", "no minimum") for status in statuses]) > 0.85
    assert {"undetermined", "no minimum"} <= set(statuses)


def test_groups_take_their_offsets_out():
    rng = np.random.default_rng(4)
    alphas, values = noisy(2.5, 0.02, 3, rng)
    shifted = values + np.repeat([0.0, 5.0, -3.0], 5)
    seeds = np.repeat(["a", "b", "c"], 5).tolist()
    with_groups, same = fit_optimum(alphas, shifted, groups=seeds), fit_optimum(alphas, values, groups=seeds)
    assert (with_groups.alpha, with_groups.low, with_groups.high) == pytest.approx(
        (same.alpha, same.low, same.high)
    )
    without = fit_optimum(alphas, shifted)
    assert without.status == "undetermined" or without.high / without.low > with_groups.high / with_groups.low


def test_weights_follow_the_errors():
    values = parabola(2.5) + np.array([0, 0, 0, 0, 3.0])  # one measurement that knows nothing
    own = fit_optimum(SHIFTS, values, errors=[0.01, 0.01, 0.01, 0.01, 1e4])
    assert own.alpha == pytest.approx(2.5, rel=1e-4)


def test_scatter_beyond_the_errors_widens_the_interval():
    rng = np.random.default_rng(5)
    alphas, values = noisy(2.5, 0.2, 2, rng)
    believed, honest = (fit_optimum(alphas, values, errors=[e] * 10) for e in (0.001, 0.2))
    assert believed.high / believed.low > 0.8 * honest.high / honest.low


@pytest.mark.parametrize(
    ("alphas", "values", "options", "message"),
    [
        ([1.0, 2, 2, 1], [1.0, 2, 3, 4], {}, r"3 different shifts > 0, got \[1.0, 2.0\]"),
        ([0.0, 2, 3, 4], [1.0, 2, 3, 4], {}, "different shifts > 0"),
        ([1.0, 2, 3], [1.0, 2, 3], {}, "3 measurements cannot fix 3 parameters"),
        ([1.0, 2, 3, 4], [1.0, 2, 3, 4], {"groups": ["a", "b", "c", "d"]}, "4 measurements cannot fix 6"),
        ([1.0, 2, 3, 4], [1.0, 2, 3], {}, "give one of each"),
        ([1.0, 2, 3, 4], [1.0, 2, math.nan, 4], {}, "value 2 is nan"),
        ([1.0, 2, 3, 4], [1.0, 2, 3, 4], {"errors": [0, 1, 1, 1]}, "must be positive"),
    ],
)
def test_bad_input_is_one_line(alphas, values, options, message):
    with pytest.raises(ValueError, match=message) as caught:
        fit_optimum(alphas, values, **options)
    assert "\n" not in str(caught.value)
