"""Intervals: equal to scipy where scipy has them, and covering as often as they say."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats

from flowlab.metrics.intervals import student_quantile, t_interval, wilson_interval


@pytest.mark.parametrize("degrees", [1, 2, 3, 4, 7, 30, 200, 5000, 10**6])
@pytest.mark.parametrize("probability", [0.6, 0.9, 0.975, 0.995, 0.9999])
def test_student_quantile_equals_scipy(degrees, probability):
    assert student_quantile(probability, degrees) == pytest.approx(
        scipy.stats.t.ppf(probability, degrees), rel=1e-9
    )


def test_student_quantile_becomes_normal():
    assert student_quantile(0.975, math.inf) == pytest.approx(1.959963984540054)


def test_t_interval_equals_scipy():
    values = [0.3, -0.1, 0.5, 0.2, 0.4]
    own = t_interval(values, level=0.9)
    low, high = scipy.stats.t.interval(0.9, 4, np.mean(values), scipy.stats.sem(values))
    assert (own.low, own.high) == pytest.approx((low, high))
    assert own.excludes(0) and not own.excludes(0.3)
    assert "n=5" in str(own) and "90%" in str(own)


@pytest.mark.parametrize(("successes", "total"), [(0, 5), (5, 5), (3, 10), (99, 100), (1, 1)])
@pytest.mark.parametrize("level", [0.9, 0.95])
def test_wilson_equals_scipy(successes, total, level):
    own = wilson_interval(successes, total, level=level)
    expected = scipy.stats.binomtest(successes, total).proportion_ci(level, method="wilson")
    assert (own.low, own.high) == pytest.approx((expected.low, expected.high), abs=1e-12)
    assert own.estimate == successes / total


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: t_interval([1.0]), "at least 2 values"),
        (lambda: t_interval([1.0, 2.0, math.nan]), "value 2 is nan"),
        (lambda: t_interval([1.0, 2.0], level=95), "level=95"),
        (lambda: wilson_interval(0, 0), "0 of 0"),
        (lambda: wilson_interval(3, 2), "3 of 2"),
        (lambda: student_quantile(0.2, 3), "probability=0.2"),
    ],
)
def test_bad_input_is_one_line(call, message):
    with pytest.raises(ValueError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)
