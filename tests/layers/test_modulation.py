"""Modulation."""

import torch

from flowlab.layers.modulation import Modulation, gated, modulate


def test_is_one_linear_map_cut_into_vectors() -> None:
    modulation, c = Modulation(4, 3), torch.randn(2, 1, 4)
    whole = modulation.lin(c)
    assert all(torch.equal(part, whole[..., 4 * i : 4 * i + 4]) for i, part in enumerate(modulation(c)))


def test_modulate_and_gate() -> None:
    x, branch = torch.randn(2, 3, 5, 4)
    shift, scale, gate = torch.randn(3, 3, 1, 4)
    torch.testing.assert_close(modulate(x, shift, scale), x * (1 + scale) + shift)
    torch.testing.assert_close(gated(x, gate, branch), x + gate * branch)
    assert torch.equal(modulate(x, torch.zeros_like(shift), torch.zeros_like(scale)), x)
    assert torch.equal(gated(x, torch.zeros_like(gate), branch), x)


def test_gradients_are_finite() -> None:
    modulation, x = Modulation(4, 3), torch.randn(2, 5, 4, requires_grad=True)
    shift, scale, gate = modulation(torch.randn(2, 1, 4))
    gated(x, gate, modulate(x, shift, scale)).square().sum().backward()
    assert x.grad is not None
    assert modulation.lin.weight.grad is not None
    assert x.grad.isfinite().all()
    assert modulation.lin.weight.grad.isfinite().all()
