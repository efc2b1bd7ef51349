"""Patchify order and the three normalisations."""

from __future__ import annotations

import pytest
import torch

from flowlab.autoencoders.normalise import NORMALISATIONS, patchify, unpatchify


def test_patchify_order_is_channel_row_column():
    """The check vector of FLUX.2: an arange gives [0, 1, 4, 5, 16, 17, 20, 21] at patch (0, 0)."""
    z = torch.arange(32.0).view(1, 2, 4, 4)
    assert patchify(z, 2)[0, :, 0, 0].tolist() == [0, 1, 4, 5, 16, 17, 20, 21]
    assert torch.equal(unpatchify(patchify(z, 2), 2), z)


@pytest.mark.parametrize("name", NORMALISATIONS)
def test_fit_gives_unit_scale_and_inverse_undoes_it(name):
    torch.manual_seed(0)
    layer = NORMALISATIONS[name](4, 3)
    z = torch.randn(500, 4, 3, 3) * 2.5 + 1.5
    layer.fit(z)
    out = layer(z)
    assert abs(float(out.mean())) < 1e-3 and abs(float(out.std()) - 1) < 1e-3
    torch.testing.assert_close(layer.inverse(out), z, rtol=1e-5, atol=1e-5)


def test_a_channel_of_small_values_is_brought_to_deviation_one_too():
    """Raw deviation 0.013, of the size of the root of eps: without care its normalised one would be 0.79."""
    torch.manual_seed(0)
    layer = NORMALISATIONS["batchnorm"](2, 1)
    z = torch.randn(4000, 2, 1, 1) * torch.tensor([0.013, 3.0])[:, None, None]
    layer.fit(z)
    out = layer(z)
    torch.testing.assert_close(out.std((0, 2, 3)), torch.ones(2), rtol=1e-3, atol=0)
    torch.testing.assert_close(layer.inverse(out), z, rtol=1e-4, atol=1e-6)


def test_the_granularity_is_the_published_one():
    """One number for the latent, one per channel, one per channel and position."""
    sizes = {
        name: sum(buffer.numel() for buffer in make(4, 3).buffers()) for name, make in NORMALISATIONS.items()
    }
    assert sizes == {"scale_shift": 2, "batchnorm": 8, "whitening": 72}
    layer = NORMALISATIONS["batchnorm"](1, 1)
    layer.running_var.fill_(0.0)  # pyright: ignore
    assert float(layer(torch.ones(1, 1, 1, 1))) == pytest.approx(100.0), "eps 1e-4 under the root"
