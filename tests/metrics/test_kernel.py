"""Kernel distance: equal to the double sum, unbiased, with an error that equals brute force."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from flowlab.metrics.kernel import kernel_distance, polynomial_kernel


def draw(n: int, d: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_equals_the_double_sum():
    x, y = draw(12, 5), draw(9, 5, 1) + 0.5
    own_x = sum(
        float(polynomial_kernel(x[i : i + 1], x[j : j + 1])) for i in range(12) for j in range(12) if i != j
    )
    own_y = sum(
        float(polynomial_kernel(y[i : i + 1], y[j : j + 1])) for i in range(9) for j in range(9) if i != j
    )
    expected = own_x / (12 * 11) + own_y / (9 * 8) - 2 * float(polynomial_kernel(x, y).mean())
    result = kernel_distance(x, y)
    assert result.distance == pytest.approx(expected, rel=1e-12)
    assert (result.num_subsets, result.subset_sizes, result.num_images) == (1, (12, 9), (12, 9))
    assert math.isnan(result.subset_sd)


def test_kernel_has_the_published_constants():
    assert float(polynomial_kernel(torch.tensor([[1.0, 2]]), torch.tensor([[3.0, 4]]))) == (11 / 2 + 1) ** 3


def test_blocks_change_nothing(monkeypatch):
    x, y = draw(50, 5), draw(40, 5, 1)
    whole = kernel_distance(x, y)
    monkeypatch.setattr("flowlab.metrics.kernel._BLOCK", 1)
    assert kernel_distance(x, y).distance == pytest.approx(whole.distance, rel=1e-11)


def test_unbiased_on_equal_distributions_and_error_not_too_small():
    results = [kernel_distance(draw(60, 4, 2 * i), draw(50, 4, 2 * i + 1)) for i in range(300)]
    distances = np.array([r.distance for r in results])
    assert abs(distances.mean()) < 3 * distances.std() / 300**0.5
    assert 1.0 < np.mean([r.standard_error for r in results]) / distances.std() < 2.0


def test_error_equals_brute_force_where_distributions_differ():
    results = [kernel_distance(1.2 * draw(200, 4, 2 * i) + 0.4, draw(150, 4, 2 * i + 1)) for i in range(200)]
    brute = float(np.std([r.distance for r in results]))
    assert np.mean([r.standard_error for r in results]) == pytest.approx(brute, rel=0.2)


def test_subsets_agree_with_the_whole_and_are_seeded():
    x, y = 1.2 * draw(400, 4) + 0.4, draw(300, 4, 1)
    whole = kernel_distance(x, y)
    result = kernel_distance(x, y, num_subsets=40, subset_size=100, seed=5)
    assert result == kernel_distance(x, y, num_subsets=40, subset_size=100, seed=5)
    assert result != kernel_distance(x, y, num_subsets=40, subset_size=100, seed=6)
    assert result.distance == pytest.approx(whole.distance, abs=4 * result.subset_sd / 40**0.5)
    assert result.standard_error == pytest.approx(whole.standard_error, rel=0.35)
    assert result.subset_sd > result.standard_error  # a subset knows less than the set


def test_float32_features_are_computed_in_float64():
    x, y = draw(40, 8).float(), draw(40, 8, 1).float()
    assert kernel_distance(x, y).distance == kernel_distance(x.double(), y.double()).distance


@pytest.mark.parametrize(
    ("a", "b", "options", "message"),
    [
        (draw(9, 3), draw(9, 2), {}, "features of 3 and 2 dimensions"),
        (draw(1, 3), draw(9, 3), {}, "got 1 and 9 images"),
        (draw(9, 3), draw(9, 3), {"subset_size": 1}, "subset_size=1"),
        (draw(9, 3), draw(9, 3), {"num_subsets": 0}, "num_subsets=0"),
        (draw(9, 3), draw(9, 3).fill_(torch.inf), {}, "features_b of image 0 are not finite"),
    ],
)
def test_bad_input(a, b, options, message):
    with pytest.raises(ValueError, match=message):
        kernel_distance(a, b, **options)
