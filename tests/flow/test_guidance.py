"""Classifier-free guidance as a wrapper."""

import pytest
import torch
from torch import Tensor

from flowlab.flow.guidance import cfg


class Counted:
    """A velocity that returns a constant and counts its calls."""

    def __init__(self, value: float) -> None:
        self.value, self.calls = value, 0

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        self.calls += 1
        return torch.full_like(x, self.value)


X = torch.zeros(3, 4, 2, 2)


def test_extrapolates_on_all_channels() -> None:
    v = cfg(Counted(2.0), Counted(1.0), 4.0)(X, torch.full((3,), 0.5))
    assert torch.equal(v, torch.full_like(X, 1 + 4 * (2 - 1)))


def test_scale_one_never_evaluates_the_unconditional() -> None:
    cond, uncond = Counted(2.0), Counted(1.0)
    v = cfg(cond, uncond, 1.0)(X, torch.full((3,), 0.5))
    assert (cond.calls, uncond.calls) == (1, 0)
    assert (v == 2).all()


def test_scale_zero_is_unconditional() -> None:
    assert (cfg(Counted(2.0), Counted(1.0), 0.0)(X, torch.full((3,), 0.5)) == 1).all()


def test_outside_the_interval_only_the_conditional_is_evaluated() -> None:
    cond, uncond = Counted(2.0), Counted(1.0)
    guided = cfg(cond, uncond, 3.0, (0.2, 0.7))
    for t in (0.0, 0.19, 0.71, 1.0):
        assert (guided(X, torch.full((3,), t)) == 2).all()
    assert (cond.calls, uncond.calls) == (4, 0)
    for t in (0.2, 0.5, 0.7):  # both ends belong to it
        assert (guided(X, torch.full((3,), t)) == 4).all()
    assert uncond.calls == 3


def test_each_example_has_its_own_time() -> None:
    v = cfg(Counted(2.0), Counted(1.0), 3.0, (0.2, 0.7))(X, torch.tensor([0.1, 0.5, 0.9]))
    assert v[:, 0, 0, 0].tolist() == [2, 4, 2]


def test_wraps_itself() -> None:
    """Guidance of guidance is guidance of the product: the result is an ordinary velocity."""
    cond, uncond = Counted(2.0), Counted(1.0)
    twice = cfg(cfg(cond, uncond, 2.0), uncond, 3.0)(X, torch.full((3,), 0.5))
    assert torch.equal(twice, cfg(cond, uncond, 6.0)(X, torch.full((3,), 0.5)))


@pytest.mark.parametrize("interval", [(0.7, 0.2), (-0.1, 1.0), (0.0, 1.1)])
def test_a_bad_interval_is_refused(interval: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="guidance interval"):
        cfg(Counted(0), Counted(0), 2.0, interval)


def test_a_scale_that_is_no_number_is_refused() -> None:
    with pytest.raises(ValueError, match="guidance scale is nan"):
        cfg(Counted(0), Counted(0), float("nan"))
