"""The rectified path and its velocity."""

import pytest
import torch

from flowlab.flow.path import interpolate, target


def test_ends_are_data_and_noise() -> None:
    x0, noise = torch.randn(2, 3, 4, 4, 4)
    assert torch.equal(interpolate(x0, noise, torch.zeros(3)), x0)
    assert torch.equal(interpolate(x0, noise, torch.ones(3)), noise)


@pytest.mark.parametrize("shape", [(5, 2), (5, 3, 4, 4), (5, 7, 3)])
def test_target_is_the_slope_of_the_path(shape: tuple[int, ...]) -> None:
    x0, noise = torch.randn(2, *shape, dtype=torch.float64)
    t, step = torch.rand(5, dtype=torch.float64) * 0.9, 0.05
    slope = (interpolate(x0, noise, t + step) - interpolate(x0, noise, t)) / step
    torch.testing.assert_close(slope, target(x0, noise))


def test_one_time_for_all_and_the_precision_of_the_data() -> None:
    x0, noise = torch.randn(2, 3, 4, dtype=torch.bfloat16)
    each = interpolate(x0, noise, torch.full((3,), 0.25))
    assert each.dtype == torch.bfloat16
    assert torch.equal(each, interpolate(x0, noise, 0.25))
    assert torch.equal(each, interpolate(x0, noise, torch.tensor(0.25, dtype=torch.float64)))


def test_wrong_shapes_are_caught() -> None:
    with pytest.raises(AssertionError, match="expected"):
        interpolate(torch.zeros(3, 2), torch.zeros(3, 2), torch.zeros(2))
    with pytest.raises(AssertionError, match="noise"):
        interpolate(torch.zeros(3, 2), torch.zeros(3, 3), torch.zeros(3))
