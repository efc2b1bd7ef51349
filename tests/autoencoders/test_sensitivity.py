"""How far each latent channel moves the pixels."""

from __future__ import annotations

from typing import cast

import pytest
import torch
from torch import Tensor

from flowlab.autoencoders import load
from flowlab.autoencoders.base import Autoencoder
from flowlab.autoencoders.sensitivity import channel_sensitivity, channel_weights
from flowlab.core.pixels import to_float
from flowlab.data.embedded import digits


class Scaled(torch.nn.Module):
    """Channel c of the latent adds `scales[c]` times itself to every pixel: a Jacobian that is known."""

    def __init__(self, scales: Tensor):
        super().__init__()
        self.scales = scales

    def decode(self, latent: Tensor) -> Tensor:
        return torch.einsum("bchw,c->bhw", latent, self.scales)[:, None].expand(-1, 3, -1, -1)


def test_a_linear_decoder_gives_its_squared_scales():
    scales = torch.tensor([0.0, 0.5, 1.0, 3.0])
    found = channel_sensitivity(cast(Autoencoder, Scaled(scales)), torch.randn(2, 4, 5, 6))
    torch.testing.assert_close(found, scales.square(), atol=1e-5, rtol=1e-5)


def test_weights_have_mean_one_and_follow_the_power():
    sensitivity = torch.tensor([1.0, 4.0, 16.0])
    assert torch.equal(channel_weights(sensitivity, 0.0), torch.ones(3))
    torch.testing.assert_close(channel_weights(sensitivity, 0.5), torch.tensor([3.0, 6.0, 12.0]) / 7)
    torch.testing.assert_close(channel_weights(sensitivity, 1.0), sensitivity / 7)


@pytest.mark.parametrize(("name", "least", "most"), [("sd", 1, 3), ("flux2", 30, 300)])
def test_whitened_channels_are_worth_very_different_amounts(name, least, most):
    model = load(name)
    pixels = digits("heldout", num_images=16).read(torch.arange(16)).pixels
    assert pixels is not None
    with torch.no_grad():
        latent = model.latents(to_float(pixels))
    found = channel_sensitivity(model, latent)
    assert torch.equal(found, channel_sensitivity(model, latent))  # of a seed
    assert (found > 0).all() and least < float(found.max() / found.median()) < most
