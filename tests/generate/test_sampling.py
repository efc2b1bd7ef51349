"""An image depends on its index alone."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from flowlab.backbones import build
from flowlab.generate.sampling import SamplingConfig, random_labels, sample_latents

INDICES = torch.arange(10)
LABELS = random_labels(5, INDICES, 0)


@pytest.fixture(scope="module")
def model() -> torch.nn.Module:
    torch.manual_seed(0)
    net = build("tiny", channels=3, grid=2, num_classes=5)
    for parameter in net.parameters():
        if parameter.requires_grad:
            parameter.data += 0.05 * torch.randn_like(parameter)
    return net.eval().requires_grad_(False)


def draw(model, **changes):
    config = replace(SamplingConfig(num_steps=4, batch_size=10), **changes)
    return sample_latents(model, (3, 2, 2), LABELS, INDICES, 0, config)


def test_images_do_not_depend_on_the_batch(model):
    whole = draw(model)
    torch.testing.assert_close(whole, draw(model, batch_size=3), rtol=1e-5, atol=1e-5)
    alone = sample_latents(model, (3, 2, 2), LABELS[7:8], INDICES[7:8], 0, SamplingConfig(num_steps=4))
    torch.testing.assert_close(whole[7:8], alone, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("change", [{"sampler": "heun"}, {"shift": 3.0}, {"guidance": 2.0}, {"num_steps": 9}])
def test_every_setting_changes_the_result(model, change):
    other = draw(model, **change)
    assert other.isfinite().all() and not torch.allclose(draw(model), other, atol=1e-4)


def test_guidance_of_one_and_an_empty_interval_are_off(model):
    assert torch.equal(draw(model), draw(model, guidance=1.0))
    outside = draw(model, guidance=3.0, guidance_interval=(0.0, 0.1))
    torch.testing.assert_close(draw(model), outside)


def test_bfloat16_stays_close(model):
    torch.testing.assert_close(draw(model, precision="bfloat16"), draw(model), rtol=0.1, atol=0.1)


def test_labels_are_uniform_and_fixed_by_the_seed():
    labels = random_labels(10, torch.arange(5000), 3)
    counts = torch.bincount(labels, minlength=10)
    assert counts.min() > 400 and torch.equal(labels[:7], random_labels(10, torch.arange(7), 3))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sampler": "rk4"}, "choose from: euler, heun"),
        ({"precision": "fp8"}, "choose from: float32, bfloat16"),
        ({"shift": 0.0}, "shift"),
    ],
)
def test_bad_settings_are_named(model, change, message):
    with pytest.raises(ValueError, match=message):
        draw(model, **change)
