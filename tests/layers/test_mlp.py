"""MLPs against their definitions."""

import math

import pytest
import torch

from flowlab.layers.mlp import MLPS, GeluMLP, SwiGLU


def test_gelu_is_the_tanh_form() -> None:
    mlp, x = GeluMLP(4, 6), torch.randn(3, 4)
    h = mlp.in_layer(x)
    h = h / 2 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (h + 0.044715 * h**3)))
    torch.testing.assert_close(mlp(x), mlp.out_layer(h))


def test_the_exact_gelu_is_close_to_it() -> None:
    x = torch.linspace(-6, 6, 10_001)[:, None]
    tanh, exact = MLPS["gelu"](1, 1), MLPS["gelu_exact"](1, 1)
    for mlp in (tanh, exact):
        for p in mlp.parameters():
            torch.nn.init.constant_(p, float(p.ndim == 2))  # weights 1, biases 0
    assert 1e-4 < (tanh(x) - exact(x)).abs().max() < 5e-4


def test_swiglu_gates_with_its_first_half() -> None:
    mlp, x = SwiGLU(4, 6), torch.randn(3, 4)
    h = mlp.in_layer(x)
    gate, value = h[:, :6], h[:, 6:]
    torch.testing.assert_close(mlp(x), mlp.out_layer(gate * torch.sigmoid(gate) * value))


@pytest.mark.parametrize("name", MLPS)
def test_every_mlp_keeps_the_shape_and_has_finite_gradients(name: str) -> None:
    x = torch.randn(2, 5, 8, requires_grad=True)
    out = MLPS[name](8, 16)(x)
    assert out.shape == x.shape
    out.square().sum().backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()
