"""The convolutional trunk: published sizes, the linear path, the contract."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from flowlab.autoencoders.kl import KLAutoencoder, KLSpec
from flowlab.autoencoders.normalise import patchify
from flowlab.autoencoders.sizes import build
from flowlab.core.seeds import Streams

SMALL = {"channels": 8, "multipliers": (1, 2), "groups": 4, "num_res_blocks": 1, "resolution": 16}


@pytest.mark.parametrize("normalisation", ["scale_shift", "batchnorm", "whitening"])
@pytest.mark.parametrize(
    "option",
    [
        {},
        {"linear_path": True},
        {"mid_attention": False},
        {"quant_conv": False},
        {"attention_levels": (1,)},
        {"decoder_channels": 12},
    ],
)
def test_every_option_runs_with_finite_gradients(normalisation, option):
    torch.manual_seed(0)
    model = KLAutoencoder(KLSpec(latent_channels=2, normalisation=normalisation, **SMALL, **option))
    pixels = torch.rand(2, 3, 16, 16) * 2 - 1
    moments = model.encode(pixels)
    assert moments.mean.shape == moments.logvar.shape == (2, 2, 8, 8)  # pyright: ignore
    latent = model.to_latent(moments, Streams.for_samples(0, torch.arange(2), purpose="posterior"))
    output = model.decode(latent)
    assert latent.shape == (2, 8, 4, 4) and output.shape == pixels.shape
    output.pow(2).mean().backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    assert gradients and all(gradient.isfinite().all() for gradient in gradients)


def test_decode_undoes_to_latent():
    """Normalisation and patchify cancel, so decoding a latent equals decoding the raw mean."""
    torch.manual_seed(0)
    for normalisation in ("scale_shift", "batchnorm", "whitening"):
        model = KLAutoencoder(KLSpec(latent_channels=2, normalisation=normalisation, **SMALL)).eval()
        model.fit_normalisation(torch.randn(8, 2, 8, 8) * 3 + 1)
        moments = model.encode(torch.rand(2, 3, 16, 16))
        torch.testing.assert_close(
            model.decode(model.to_latent(moments)), model.decode_raw(moments.mean), rtol=1e-4, atol=1e-4
        )


def test_the_linear_path_starts_as_principal_components():
    """With the convolutions silent, reconstruction is the orthogonal projection on the leading components."""
    torch.manual_seed(0)
    model = KLAutoencoder(KLSpec(latent_channels=2, linear_path=True, quant_conv=False, **SMALL))
    pixels = F.interpolate(torch.rand(64, 3, 4, 4) * 2 - 1, 16, mode="bicubic")
    assert model.linear is not None
    model.linear.fit(pixels)
    output = model.linear.decode(model.linear.encode(pixels))
    rows = F.unfold(pixels, 4, stride=4).transpose(1, 2).flatten(0, 1)
    centred = rows - rows.mean(0)
    basis = torch.linalg.svd(centred, full_matrices=False).Vh[:8]
    expected = centred @ basis.T @ basis
    mean_error = (F.unfold(output - pixels, 4, stride=4).transpose(1, 2).flatten(0, 1)).pow(2).sum(1).mean()
    best = (expected - centred).pow(2).sum(1).mean()
    assert best * 0.99 < mean_error < best * 1.25, "colour means stand in for the patch mean, hence the slack"
    latent = model.linear.encode(pixels)
    tokens = latent.unfold(2, 2, 2).unfold(3, 2, 2).permute(0, 2, 3, 1, 4, 5).reshape(-1, 8)
    torch.testing.assert_close(tokens.std(0), torch.ones(8), rtol=0.02, atol=0.02)


def test_the_scale_and_shift_of_the_spec_are_the_normalisation():
    torch.manual_seed(0)
    model = KLAutoencoder(KLSpec(latent_channels=2, scale=0.3611, shift=0.1159, **SMALL)).eval()
    z = model.encode(torch.rand(1, 3, 16, 16))
    torch.testing.assert_close(model.to_latent(z), patchify((z.mean - 0.1159) * 0.3611, 2))


def test_attention_in_a_level_mixes_all_its_positions():
    """With the middle silent, only a level's attention carries one corner to the other."""
    for levels, reaches in (((), False), ((1,), True)):
        torch.manual_seed(0)
        spec = KLSpec(latent_channels=2, attention_levels=levels, mid_attention=False, **SMALL)
        model = KLAutoencoder(replace(spec, resolution=64)).double().eval()
        norms = [m for m in model.encoder.modules() if isinstance(m, torch.nn.GroupNorm)]
        for norm in norms:  # statistics over positions reach everywhere as well
            norm.forward = torch.nn.Identity().forward
        pixels = torch.zeros(1, 3, 64, 64, dtype=torch.float64, requires_grad=True)
        model.encode(pixels).mean[0, 0, 0, 0].backward()
        assert pixels.grad is not None
        assert bool(pixels.grad[..., -8:, -8:].abs().sum() > 0) == reaches


def test_bfloat16_weights_take_float32_pixels_and_latents():
    torch.manual_seed(0)
    for normalisation in ("scale_shift", "batchnorm"):
        model = KLAutoencoder(KLSpec(latent_channels=2, normalisation=normalisation, **SMALL)).eval()
        pixels = torch.rand(1, 3, 16, 16) * 2 - 1
        exact = model.decode(model.latents(pixels))
        model.encoder.bfloat16()
        model.decoder.bfloat16()
        rough = model.decode(model.latents(pixels)).float()
        torch.testing.assert_close(rough, exact, rtol=0.05, atol=0.05)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"attention_levels": (2,)}, r"attention_levels is \(2,\); the levels are 0 to 1"),
        ({"scale": 2.0, "normalisation": "batchnorm"}, "scale=2.0, shift=0.0 belong to scale_shift"),
        ({"channels": 6}, "6 channels cannot form 4 groups; set groups"),
        ({"decoder_channels": 6}, "6 channels cannot form 4 groups"),
        ({"groups": 0}, "groups is 0; give more than nothing"),
        ({"multipliers": ()}, r"multipliers is \(\); give more than nothing"),
        ({"scale": 0.0}, "scale is 0.0; give more than nothing"),
        ({"patch": 0}, "kl: stride 0, resolution 16; give 1 or more"),
        ({"resolution": 18}, "resolution is 18; kl takes multiples of 4, nearest 16 x 16 or 20 x 20"),
    ],
)
def test_options_that_cannot_be_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        KLAutoencoder(KLSpec(**({"latent_channels": 2} | SMALL | options)))


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        (torch.zeros(1, 1, 16, 16), r"shape \(1, 1, 16, 16\); expected \(batch, 3"),
        (torch.zeros(3, 16, 16), r"shape \(3, 16, 16\)"),
        (torch.zeros(1, 3, 16, 16, dtype=torch.uint8), "expected float in"),
        (torch.zeros(1, 3, 18, 16), "18 x 16 pixels; kl takes multiples of 4"),
    ],
)
def test_wrong_pixels_are_named(pixels, message):
    model = KLAutoencoder(KLSpec(latent_channels=2, **SMALL))
    with pytest.raises(ValueError, match=message):
        model.latents(pixels)


def test_unknown_normalisation_lists_the_names():
    with pytest.raises(ValueError, match="choose from: scale_shift, batchnorm, whitening"):
        KLAutoencoder(KLSpec(latent_channels=2, normalisation="layer", **SMALL))


@pytest.mark.parametrize("side", [30, 36])
def test_encode_never_crops_in_silence(side):
    with pytest.raises(ValueError, match="multiples of 8"):
        build("flux2").encode(torch.zeros(1, 3, 32, side))
