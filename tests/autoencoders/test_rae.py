"""Representation autoencoders: the embedded one as it shipped, and the published architecture."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from flowlab.autoencoders import load, save
from flowlab.autoencoders.rae import (
    STATISTICS,
    PublishedRAESpec,
    RAESpec,
    RepresentationAutoencoder,
    StoredWhitening,
)
from flowlab.autoencoders.sizes import build
from flowlab.autoencoders.vit_decoder import ViTDecoderSpec
from flowlab.features.vision import VisionSpec

ENCODER = VisionSpec(width=64, depth=1, mlp=128, head_width=32, input_size=42, table_size=42)
SMALL = PublishedRAESpec(
    encoder=ENCODER,
    decoder=ViTDecoderSpec(latent_channels=64, width=32, depth=1, heads=2, mlp=48, grid=3),
)


def _published(**changes) -> RepresentationAutoencoder:
    pytest.importorskip("transformers")
    torch.manual_seed(0)
    return RepresentationAutoencoder(replace(SMALL, **changes)).eval()


# ---- embedded ----------------------------------------------------------------------------------------------


@torch.no_grad()
def test_the_shipped_autoencoder_is_unchanged():
    """Caches and result rows are named by this identity, and latents of old caches must decode as before."""
    model = load("rae")
    assert model.identity == "5c9b82acfd43"
    pixels = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    latent = model.latents(pixels)
    assert latent.shape == (2, 64, 4, 4)
    assert latent.double().sum().item() == pytest.approx(-39.6099, abs=1e-2)
    assert model.decode(latent).double().sum().item() == pytest.approx(1236.834, abs=1e-2)


def test_the_embedded_encoder_sees_eight_bits_and_stays_frozen():
    torch.manual_seed(0)
    model = RepresentationAutoencoder(RAESpec())
    pixels = torch.rand(1, 3, 32, 32) * 2 - 1
    close = pixels + 1e-6  # the same picture once rounded to 8 bits
    torch.testing.assert_close(model.encode(pixels).mean, model.encode(close).mean, rtol=0, atol=0)
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert trained and all(name.startswith("decoder.") for name in trained)


# ---- published ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("statistics", STATISTICS)
@torch.no_grad()
def test_decode_undoes_to_latent(statistics: str):
    model = _published(statistics=statistics, scale=1.5)
    if statistics != "none":
        model.fit_normalisation(torch.randn(8, 64, 3, 3) * 3 + 1)
    moments = model.encode(torch.rand(2, 3, 48, 48) * 2 - 1)
    assert moments.logvar is None and moments.mean.shape == (2, 64, 3, 3)
    torch.testing.assert_close(
        model.decode(model.to_latent(moments)), model.decode_raw(moments.mean), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize(("statistics", "axes"), [("position", (0,)), ("channel", (0, 2, 3))])
@torch.no_grad()
def test_fitted_statistics_whiten_what_they_were_fitted_on(statistics: str, axes: tuple[int, ...]):
    """Positions differ in mean here: per-channel statistics leave that pattern, per-position ones do not."""
    model = _published(statistics=statistics)
    means = torch.randn(512, 64, 3, 3) * 3 + torch.arange(9.0).view(3, 3)
    model.fit_normalisation(means)
    latent = model.normalise(means)
    torch.testing.assert_close(latent.mean(axes), torch.zeros_like(latent.mean(axes)), rtol=0, atol=1e-5)
    torch.testing.assert_close(latent.std(axes), torch.ones_like(latent.std(axes)), rtol=0, atol=1e-4)
    pattern = latent.mean((0, 1)).std()
    assert pattern < 1e-5 if statistics == "position" else pattern > 0.5


def test_eps_enters_once_more_than_in_the_stored_std():
    """diffusers' files hold sqrt(var + 1e-5), and its class adds 1e-5 to that; RAE's own code does not."""
    pytest.importorskip("transformers")
    z = torch.tensor([1.0]).view(1, 1, 1, 1).expand(1, 64, 3, 3)
    for eps, expected in ((1e-5, 1 / 2e-5), (0.0, 1 / 1e-5)):
        normalise = StoredWhitening(replace(SMALL, eps=eps))
        normalise.std.fill_(1e-5)
        torch.testing.assert_close(normalise(z), z * expected)


def test_decoder_gradients_are_finite_and_the_encoder_has_none():
    model = _published()
    model.decode(model.latents(torch.rand(1, 3, 48, 48) * 2 - 1)).pow(2).mean().backward()
    trained = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert trained == {f"decoder.{name}" for name, _ in model.decoder.named_parameters()}
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


@torch.no_grad()
def test_a_saved_file_loads_to_the_bit(tmp_path: Path):
    model = _published(noise_tau=0.8)
    model.fit_normalisation(torch.randn(8, 64, 3, 3))
    save(model, tmp_path / "rae.safetensors")
    again = load(tmp_path / "rae.safetensors")
    assert again.identity == model.identity and again.spec == model.spec
    assert isinstance(again, RepresentationAutoencoder) and again.options == model.options
    pixels = torch.rand(1, 3, 48, 48) * 2 - 1
    torch.testing.assert_close(again.latents(pixels), model.latents(pixels), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("rae_dinov2_base", 501_638_656),
        ("rae_siglip2_base", 500_898_304),
        ("rae_mae_base", 500_853_760),
    ],
)
def test_published_sizes_build_on_meta(name: str, parameters: int):
    pytest.importorskip("transformers")
    with torch.device("meta"):
        model = build(name)
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters
    assert (model.spec.name, model.spec.stride, model.spec.channels) == (name, 16, 768)
    assert model.spec.resolution == 256 and model.spec.bits_per_pixel == 48


@pytest.mark.parametrize(("input_size", "pixels"), [(224, 256), (448, 512)])
def test_published_resolutions(input_size: int, pixels: int):
    """DINOv2 sees 14 pixels per token where the decoder draws 16; 512 px is a grid of 32."""
    pytest.importorskip("transformers")
    grid = pixels // 16
    spec = PublishedRAESpec(
        encoder=VisionSpec(input_size=input_size), decoder=ViTDecoderSpec(grid=grid, depth=1)
    )
    with torch.device("meta"):
        model = RepresentationAutoencoder(spec)
    assert (model.spec.resolution, model.spec.grid, model.spec.channels) == (pixels, grid, 768)
    assert model.spec.stride == 16 and model.spec.fixed_grid and model.spec.family == "rae"
    images = torch.empty(2, 3, pixels, pixels, device="meta")
    latent = model.latents(images)
    assert latent.shape == (2, 768, grid, grid)
    assert model.decode(latent).shape == images.shape


def test_faults_are_named():
    with pytest.raises(ValueError, match="64 channels on a grid of 3, the decoder takes 64 on 4"):
        _published(decoder=replace(SMALL.decoder, grid=4))
    with pytest.raises(ValueError, match="unknown kind of latent statistics 'row'; choose from: position"):
        _published(statistics="row")
    for method in (_published().latents, _published().encode):
        with pytest.raises(ValueError, match="64 x 64 pixels; rae takes 48 x 48 only"):
            method(torch.zeros(1, 3, 64, 64))
