"""RoPE: a rotation, of interleaved pairs, that makes products depend on differences of position."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flowlab.layers.rope import apply_rope, rope_planes, rope_table, turn

AXES = (4, 8, 12)


def turned(x: torch.Tensor, position: tuple[int, ...], theta: float = 2000.0) -> torch.Tensor:
    """One vector (D,) at one position."""
    return apply_rope(x.view(1, 1, 1, -1), rope_table(torch.tensor([position]), AXES, theta)).flatten()


@settings(deadline=None, max_examples=30)
@given(
    a=st.tuples(*[st.integers(0, 200)] * 3),
    b=st.tuples(*[st.integers(0, 200)] * 3),
    by=st.tuples(*[st.integers(0, 200)] * 3),
)
def test_products_depend_on_the_difference_of_positions(a, b, by) -> None:
    q, k = torch.randn(2, 24, generator=torch.Generator().manual_seed(0))
    here = turned(q, a) @ turned(k, b)
    there = turned(q, tuple(map(sum, zip(a, by, strict=True)))) @ turned(
        k, tuple(map(sum, zip(b, by, strict=True)))
    )
    torch.testing.assert_close(here, there, rtol=1e-4, atol=1e-3)


def test_is_a_complex_product_of_neighbouring_channels() -> None:
    x = torch.randn(2, 3, 5, 24, dtype=torch.float64)
    ids = torch.randint(0, 50, (5, 3))
    angles = [
        ids[:, i, None] * 2000.0 ** (-torch.arange(0, w, 2, dtype=torch.float64) / w)
        for i, w in enumerate(AXES)
    ]
    turn = torch.polar(torch.ones(5, 12, dtype=torch.float64), torch.cat(angles, dim=1))
    expected = torch.view_as_real(torch.view_as_complex(x.view(2, 3, 5, 12, 2)) * turn).flatten(-2)
    torch.testing.assert_close(apply_rope(x, rope_table(ids, AXES, 2000.0)), expected, rtol=1e-5, atol=1e-5)


def test_keeps_lengths_and_leaves_the_origin_alone() -> None:
    x = torch.randn(2, 3, 4, 24)
    ids = torch.tensor([[0, 0, 0], [1, 2, 3], [50, 0, 0], [9, 9, 9]])
    out = apply_rope(x, rope_table(ids, AXES, 1e4))
    assert torch.equal(out[:, :, 0], x[:, :, 0])
    torch.testing.assert_close(out.norm(dim=-1), x.norm(dim=-1))


def test_the_slowest_rate_of_flux2() -> None:
    """32 channels, theta 2000: angles fall from 1 to 8.04e-4 per position."""
    cos, sin = rope_table(torch.tensor([[1]]), (32,), 2000.0)
    angle = torch.atan2(sin, cos).flatten()
    assert float(angle[0]) == pytest.approx(1)
    assert float(angle[-1]) == pytest.approx(8.04e-4, rel=1e-3)


def test_each_example_may_have_its_own_positions() -> None:
    x = torch.randn(2, 3, 4, 24)
    ids = torch.randint(0, 9, (2, 4, 3))
    together = apply_rope(x, rope_table(ids, AXES, 1e4))
    for i in range(2):
        torch.testing.assert_close(together[i], apply_rope(x[i : i + 1], rope_table(ids[i], AXES, 1e4))[0])


def test_half_precision_is_turned_in_float32() -> None:
    x = torch.randn(1, 1, 4, 24).bfloat16()
    table = rope_table(torch.randint(0, 99, (4, 3)), AXES, 1e4)
    assert torch.equal(apply_rope(x, table), apply_rope(x.float(), table).bfloat16())


@pytest.mark.parametrize("shared", [True, False])
def test_turn_equals_apply_rope_in_its_own_layout(shared: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = torch.randint(0, 50, (5, 3) if shared else (2, 5, 3))
    qk = torch.randn(2, 5, 2, 4, 24)  # (B, N, 2, H, D)
    table = rope_table(ids, AXES, 2000.0)
    expected = torch.stack([apply_rope(x.transpose(1, 2), table).transpose(1, 2) for x in qk.unbind(2)], 2)
    planes = rope_planes(ids, AXES, 2000.0)
    torch.testing.assert_close(turn(qk, planes), expected)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    torch.testing.assert_close(turn(qk, planes), expected)
