"""Norms against their definitions."""

import pytest
import torch

from flowlab.layers.norms import NORMS, QKNorm, RMSNorm, rms_norm


def test_layer_norm_is_torchs_without_affine() -> None:
    x = torch.randn(2, 3, 8)
    reference = torch.nn.LayerNorm(8, eps=1e-6, elementwise_affine=False)
    assert torch.equal(NORMS["layer"](8)(x), reference(x))
    assert not list(NORMS["layer"](8).parameters())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rms_norm_computes_in_float32_and_casts_before_the_scale(dtype: torch.dtype) -> None:
    x = (torch.randn(5, 24) * 3).to(dtype)
    wide = x.float()
    reference = (wide * (wide.square().mean(-1, keepdim=True) + 1e-6).rsqrt()).to(dtype)
    torch.testing.assert_close(rms_norm(x), reference, rtol=1e-6, atol=1e-6)
    norm = RMSNorm(24).to(dtype)
    torch.nn.init.normal_(norm.scale)
    torch.testing.assert_close(norm(x), reference * norm.scale, rtol=1e-6, atol=1e-6)


def test_qk_norm_bounds_logits() -> None:
    q, k = torch.randn(2, 1, 1, 5, 16) * 1e4
    q, k = QKNorm(16)(q, k)
    assert ((q @ k.transpose(-1, -2)).abs() <= 16 + 1e-3).all()


@pytest.mark.parametrize("name", NORMS)
def test_gradients_are_finite_even_at_zero(name: str) -> None:
    x = torch.zeros(2, 8, requires_grad=True)
    NORMS[name](8)(x).sum().backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()
