"""Attention: both paths against the definition."""

import pytest
import torch
from torch import Tensor

from flowlab.layers.attention import SMALL, SelfAttention, attend
from flowlab.layers.rope import apply_rope, rope_table


def plain(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """One head of one example at a time."""
    heads = [
        [((q[b, h] @ k[b, h].T) / q.shape[-1] ** 0.5).softmax(-1) @ v[b, h] for h in range(q.shape[1])]
        for b in range(len(q))
    ]
    return torch.stack([torch.cat(row, dim=-1) for row in heads])


@pytest.mark.parametrize("num_keys", [7, SMALL, SMALL + 1])
def test_equals_the_definition_on_both_sides_of_the_switch(num_keys: int) -> None:
    q = torch.randn(2, 3, 5, 8, requires_grad=True)
    k, v = torch.randn(2, 2, 3, num_keys, 8)
    out = attend(q, k, v)
    assert out.shape == (2, 5, 24)
    torch.testing.assert_close(out, plain(q, k, v))
    (ours,) = torch.autograd.grad(out.square().sum(), q)
    (reference,) = torch.autograd.grad(plain(q, k, v).square().sum(), q)
    torch.testing.assert_close(ours, reference, rtol=1e-4, atol=1e-5)


def test_the_switch_changes_nothing() -> None:
    q, k, v = torch.randn(3, 2, 3, 16, 8)
    torch.testing.assert_close(attend(q, k, v, small=0), attend(q, k, v))


@pytest.mark.parametrize("small", [0, 64])
def test_masked_keys_are_as_if_absent(small: int) -> None:
    q, k, v = torch.randn(3, 2, 3, 16, 8)
    mask = torch.ones(2, 1, 1, 16, dtype=torch.bool)
    mask[1, ..., 5:] = False
    out = attend(q, k, v, mask=mask, small=small)
    torch.testing.assert_close(out[:1], plain(q[:1], k[:1], v[:1]))
    torch.testing.assert_close(out[1:], plain(q[1:], k[1:, :, :5], v[1:, :, :5]))


def test_bfloat16_stays_near_float32() -> None:
    q, k, v = torch.randn(3, 4, 2, 16, 8)
    half = attend(q.bfloat16(), k.bfloat16(), v.bfloat16())
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), attend(q, k, v), rtol=0, atol=0.05)


def test_rope_turns_queries_and_keys_but_not_values() -> None:
    q, k, v = torch.randn(3, 2, 3, 6, 8)
    table = rope_table(torch.arange(6)[:, None], (8,), 1e4)
    torch.testing.assert_close(attend(q, k, v, table), plain(apply_rope(q, table), apply_rope(k, table), v))


@pytest.mark.parametrize("qk_norm", [False, True])
def test_self_attention_is_its_parts(qk_norm: bool) -> None:
    layer, x = SelfAttention(24, 3, qk_norm=qk_norm), torch.randn(2, 5, 24)
    q, k, v = (part.view(2, 5, 3, 8).transpose(1, 2) for part in layer.qkv(x).chunk(3, dim=-1))
    if layer.norm is not None:
        q, k = layer.norm(q, k)
    torch.testing.assert_close(layer(x), layer.proj(plain(q, k, v)))


def test_self_attention_does_not_know_the_order_of_tokens() -> None:
    layer, x = SelfAttention(24, 3), torch.randn(2, 5, 24)
    order = torch.randperm(5)
    torch.testing.assert_close(layer(x)[:, order], layer(x[:, order]))


def test_heads_must_divide_the_width() -> None:
    with pytest.raises(AssertionError, match="multiple"):
        SelfAttention(10, 3)
