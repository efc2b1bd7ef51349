"""Packed linear layers compute what they replace."""

import pytest
import torch
from torch import nn

from flowlab.layers.packed import PackedLinear, pack_linears


def small() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(24, 40), nn.Linear(40, 8, bias=False))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.no_grad()
def test_packed_equals_plain_for_any_number_of_rows(dtype: torch.dtype) -> None:
    model = small().to(dtype)
    inputs = [torch.randn(2, rows, 24, dtype=dtype) for rows in (1, 5, 64)]
    expected = [model(x) for x in inputs]
    pack_linears(model)
    packed = dtype == torch.float32 or torch.ops.mkldnn._is_mkldnn_bf16_supported()
    assert all(isinstance(layer, PackedLinear) == packed for layer in model)
    for x, wanted in zip(inputs, expected, strict=True):
        torch.testing.assert_close(model(x), wanted)


def test_other_kinds_stay() -> None:
    model = nn.ModuleList([nn.Linear(4, 4).double(), nn.LayerNorm(4)])
    pack_linears(model)
    assert type(model[0]) is nn.Linear


def test_a_packed_model_is_not_saved_by_halves() -> None:
    model = small()
    pack_linears(model)
    with pytest.raises(ValueError, match="cannot be saved or changed; load it anew"):
        model.state_dict()


def test_without_onednn_nothing_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    model = small()
    pack_linears(model)
    assert all(type(layer) is nn.Linear for layer in model)
