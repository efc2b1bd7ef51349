"""Intervals: equal to scipy where scipy has them, and covering as often as they say."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats

from flowlab.metrics.intervals import paired_bootstrap, student_quantile, t_interval, wilson_interval


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


def covered(intervals, truth: float) -> float:
    return float(np.mean([not interval.excludes(truth) for interval in intervals]))


@pytest.mark.parametrize("n", [6, 20])
def test_bootstrap_covers(n):
    rng = np.random.default_rng(0)
    intervals = [paired_bootstrap(rng.normal(1, 2, n), num_resamples=1000, seed=i) for i in range(300)]
    assert 0.90 <= covered(intervals, 1.0) <= 0.99


def test_cluster_bootstrap_covers_where_cells_are_dependent():
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(10), 8).tolist()
    plain, clustered = [], []
    for seed in range(200):
        values = np.repeat(rng.normal(0, 1, 10), 8) + rng.normal(0, 0.5, 80)
        plain.append(paired_bootstrap(values, num_resamples=500, seed=seed))
        clustered.append(paired_bootstrap(values, clusters=labels, num_resamples=500, seed=seed))
    assert covered(plain, 0.0) < 0.7  # what pretending independence costs
    assert 0.89 <= covered(clustered, 0.0) <= 0.99
    assert clustered[0].n == 10 and plain[0].n == 80


def test_bootstrap_is_seeded_and_weighs_clusters_by_cells():
    values, labels = [1.0, 2.0, 3.0, 10.0], ["a", "a", "a", "b"]
    one = paired_bootstrap(values, clusters=labels, seed=1)
    assert one == paired_bootstrap(values, clusters=labels, seed=1)
    assert (one.estimate, one.low, one.high) == (4.0, 2.0, 10.0)  # two clusters: no more can be said


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: t_interval([1.0]), "at least 2 values"),
        (lambda: t_interval([1.0, 2.0, math.nan]), "value 2 is nan"),
        (lambda: t_interval([1.0, 2.0], level=95), "level=95"),
        (lambda: paired_bootstrap([1.0, 2.0], clusters=["a", "a"]), "2 clusters, got 1"),
        (lambda: paired_bootstrap([1.0, 2.0], clusters=["a"]), "1 cluster labels for 2 cells"),
        (lambda: wilson_interval(0, 0), "0 of 0"),
        (lambda: wilson_interval(3, 2), "3 of 2"),
        (lambda: student_quantile(0.2, 3), "probability=0.2"),
    ],
)
def test_bad_input_is_one_line(call, message):
    with pytest.raises(ValueError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)
