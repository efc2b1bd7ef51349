"""Frechet distance: closed forms, scipy's matrix square root, singular cases, errors against brute force."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flowlab.metrics.frechet import (
    Reference,
    Statistics,
    few_images_note,
    frechet_bootstrap,
    frechet_distance,
    frechet_infinity,
    frechet_influence,
    frechet_resamples,
    statistics,
)

few_images = pytest.mark.filterwarnings("ignore:Frechet distance from")


def draw(n: int, d: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def gaussian(mean: torch.Tensor, covariance: torch.Tensor) -> Statistics:
    return Statistics.from_moments(1000, mean, covariance)


def spd(d: int, seed: int) -> torch.Tensor:
    root = draw(d, d, seed)
    return root @ root.T + 0.1 * torch.eye(d)


def test_few_images_are_named_and_enough_are_not():
    assert "from 342 images, fewer than 1,000, are biased upwards" in few_images_note(342)
    assert few_images_note(1000) == ""


# ---- the number --------------------------------------------------------------------------------------------


def test_features_and_numpy_arrays_are_taken_as_they_are():
    a, b = draw(60, 4), draw(50, 4, 1) + 0.3
    expected = frechet_distance(statistics(a), statistics(b))
    assert frechet_distance(statistics(a.numpy()), statistics(b.numpy())) == expected
    assert frechet_distance(a.numpy(), b.numpy()) == frechet_distance(a, statistics(b)) == expected


def test_closed_form_commuting():
    a = gaussian(torch.tensor([1.0, 0, 2]), torch.diag(torch.tensor([4.0, 9, 1])))
    b = gaussian(torch.zeros(3), torch.diag(torch.tensor([1.0, 4, 0.25])))
    assert frechet_distance(a, b) == pytest.approx(5 + 1 + 1 + 0.25, abs=1e-12)


def test_closed_form_two_dimensions_not_commuting():
    # tr (A B)^(1/2) of 2x2 matrices = sqrt(tr AB + 2 sqrt(det A det B))
    a, b = torch.tensor([[2.0, 1], [1, 3]]).double(), torch.tensor([[1.0, -0.5], [-0.5, 4]]).double()
    root = torch.sqrt((a @ b).trace() + 2 * torch.sqrt(a.det() * b.det()))
    expected = float(a.trace() + b.trace() - 2 * root)
    assert frechet_distance(gaussian(torch.zeros(2), a), gaussian(torch.zeros(2), b)) == pytest.approx(
        expected, abs=1e-12
    )


@settings(max_examples=20, deadline=None)
@given(d=st.integers(2, 24), seed=st.integers(0, 10**6))
def test_equals_scipy_sqrtm_and_is_symmetric(d, seed):
    a, b = (
        gaussian(draw(1, d, seed)[0], spd(d, seed + 1)),
        gaussian(draw(1, d, seed + 2)[0], spd(d, seed + 3)),
    )
    root = scipy.linalg.sqrtm(a.covariance.numpy() @ b.covariance.numpy())
    expected = float(
        (a.mean - b.mean).square().sum()
        + a.covariance.trace()
        + b.covariance.trace()
        - 2 * np.trace(root).real
    )
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-8, abs=1e-8)
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a), rel=1e-10, abs=1e-9)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6), scale=st.floats(0.1, 10))
def test_rotation_changes_nothing_and_scale_squares(seed, scale):
    x, y, q = draw(40, 6, seed), draw(40, 6, seed + 1) + 0.5, torch.linalg.qr(draw(6, 6, seed + 2)).Q
    plain = frechet_distance(statistics(x), statistics(y))
    assert frechet_distance(statistics(x @ q + 3), statistics(y @ q + 3)) == pytest.approx(
        plain, rel=1e-9, abs=1e-10
    )
    assert frechet_distance(statistics(scale * x), statistics(scale * y)) == pytest.approx(
        scale**2 * plain, rel=1e-9
    )


def test_result_is_float64_and_parts_add_up():
    a, b = statistics(draw(100, 5).float()), statistics(draw(100, 5, 1) + 1)
    parts = Reference(b).parts(a)
    assert isinstance(frechet_distance(a, b), float)
    assert parts.distance == parts.mean_term + parts.covariance_term == frechet_distance(a, b)
    assert parts.mean_term == pytest.approx(float((a.mean - b.mean).square().sum()))
    assert (parts.num_generated, parts.num_reference) == (100, 100)


# ---- singular covariances ----------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [200, 40, 2])
@few_images
def test_identical_sets_are_at_zero(n):
    own = statistics(draw(n, 64))
    assert abs(frechet_distance(own, own)) < 1e-5


@pytest.mark.parametrize(("n", "m"), [(20, 300), (300, 20), (20, 30), (2, 300)])
@few_images
def test_fewer_images_than_dimensions_equals_the_nuclear_norm(n, m):
    # tr (S_a S_b)^(1/2) = |X_a X_b^T|_* for centred features scaled by 1/sqrt(n-1): exact at any rank
    x, y = draw(n, 64), draw(m, 64, 1) @ spd(64, 2) * 0.01
    xc, yc = (x - x.mean(0)) / (n - 1) ** 0.5, (y - y.mean(0)) / (m - 1) ** 0.5
    nuclear = float(torch.linalg.svdvals(xc @ yc.T).sum())
    expected = float(
        (x.mean(0) - y.mean(0)).square().sum() + xc.square().sum() + yc.square().sum() - 2 * nuclear
    )
    assert frechet_distance(statistics(x), statistics(y)) == pytest.approx(expected, abs=1e-5)


@few_images
def test_collapsed_set_is_the_trace_of_the_other():
    reference = statistics(draw(500, 8))
    collapsed = statistics(torch.ones(500, 8))
    expected = float((reference.mean - 1).square().sum() + reference.covariance.trace())
    assert frechet_distance(collapsed, reference) == pytest.approx(expected, abs=1e-12)
    assert frechet_distance(reference, collapsed) == pytest.approx(expected, abs=1e-12)
    assert frechet_distance(collapsed, collapsed) == 0


@pytest.mark.parametrize("smallest", [1e-4, 1e-10, 1e-16])
def test_ill_conditioned_reference_equals_the_eigenvector_route(smallest):
    scales = torch.logspace(0, math.log10(smallest), 24, dtype=torch.float64)
    x, q = draw(400, 24) * scales, torch.linalg.qr(draw(24, 24, 3)).Q
    a, b = statistics(1.5 * x @ q), statistics(draw(400, 24, 1) * scales @ q)
    values, vectors = torch.linalg.eigh(b.covariance)
    root = vectors * values.clamp_min(0).sqrt()
    inner = torch.linalg.eigvalsh(root.T @ a.covariance @ root).clamp_min(0)
    traces = a.covariance.trace() + b.covariance.trace() + (a.mean - b.mean).square().sum()
    assert frechet_distance(a, b) == pytest.approx(float(traces - 2 * inner.sqrt().sum()), abs=1e-6)
    assert abs(frechet_distance(b, b)) < 1e-6


def test_dead_channel():
    x, y = draw(300, 6), draw(300, 6, 1)
    alive = frechet_distance(statistics(x[:, :5]), statistics(y[:, :5]))
    x[:, 5] = y[:, 5] = 0
    assert frechet_distance(statistics(x), statistics(y)) == pytest.approx(alive, abs=1e-9)


def test_too_few_images_warn():
    with pytest.warns(UserWarning, match="Frechet distance from 10 images in 64 dimensions"):
        frechet_distance(statistics(draw(10, 64)), statistics(draw(100, 64)))


# ---- faults ------------------------------------------------------------------------------------------------


def test_nan_is_named_at_once():
    features = draw(2000, 512)
    features[1234, 5] = float("nan")
    start = time.perf_counter()
    with pytest.raises(ValueError, match="image 1234"):
        statistics(features)
    assert time.perf_counter() - start < 2


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: frechet_distance(statistics(draw(9, 3)), statistics(draw(9, 2))),
            "3 dimensions against .* of 2",
        ),
        (
            lambda: frechet_distance(statistics(draw(9, 3)), statistics(draw(1, 3))),
            "at least 2 images, got 1",
        ),
        (lambda: Reference(gaussian(torch.zeros(2), torch.tensor([[1.0, 2], [2, 1]]))), "eigenvalue -1"),
        (lambda: Reference(Statistics(9, torch.zeros(2), torch.full((2, 2), torch.inf))), "not finite"),
        (
            lambda: Reference(statistics(draw(9, 2))).distance(
                Statistics(9, torch.zeros(2), torch.full((2, 2), torch.inf))
            ),
            "overflows",
        ),
        (lambda: frechet_bootstrap(draw(9, 2), Reference(statistics(draw(9, 2))), 1), "num_resamples=1"),
        (lambda: frechet_infinity(draw(3, 2), Reference(statistics(draw(9, 2)))), "cannot fit a line"),
    ],
)
def test_bad_input_is_one_line(call, message):
    with pytest.raises(ValueError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


# ---- how sure ----------------------------------------------------------------------------------------------


def test_resamples_equal_resampling_by_hand_and_any_block_size(monkeypatch):
    x, reference = draw(60, 5) + 0.3, Reference(statistics(draw(200, 5, 1)))
    together = frechet_resamples(x, reference, 7, seed=3)
    monkeypatch.setattr("flowlab.metrics.frechet._BLOCK", 1)
    torch.testing.assert_close(frechet_resamples(x, reference, 7, seed=3), together, rtol=1e-12, atol=1e-12)
    from flowlab.metrics.frechet import _resample_counts

    rows = [torch.repeat_interleave(torch.arange(60), counts.long()) for counts in _resample_counts(60, 7, 3)]
    by_hand = torch.tensor([reference.distance(statistics(x[r])) for r in rows], dtype=torch.float64)
    torch.testing.assert_close(together, by_hand, rtol=1e-11, atol=1e-11)


def test_bootstrap_is_seeded():
    x, reference = draw(60, 5), Reference(statistics(draw(200, 5, 1)))
    assert frechet_bootstrap(x, reference, 20, seed=1) == frechet_bootstrap(x, reference, 20, seed=1)
    assert frechet_bootstrap(x, reference, 20, seed=1) != frechet_bootstrap(x, reference, 20, seed=2)


def test_errors_equal_brute_force_and_bootstrap_mean_is_biased_upward():
    d, n = 8, 300
    reference = Reference(statistics(draw(2000, d, 99)))
    sets = [1.2 * draw(n, d, seed) + 0.5 for seed in range(200)]
    distances = torch.tensor([reference.distance(statistics(x)) for x in sets], dtype=torch.float64)
    brute = float(distances.std())  # itself known to 5 %
    bootstrap = np.mean([frechet_bootstrap(x, reference, 50, seed=i) for i, x in enumerate(sets[:20])])
    influence = np.mean([float(frechet_influence(x, reference).std()) / n**0.5 for x in sets[:20]])
    assert bootstrap == pytest.approx(brute, rel=0.2)
    assert influence == pytest.approx(brute, rel=0.2)
    resampled = torch.cat([frechet_resamples(x, reference, 20, seed=i) for i, x in enumerate(sets[:20])])
    assert float(resampled.mean()) > float(distances[:20].mean())


def test_influence_is_the_derivative_of_the_distance():
    # moving a fraction e of the weight onto image i changes the distance by e * influence_i, at first order
    x, reference = draw(50, 4) * 1.5 + 0.2, Reference(statistics(draw(300, 4, 1)))
    influence = frechet_influence(x, reference)

    def weighted(weights: torch.Tensor) -> float:
        mean = weights @ x
        c = x - mean
        return float(reference.distances(mean[None], ((weights[:, None] * c).T @ c)[None]))

    step, uniform = 1e-6, torch.full((50,), 1 / 50, dtype=torch.float64)
    towards = torch.zeros(50, dtype=torch.float64)
    towards[7] = 1
    derivative = (
        (weighted(uniform + step * (towards - uniform)) - weighted(uniform - step * (towards - uniform)))
        / 2
        / step
    )
    assert float(influence[7]) == pytest.approx(derivative, rel=0.05)  # divisors n and n - 1 differ by 2 %
    assert abs(float(influence.mean())) < 1e-12


@few_images
def test_influence_survives_singular_covariances():
    reference = Reference(statistics(draw(100, 64)))
    assert bool(frechet_influence(draw(10, 64, 1), reference).isfinite().all())
    assert bool(frechet_influence(torch.ones(10, 64), reference).isfinite().all())


def test_paired_error_is_smaller_than_the_errors_apart():
    x = draw(400, 6)
    reference = Reference(statistics(draw(2000, 6, 1)))
    a, b = frechet_influence(1.3 * x + 0.5, reference), frechet_influence(1.3 * x + 0.52, reference)
    assert float((a - b).std()) < 0.3 * float((a.var() + b.var()).sqrt())


def test_infinity_removes_most_of_the_bias_and_is_seeded():
    d = 16
    reference = Reference(gaussian(torch.zeros(d), torch.eye(d)))
    fits = [frechet_infinity(draw(1000, d, seed), reference, seed=seed) for seed in range(8)]
    plain = np.mean([fit.distances[-1] for fit in fits])
    assert abs(np.mean([fit.distance for fit in fits])) < 0.3 * plain  # the truth is 0
    assert all(fit.slope > 0 for fit in fits)
    assert fits[0] == frechet_infinity(draw(1000, d, 0), reference, seed=0)
    assert fits[0].sizes[0] == 100 and fits[0].sizes[-1] == 1000 and len(fits[0].sizes) == 15


@pytest.mark.slow
def test_four_times_as_fast_as_the_matrix_square_root():
    """d = 2048 from 4,000 images a side, processor time of both in one run; 0.12 measured (benchmarks/)."""
    torch.manual_seed(0)
    a, b = (statistics(torch.randn(4000, 2048, dtype=torch.float64) * scale) for scale in (1.0, 1.1))
    began = time.process_time()
    ours = frechet_distance(a, b)
    middle = time.process_time()
    root = scipy.linalg.sqrtm(a.covariance.numpy() @ b.covariance.numpy())
    ended = time.process_time()
    theirs = (
        (a.mean - b.mean).square().sum() + torch.trace(a.covariance + b.covariance) - 2 * np.trace(root).real
    )
    assert ours == pytest.approx(float(theirs), rel=1e-6)
    assert middle - began < 0.25 * (ended - middle), f"{middle - began:.2f} s against {ended - middle:.2f} s"
