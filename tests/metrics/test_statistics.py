"""Statistics merged batch by batch: equal to numpy, whatever the order; non-finite features are named."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flowlab.metrics.statistics import Statistics, as_features, statistics


def draw(n: int, d: int, seed: int = 0, offset: float = 0.0) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + offset


def test_equals_numpy():
    features = draw(50, 7)
    own = statistics(features)
    assert own.n == 50 and own.dimension == 7
    assert own.mean.dtype == own.covariance.dtype == torch.float64
    np.testing.assert_allclose(own.mean, features.mean(0), rtol=1e-13)
    np.testing.assert_allclose(own.covariance, np.cov(features.numpy(), rowvar=False), rtol=1e-12)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_numpy_arrays_are_features_too(dtype):
    array = draw(50, 7).numpy().astype(dtype)
    own, expected = statistics(array), statistics(torch.from_numpy(array))
    assert torch.equal(own.mean, expected.mean) and torch.equal(own.scatter, expected.scatter)
    moments = Statistics.from_moments(50, array.mean(0), np.cov(array.astype(np.float64), rowvar=False))
    torch.testing.assert_close(moments.covariance, own.covariance, rtol=1e-12, atol=1e-12)
    with pytest.raises(ValueError, match=r"expected features \(images, dimensions\), got shape \(7,\)"):
        statistics(array[0])


@settings(max_examples=40, deadline=None)
@given(
    cuts=st.lists(st.integers(0, 60), max_size=5), seed=st.integers(0, 99), offset=st.sampled_from([0.0, 1e3])
)
def test_merge_does_not_depend_on_order_or_batches(cuts, seed, offset):
    features = draw(60, 5, seed, offset)
    pieces = torch.tensor_split(features, sorted(cuts))
    forward, merged = Statistics.empty(5), Statistics.empty(5)
    for piece in pieces:
        forward.update(piece)
    for piece in reversed(pieces):
        merged = statistics(piece).merge(merged)
    whole = statistics(features)
    for other in (forward, merged):
        assert other.n == whole.n == 60
        torch.testing.assert_close(other.mean, whole.mean, rtol=1e-13, atol=1e-13)
        torch.testing.assert_close(other.covariance, whole.covariance, rtol=0, atol=1e-11)


def test_offset_costs_no_digits():
    features = draw(500, 4)
    torch.testing.assert_close(
        statistics(features + 1e6).covariance, statistics(features).covariance, rtol=0, atol=1e-8
    )


def test_update_returns_itself_and_merge_leaves_both_alone():
    a, b = statistics(draw(10, 3)), statistics(draw(5, 3, 1))
    before = a.mean.clone()
    assert a.merge(b).n == 15 and a.n == 10 and torch.equal(a.mean, before)
    assert a.update(draw(5, 3, 1)) is a and a.n == 15


def test_from_moments_returns_the_moments():
    own = statistics(draw(20, 4))
    again = Statistics.from_moments(20, own.mean.float(), own.covariance)
    torch.testing.assert_close(again.covariance, own.covariance, rtol=1e-14, atol=0)
    assert again.to("cpu").n == 20


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_non_finite_feature_names_the_image_over_all_updates(value):
    own = statistics(draw(10, 4))
    batch = draw(5, 4)
    batch[3, 2] = value
    with pytest.raises(
        ValueError, match=r"features of image 13 \(e\.png\) are not finite: (nan|inf) in dimension 2"
    ):
        own.update(batch, names=["b.png", "c.png", "d.png", "e.png", "f.png"])
    assert own.n == 10 and bool(own.mean.isfinite().all())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: statistics(torch.zeros(3)), r"expected features \(images, dimensions\), got shape \(3,\)"),
        (lambda: statistics(torch.zeros(1, 3)).covariance, "at least 2 images, got 1"),
        (lambda: statistics(draw(4, 3)).update(draw(4, 2)), "3 and 2 dimensions cannot be merged"),
        (lambda: as_features(torch.zeros(3, 2), names=["a"]), "1 names for 3 rows"),
        (lambda: Statistics.from_moments(1, torch.zeros(2), torch.eye(2)), "n=1"),
        (lambda: Statistics.from_moments(9, torch.zeros(3), torch.eye(2)), "do not belong together"),
        (lambda: Statistics.from_moments(9, torch.zeros(2), torch.full((2, 2), torch.nan)), "non-finite"),
        (
            lambda: Statistics.from_moments(9, torch.zeros(2), torch.tensor([[1.0, 2], [0, 1]])),
            "not symmetric",
        ),
    ],
)
def test_bad_input_is_one_line(call, message):
    with pytest.raises(ValueError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_empty_batch_changes_nothing():
    assert Statistics.empty(3).update(torch.zeros(0, 3)).n == 0
