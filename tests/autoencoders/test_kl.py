"""The convolutional trunk: published sizes, the linear path, the contract."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from flowlab.autoencoders.kl import KLAutoencoder, KLSpec
from flowlab.core.seeds import Streams

SMALL = {"channels": 8, "multipliers": (1, 2), "groups": 4, "num_res_blocks": 1, "resolution": 16}

PUBLISHED = {  # from the published checkpoints
    "SD": (KLSpec(latent_channels=4), 83_653_863),
    "FLUX.1": (KLSpec(latent_channels=16, quant_conv=False), 83_819_683),
    "FLUX.2": (KLSpec(latent_channels=32, normalisation="batchnorm"), 84_046_115),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_full_sizes_have_the_published_parameter_counts(name):
    spec, count = PUBLISHED[name]
    with torch.device("meta"):
        model = KLAutoencoder(spec)
    assert sum(parameter.numel() for parameter in model.parameters()) == count
    assert model.spec.stride == 16 and model.spec.channels == 4 * spec.latent_channels


@pytest.mark.parametrize("normalisation", ["scale_shift", "batchnorm", "whitening"])
@pytest.mark.parametrize(
    "option", [{}, {"linear_path": True}, {"mid_attention": False}, {"quant_conv": False}]
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
