"""Discriminators: shapes of the published networks, losses by hand, augmentation by identities."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from flowlab.autoencoders.discriminators import (
    FeatureDiscriminator,
    PatchDiscriminator,
    augment,
    discriminator_loss,
    generator_loss,
    rounded,
)
from flowlab.core.seeds import Streams


def streams(num: int, purpose: str = "augment") -> Streams:
    return Streams.for_samples(0, torch.arange(num), purpose=purpose)


def test_hinge_losses_by_hand():
    real, fake = torch.tensor([2.0, 0.5]), torch.tensor([-3.0, 0.5])
    assert float(discriminator_loss(real, fake)) == pytest.approx(0.5 * (0.25 + 0.75))
    assert float(generator_loss(fake)) == pytest.approx(1.25)


def test_the_patch_discriminator_is_the_published_one():
    model = PatchDiscriminator()
    widths = [64, 128, 256, 512]
    trunk = sum(16 * a * b + 2 * b for a, b in pairwise(widths))  # BatchNorm, no bias
    by_hand = (16 * 3 * 64 + 64) + trunk + (16 * 512 + 1)  # 2,765,633: ndf 64, three layers
    assert sum(parameter.numel() for parameter in model.parameters()) == by_hand
    assert model(torch.zeros(2, 3, 256, 256)).shape == (2, 1, 30, 30)
    first = model.get_parameter("layers.0.weight").detach()
    assert float(first.std()) == pytest.approx(0.02, rel=0.1)


@pytest.mark.parametrize("side", [8, 16, 24, 32])
def test_small_images_still_get_logits_and_gradients(side):
    x = torch.randn(4, 3, side, side, requires_grad=True)
    PatchDiscriminator(channels=8)(x).sum().backward()
    assert x.grad is not None and x.grad.isfinite().all() and float(x.grad.abs().sum()) > 0


def test_one_logit_sees_seventy_pixels():
    model = PatchDiscriminator(channels=4).eval()  # BatchNorm by running statistics mixes no positions
    x = torch.randn(1, 3, 256, 256, requires_grad=True)
    model(x)[0, 0, 15, 15].backward()
    assert x.grad is not None
    rows = x.grad.abs().sum((0, 1, 3)).nonzero().flatten()
    assert int(rows[-1] - rows[0]) + 1 == 70


def test_feature_heads_give_one_logit_for_each_token_and_head():
    model = FeatureDiscriminator([16, 16, 16], kernel=9)
    layers = [torch.randn(6, 20, 16, requires_grad=True) for _ in range(3)]
    logits = model(layers)
    assert logits.shape == (6, 60)
    logits.sum().backward()
    assert all(layer.grad is not None and layer.grad.isfinite().all() for layer in layers)


def test_feature_heads_are_spectrally_normalised_and_survive_saving():
    model = FeatureDiscriminator([8], kernel=3)
    layers = [torch.randn(4, 9, 8)]
    for _ in range(30):
        model(layers)  # the power iteration converges as it is used
    weight = model.heads[0][0].conv.weight  # pyright: ignore
    assert float(torch.linalg.matrix_norm(weight.detach().flatten(1), 2)) == pytest.approx(1.0, abs=0.02)
    other = FeatureDiscriminator([8], kernel=3)
    other.load_state_dict(model.state_dict())
    torch.testing.assert_close(other.eval()(layers), model.eval()(layers), rtol=0, atol=0)


def test_feature_heads_refuse_another_number_of_layers():
    with pytest.raises(ValueError):
        FeatureDiscriminator([8, 8])([torch.randn(2, 4, 8)])


# ---- images ------------------------------------------------------------------------------------------------


def test_rounded_images_are_multiples_of_one_255th_without_gradient():
    x = torch.rand(2, 3, 4, 4, requires_grad=True) * 2 - 1
    out = rounded(x)
    levels = (out + 1) * 127.5
    torch.testing.assert_close(levels, levels.round(), atol=1e-4, rtol=0)
    assert not out.requires_grad and float((out - x).abs().max()) <= 1 / 255 + 1e-6


def test_augmentation_keeps_shape_gradient_and_the_rest_of_the_batch():
    x = torch.rand(6, 3, 16, 16, requires_grad=True)
    out = augment(x, streams(6))
    assert out.shape == x.shape
    out.sum().backward()
    assert x.grad is not None and x.grad.isfinite().all()
    with torch.no_grad():
        halves = [augment(x[rows], streams(6)[rows]) for rows in (slice(0, 2), slice(2, 6))]
    torch.testing.assert_close(torch.cat(halves), out.detach(), rtol=0, atol=0)
    assert not torch.equal(augment(x, streams(6)), augment(x, streams(6, "other")))


def test_shifts_reach_an_eighth_and_bring_zeros():
    """A white image: after the colour steps each image is constant, so what is zero was shifted in."""
    x = torch.full((400, 3, 16, 16), 0.9)
    out = augment(x, streams(400))
    rows = (out == 0).all(dim=3).all(dim=1).sum(dim=1)  # (B,) rows that came from outside
    assert set(rows.tolist()) == {0, 1, 2}
