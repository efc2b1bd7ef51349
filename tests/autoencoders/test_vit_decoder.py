"""RAE's decoder: published sizes, and the same numbers as diffusers' decoder for the same weights."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from flowlab.autoencoders.rae_names import our_to_their_names, split_attention
from flowlab.autoencoders.vit_decoder import DECODERS, ViTDecoder, ViTDecoderSpec, decoder_spec

COUNTS = {"B": 86_237_952, "L": 303_887_104, "XL": 415_056_640}
SMALL = ViTDecoderSpec(latent_channels=64, width=32, depth=2, heads=2, mlp=48, grid=3, position_span=16)


def _theirs(spec: ViTDecoderSpec) -> nn.Module:
    pytest.importorskip("diffusers")
    from diffusers.models.autoencoders.autoencoder_rae import RAEDecoder

    return RAEDecoder(
        hidden_size=spec.latent_channels,
        decoder_hidden_size=spec.width,
        decoder_num_hidden_layers=spec.depth,
        decoder_num_attention_heads=spec.heads,
        decoder_intermediate_size=spec.mlp,
        num_patches=spec.grid**2,
        patch_size=spec.patch,
        image_size=spec.grid * spec.patch,
    )


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize("size", DECODERS)
def test_published_sizes_have_the_parameters_of_diffusers(size: str):
    with torch.device("meta"):
        ours, theirs = ViTDecoder(DECODERS[size]), _theirs(DECODERS[size])
    assert _count(ours) == _count(theirs) == COUNTS[size]


@pytest.mark.parametrize("grid", [3, 16, 32])
@torch.no_grad()
def test_pixels_equal_diffusers_for_the_same_weights(grid: int):
    """Grid 32 is the 512 px model, where diffusers spreads the positions over 0 to 16."""
    torch.manual_seed(0)
    spec = replace(SMALL, grid=grid)
    ours, theirs = ViTDecoder(spec), _theirs(spec)
    for parameter in ours.parameters():
        parameter.add_(torch.randn_like(parameter) * 0.1)
    names = our_to_their_names([], spec.depth)
    renamed = {names[f"decoder.{key}"]: tensor for key, tensor in ours.state_dict().items()}
    stored = split_attention(renamed, spec.depth)
    theirs.load_state_dict({key.removeprefix("decoder."): tensor for key, tensor in stored.items()})
    z = torch.randn(2, 64, grid, grid)
    expected = theirs.unpatchify(theirs(z.flatten(2).transpose(1, 2)).logits)  # pyright: ignore
    torch.testing.assert_close(ours(z), expected, rtol=0, atol=1e-5)
    assert expected.std() > 0.1


def test_the_span_changes_positions_off_a_grid_of_16_only():
    for grid, same in ((16, True), (32, False)):
        plain, spread = (ViTDecoder(replace(SMALL, grid=grid, position_span=span)) for span in (None, 16))
        assert torch.equal(plain.positions, spread.positions) == same
        assert not plain.positions[0, 0].any(), "the class token has none"


def test_gradients_are_finite_and_reach_every_weight():
    torch.manual_seed(0)
    decoder = ViTDecoder(SMALL)
    decoder(torch.randn(2, 64, 3, 3)).pow(2).mean().backward()
    gradients = [parameter.grad for parameter in decoder.parameters()]
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients)
    assert decoder.last_weight.shape == (3 * 16**2, 32)


def test_faults_are_named():
    with pytest.raises(ValueError, match="unknown decoder size 'XXL'; choose from: B, L, XL"):
        decoder_spec("XXL")
    with pytest.raises(ValueError, match=r"shape \(1, 64, 4, 4\); this decoder takes \(batch, 64, 3, 3\)"):
        ViTDecoder(SMALL)(torch.zeros(1, 64, 4, 4))
