"""Sinusoids and the time MLP."""

import math

import numpy as np
import pytest
import torch

from flowlab.layers.embeddings import TimeEmbedding, VectorEmbedding, sincos_2d, sinusoid


def test_sinusoid_has_cosines_first_and_divides_by_the_half() -> None:
    t = torch.tensor([0.0, 0.3, 767.2])
    waves = sinusoid(t, 256)
    assert waves.shape == (3, 256)
    for k in (0, 1, 64, 127):
        rate = 10000 ** (-k / 128)
        for row, time in enumerate(t.tolist()):
            assert float(waves[row, k]) == pytest.approx(math.cos(time * rate), abs=1e-4)
            assert float(waves[row, 128 + k]) == pytest.approx(math.sin(time * rate), abs=1e-4)


def test_time_scale_multiplies_the_time_once() -> None:
    torch.manual_seed(0)
    slow = TimeEmbedding(16, 1.0)
    fast = TimeEmbedding(16, 1000.0)
    fast.load_state_dict(slow.state_dict())
    torch.testing.assert_close(fast(torch.tensor([0.25])), slow(torch.tensor([250.0])))


def test_time_embedding_takes_any_shape_and_half_precision_keeps_the_time_exact() -> None:
    embed = TimeEmbedding(16, 1000.0)
    assert embed(torch.rand(3, 5)).shape == (3, 5, 16)
    t = torch.tensor([0.7672])  # 1000 t in bfloat16 would be 768
    half = embed.bfloat16()(t)
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), embed.float()(t), rtol=0.05, atol=0.02)


def test_position_table_is_that_of_mae() -> None:
    """One entry at a time: sines, cosines of the column, then of the row; rates 10000^(-k / quarter)."""
    rows, columns, width = 3, 5, 24
    table = sincos_2d(width, rows, columns).numpy()
    for r in range(rows):
        for c in range(columns):
            expected = []
            for place in (c, r):
                angle = [place / 10000 ** (k / 6) for k in range(6)]
                expected += [math.sin(a) for a in angle] + [math.cos(a) for a in angle]
            np.testing.assert_allclose(table[r * columns + c], expected, atol=1e-6)


def test_bad_widths_are_refused() -> None:
    with pytest.raises(ValueError, match="multiple of 4"):
        sincos_2d(10, 2, 2)
    with pytest.raises(AssertionError, match="even"):
        sinusoid(torch.zeros(1), 7)


def test_a_vector_passes_two_layers_with_silu_between() -> None:
    layer, x = VectorEmbedding(6, 10), torch.randn(3, 6)
    inner = layer.in_layer(x)
    torch.testing.assert_close(layer(x), layer.out_layer(inner * torch.sigmoid(inner)))
