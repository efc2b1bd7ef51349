"""Samplers on equations with known solutions."""

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from flowlab.flow.samplers import CALLS_PER_STEP, SAMPLERS, euler
from flowlab.flow.schedules import sampling_grid

ORDER = {"euler": 1, "heun": 2}
every = pytest.mark.parametrize("name", SAMPLERS)


def wave(x: Tensor, t: Tensor) -> Tensor:
    """dx/dt = 3 x cos 3t, solved by x(t) = x(1) exp(sin 3t - sin 3)."""
    return 3 * x * (3 * t[:, None]).cos()


def gaussian_flow(mean: float, std: float):
    """The exact velocity where data are N(mean, std^2); it carries noise z to mean + std z."""

    def velocity(x: Tensor, t: Tensor) -> Tensor:
        t = t[:, None]
        variance = (1 - t) ** 2 * std**2 + t**2
        return (t - (1 - t) * std**2) / variance * (x - (1 - t) * mean) - mean

    return velocity


@every
@pytest.mark.parametrize("alpha", [1.0, 2.95])
def test_order_of_convergence(name: str, alpha: float) -> None:
    x = torch.linspace(-1, 1, 5, dtype=torch.float64)[:, None]
    exact = x * math.exp(-math.sin(3))
    errors = [
        float((SAMPLERS[name](wave, x, sampling_grid(n, alpha)) - exact).abs().max()) for n in (64, 128, 256)
    ]
    for coarse, fine in pairwise(errors):
        assert math.log2(coarse / fine) == pytest.approx(ORDER[name], abs=0.15)


@every
def test_carries_noise_to_the_data_distribution(name: str) -> None:
    z = torch.randn(7, 1, dtype=torch.float64)
    x = SAMPLERS[name](gaussian_flow(2.0, 0.5), z, sampling_grid(2000))
    torch.testing.assert_close(x, 2 + 0.5 * z, rtol=0, atol=5e-3)


@every
def test_a_rising_grid_goes_back_to_the_noise(name: str) -> None:
    z = torch.linspace(-1.5, 1.5, 7, dtype=torch.float64)[:, None]  # the error grows with |z|
    flow, grid = gaussian_flow(-1.0, 0.7), sampling_grid(1000)
    back = SAMPLERS[name](flow, SAMPLERS[name](flow, z, grid), grid.flip(0))
    torch.testing.assert_close(back, z, rtol=0, atol=5e-3)


@every
def test_straight_paths_are_exact_in_one_step(name: str) -> None:
    noise, x0 = torch.randn(2, 4, 3)
    result = SAMPLERS[name](lambda x, t: noise - x0, noise, sampling_grid(1))
    torch.testing.assert_close(result, x0)


@every
@pytest.mark.parametrize("num_steps", [1, 5])
def test_counts_updates_and_calls(name: str, num_steps: int) -> None:
    calls: list[Tensor] = []
    steps: list[tuple[int, float]] = []

    def velocity(x: Tensor, t: Tensor) -> Tensor:
        calls.append(t)
        return x

    def on_step(i: int, t: Tensor, x: Tensor) -> Tensor:
        steps.append((i, float(t)))
        return x

    grid = sampling_grid(num_steps, 2.0)
    SAMPLERS[name](velocity, torch.randn(3, 2), grid, generators=None, on_step=on_step)
    assert len(calls) == CALLS_PER_STEP[name] * num_steps
    assert all(t.shape == (3,) and t.dtype == torch.float32 for t in calls)
    assert [i for i, _ in steps] == list(range(num_steps))
    assert [t for _, t in steps] == pytest.approx(grid[1:].tolist(), abs=1e-6)
    assert steps[-1][1] == 0


@every
def test_on_step_may_replace_a_part(name: str) -> None:
    """Inpainting: a region held at a known value stays there."""

    def hold(i: int, t: Tensor, x: Tensor) -> Tensor:
        return torch.cat([torch.full_like(x[:, :1], 5.0), x[:, 1:]], dim=1)

    x = SAMPLERS[name](lambda x, t: x, torch.randn(2, 3), sampling_grid(4), on_step=hold)
    assert (x[:, 0] == 5).all()


@every
def test_state_keeps_its_precision_beside_a_half_precision_network(name: str) -> None:
    x = SAMPLERS[name](lambda x, t: x.bfloat16(), torch.randn(2, 3), sampling_grid(4))
    assert x.dtype == torch.float32


@every
def test_gradients_flow_through_the_steps(name: str) -> None:
    x = torch.randn(2, 3, requires_grad=True)
    SAMPLERS[name](lambda x, t: x.sin(), x, sampling_grid(3)).sum().backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()


def test_every_sampler_states_its_cost_and_refuses_an_empty_grid() -> None:
    assert CALLS_PER_STEP.keys() == SAMPLERS.keys() == ORDER.keys()
    with pytest.raises(ValueError, match="N >= 1"):
        euler(lambda x, t: x, torch.zeros(1, 1), torch.ones(1))
