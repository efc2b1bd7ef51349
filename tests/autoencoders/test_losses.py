"""Loss terms against their definitions."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from flowlab.autoencoders.base import Moments, sample
from flowlab.autoencoders.losses import (
    SemanticLoss,
    adaptive_weight,
    kl_divergence,
    perceptual,
    reconstruction,
)
from flowlab.core.seeds import Streams


def test_kl_equals_torch_distributions():
    torch.manual_seed(0)
    moments = Moments(torch.randn(3, 2, 4, 4), torch.randn(3, 2, 4, 4))
    assert moments.logvar is not None
    theirs = torch.distributions.kl_divergence(
        torch.distributions.Normal(moments.mean, (0.5 * moments.logvar).exp()),
        torch.distributions.Normal(0.0, 1.0),
    )
    torch.testing.assert_close(kl_divergence(moments), theirs.flatten(1).sum(1))


@pytest.mark.parametrize(("power", "theirs"), [(1, F.l1_loss), (2, F.mse_loss)])
def test_reconstruction_is_the_mean_per_image(power, theirs):
    a, b = torch.randn(4, 3, 5, 5), torch.randn(4, 3, 5, 5)
    values = reconstruction(a, b, power)
    assert values.shape == (4,)
    torch.testing.assert_close(values.mean(), theirs(a, b))


def test_perceptual_ignores_length_and_sums_over_layers():
    a, b = torch.randn(2, 5, 8), torch.randn(2, 5, 8)
    once = perceptual([a], [b])
    torch.testing.assert_close(perceptual([a, 3 * a], [b, b]), 2 * once)
    torch.testing.assert_close(once, (2 - 2 * F.cosine_similarity(a, b, dim=-1)).mean(1))
    assert float(perceptual([a], [a]).abs().max()) < 1e-6


def test_semantic_loss_by_loops():
    torch.manual_seed(0)
    loss = SemanticLoss(3, 5, cosine_margin=0.3, matrix_margin=0.1).requires_grad_(False)
    tokens, teacher = torch.randn(2, 4, 3), torch.randn(2, 4, 5)
    z, f = F.normalize(loss.lift(tokens), dim=-1), F.normalize(teacher, dim=-1)
    for image in range(2):
        cosine = sum(max(0.0, 1 - 0.3 - float(z[image, i] @ f[image, i])) for i in range(4)) / 4
        pairs = [
            max(0.0, abs(float(z[image, i] @ z[image, j] - f[image, i] @ f[image, j])) - 0.1)
            for i in range(4)
            for j in range(4)
        ]
        assert float(loss(tokens, teacher)[image]) == pytest.approx(cosine + sum(pairs) / 16, rel=1e-4)


def test_perfect_alignment_costs_nothing_within_the_margins():
    loss = SemanticLoss(4, 4).requires_grad_(False)
    with torch.no_grad():
        loss.lift.weight.copy_(torch.eye(4))
    tokens = torch.randn(1, 6, 4)
    assert float(loss(tokens, 2 * tokens)) < 1e-6


def test_adaptive_weight_is_the_ratio_of_gradient_norms():
    parameter = torch.nn.Parameter(torch.tensor([3.0, 4.0]))
    weight = adaptive_weight(parameter.pow(2).sum(), 2 * parameter.sum(), parameter)
    assert float(weight) == pytest.approx(10 / (2 * 2**0.5 + 1e-4), rel=1e-5)
    assert float(adaptive_weight(1e9 * parameter.sum(), 0 * parameter.sum(), parameter)) == 1e4


def test_sampling_uses_mean_and_variance():
    mean = torch.randn(512, 1, 2, 2)
    moments = Moments(mean, torch.full_like(mean, -2.0))
    assert sample(moments, None) is mean
    drawn = sample(moments, Streams.for_samples(0, torch.arange(512), purpose="posterior")) - mean
    assert float(drawn.std()) == pytest.approx(torch.tensor(-1.0).exp().item(), rel=0.05)


def test_the_adaptive_weight_takes_an_epsilon():
    parameter = torch.nn.Parameter(torch.tensor([3.0, 4.0]))
    weight = adaptive_weight(parameter.pow(2).sum(), 0 * parameter.sum(), parameter, epsilon=0.01)
    assert float(weight) == pytest.approx(10 / 0.01)
