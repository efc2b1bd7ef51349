"""Sampling grids: exact ends, the shift's group structure, and the published grids."""

import json
import math
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from flowlab.flow.schedules import (
    dimension_shift,
    flux1_grid,
    flux2_grid,
    flux2_mu,
    sampling_grid,
    shift,
    unshift,
)

GOLDEN = json.loads((Path(__file__).parents[1] / "data" / "flux2_schedule.json").read_text())
alphas = st.floats(0.02, 50)
times = st.floats(0, 1)


@given(alpha=alphas, t=times)
def test_unshift_inverts_shift(alpha: float, t: float) -> None:
    assert unshift(alpha, shift(alpha, t)) == pytest.approx(t, rel=1e-9, abs=1e-13)


@given(first=alphas, second=alphas, t=times)
def test_shifts_multiply(first: float, second: float, t: float) -> None:
    assert shift(second, shift(first, t)) == pytest.approx(shift(first * second, t), abs=1e-12)


@given(alpha=alphas, t=times)
def test_reversed_time_divides_by_the_shift(alpha: float, t: float) -> None:
    assert 1 - shift(alpha, 1 - t) == pytest.approx(shift(1 / alpha, t), abs=1e-12)


@given(alpha=alphas, t=times)
def test_the_formula(alpha: float, t: float) -> None:
    assert shift(alpha, t) == pytest.approx(alpha * t / (1 + (alpha - 1) * t), abs=1e-12)
    assert 0 <= shift(alpha, t) <= 1


@given(alpha=alphas, num_steps=st.integers(1, 300))
def test_a_grid_falls_from_exactly_one_to_exactly_zero(alpha: float, num_steps: int) -> None:
    grid = sampling_grid(num_steps, alpha)
    assert grid.shape == (num_steps + 1,)
    assert grid.dtype == torch.float64
    assert grid[0] == 1
    assert grid[-1] == 0
    assert (grid.diff() < 0).all()


def test_without_a_shift_the_grid_is_even() -> None:
    assert torch.equal(sampling_grid(8), torch.arange(8, -1, -1, dtype=torch.float64) / 8)


def test_shift_takes_tensors_and_numbers() -> None:
    t = torch.tensor([0.0, 0.25, 1.0])
    alpha = torch.tensor([[2.0], [3.0]])
    assert shift(alpha, t).shape == (2, 3)
    assert shift(3.0, t).dtype == torch.float32
    assert float(shift(alpha, t)[1, 1]) == pytest.approx(shift(3, 0.25)) == pytest.approx(0.5)


def test_the_dimension_rule() -> None:
    assert dimension_shift(16 * 16 * 768, 4096) == pytest.approx(6.928, abs=5e-4)
    assert dimension_shift(64, 16) == 2


@pytest.mark.parametrize("case", GOLDEN, ids=lambda case: f"{case['tokens']}x{case['steps']}")
def test_flux2_grid_is_the_official_one(case: dict) -> None:
    assert flux2_mu(case["tokens"], case["steps"]) == pytest.approx(case["mu"], abs=1e-12)
    grid = flux2_grid(case["tokens"], case["steps"])
    torch.testing.assert_close(grid, torch.tensor(case["timesteps"], dtype=torch.float64), rtol=0, atol=2e-7)
    assert grid[0] == 1
    assert grid[-1] == 0


@pytest.mark.parametrize(
    ("tokens", "steps", "mu"),
    [(1024, 4, 2.0307), (4080, 28, 2.1499), (4300, 200, 1.1845), (4301, 50, 1.1847)],
)
def test_flux2_mu_on_the_published_table(tokens: int, steps: int, mu: float) -> None:
    assert flux2_mu(tokens, steps) == pytest.approx(mu, abs=6e-5)


def test_flux1_grid() -> None:
    """Official: mu = 0.000169270833 L + 0.456666667, t' = e^mu / (e^mu + 1 / t - 1); schnell is even."""
    for tokens, mu in ((256, 0.5), (4096, 1.15), (1024, 0.000169270833 * 1024 + 0.456666667)):
        even = torch.linspace(1, 0, 29, dtype=torch.float64)
        expected = math.exp(mu) / (math.exp(mu) + (1 / even - 1))
        torch.testing.assert_close(flux1_grid(tokens, 28), expected, rtol=1e-7, atol=1e-12)
    assert torch.equal(flux1_grid(4096, 4, shifted=False), sampling_grid(4))


def test_bad_arguments_are_refused() -> None:
    for bad in (0, -1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="shift alpha is"):
            sampling_grid(4, bad)
    with pytest.raises(ValueError, match="shift alpha is -2"):
        shift(torch.tensor([1.0, -2.0]), torch.tensor(0.5))
    with pytest.raises(ValueError, match="0 steps"):
        sampling_grid(0)
    with pytest.raises(ValueError, match="0 tokens"):
        flux2_grid(0, 4)
    with pytest.raises(ValueError, match="0 and 4096"):
        dimension_shift(0, 4096)
