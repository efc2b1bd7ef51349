"""Other classes of diffusers behind the contract: small random models of the real classes, from disk."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from flowlab.autoencoders import gate, load, save, save_diffusers
from flowlab.autoencoders.normalise import patchify
from flowlab.autoencoders.zoo import ZooAutoencoder
from flowlab.core.seeds import Streams
from flowlab.core.weights import read_weights, write_weights

BLOCKS: dict[str, Any] = {
    "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2,
}
VIDEO: dict[str, Any] = {"base_dim": 4, "dim_mult": [1, 1, 1, 1], "num_res_blocks": 1, "z_dim": 16}
FOUR: dict[str, Any] = {"block_out_channels": (4, 4, 4, 4), "layers_per_block": 1, "norm_num_groups": 2}

# class: settings, (stride, channels) of a raw latent, whether it has a frame axis and a posterior
CLASSES: dict[str, tuple[dict[str, Any], tuple[int, int], bool, bool]] = {
    "AutoencoderDC": (
        {
            "latent_channels": 4,
            "encoder_block_out_channels": (8, 8),
            "decoder_block_out_channels": (8, 8),
            "encoder_layers_per_block": (1, 1),
            "decoder_layers_per_block": (1, 1),
            "encoder_block_types": "ResBlock",
            "decoder_block_types": "ResBlock",
            "encoder_qkv_multiscales": ((), ()),
            "decoder_qkv_multiscales": ((), ()),
            "scaling_factor": 0.41407,
        },
        (2, 4),
        False,
        False,
    ),
    "VQModel": ({"block_out_channels": (32, 32), "num_vq_embeddings": 16, **BLOCKS}, (2, 3), False, False),
    "AutoencoderTiny": (
        {
            "encoder_block_out_channels": (8, 8, 8, 8),
            "decoder_block_out_channels": (8, 8, 8, 8),
            "num_encoder_blocks": (1, 1, 1, 1),
            "num_decoder_blocks": (1, 1, 1, 1),
        },
        (8, 4),
        False,
        False,
    ),
    "AsymmetricAutoencoderKL": (
        {"down_block_out_channels": (32, 32), "up_block_out_channels": (32, 32), **BLOCKS},
        (2, 4),
        False,
        True,
    ),
    "AutoencoderKL": (  # with widths, and statistics per channel, that the trunk does not have
        {
            "block_out_channels": (16, 24),
            "norm_num_groups": 8,
            "latent_channels": 4,
            "latents_mean": [0.1, 0.2, 0.3, 0.4],
            "latents_std": [1.0, 2.0, 3.0, 4.0],
            "scaling_factor": 0.5,
            **BLOCKS,
        },
        (2, 4),
        False,
        True,
    ),
    "ConsistencyDecoderVAE": (
        {
            "encoder_block_out_channels": (32, 32),
            "encoder_layers_per_block": 1,
            "encoder_down_block_types": BLOCKS["down_block_types"],
            "decoder_block_out_channels": (32, 32),
            "decoder_layers_per_block": 1,
            "decoder_down_block_types": ("ResnetDownsampleBlock2D",) * 2,
            "decoder_up_block_types": ("ResnetUpsampleBlock2D",) * 2,
        },
        (2, 4),
        False,
        True,
    ),
    "AutoencoderKLTemporalDecoder": (
        {"block_out_channels": (32, 32), "down_block_types": BLOCKS["down_block_types"]},
        (2, 4),
        False,
        True,
    ),
    "AutoencoderKLQwenImage": (VIDEO, (8, 16), True, True),
    "AutoencoderKLWan": (VIDEO, (8, 16), True, True),
    "AutoencoderKLHunyuanVideo": ({"latent_channels": 4, **FOUR}, (8, 4), True, True),
}


@cache
def theirs(name: str) -> Any:
    """Shared by the tests: leave it as it is."""
    import diffusers

    torch.manual_seed(0)
    return getattr(diffusers, name)(**CLASSES[name][0]).eval().requires_grad_(False)


def saved(name: str, folder: Any) -> ZooAutoencoder:
    theirs(name).save_pretrained(folder)
    model = load(folder)
    assert isinstance(model, ZooAutoencoder)
    return model


def pixels(model: ZooAutoencoder) -> Tensor:
    side = 2 * model.spec.stride
    return torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(1)) * 2 - 1


@pytest.mark.parametrize("name", CLASSES)
def test_the_contract_holds_and_the_numbers_are_theirs(tmp_path, name):
    _, (stride, channels), frames, has_posterior = CLASSES[name]
    model = saved(name, tmp_path)
    patch = max(1, 16 // stride)
    assert (model.spec.stride, model.spec.channels) == (stride * patch, channels * patch**2)
    assert (model.frames, model.spec.family) == (frames, "zoo")
    x = pixels(model)
    moments = model.encode(x)
    assert moments.mean.shape == (2, channels, x.shape[2] // stride, x.shape[3] // stride)
    assert (moments.logvar is not None) == has_posterior
    torch.testing.assert_close(moments.mean, _their_mean(theirs(name), x, frames))
    latent = model.latents(x)
    torch.testing.assert_close(latent, patchify(_their_scaling(theirs(name), moments.mean), patch))
    output = model.decode(latent)
    assert output.shape == x.shape
    torch.testing.assert_close(output, model.decode_raw(moments.mean), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(model.decode(latent[1:]), output[1:], rtol=1e-3, atol=1e-3)
    if name not in ("ConsistencyDecoderVAE", "AutoencoderKLTemporalDecoder"):  # those want more than a latent
        raw = moments.mean[:, :, None] if frames else moments.mean
        decoded = theirs(name).decode(raw).sample
        torch.testing.assert_close(model.decode_raw(moments.mean), decoded[:, :, 0] if frames else decoded)


def _their_mean(model: Any, x: Tensor, frames: bool) -> Tensor:
    output = model.encode(x[:, :, None] if frames else x)
    posterior = output.get("latent_dist")
    mean = posterior.mode() if posterior is not None else output[0]
    return mean[:, :, 0] if frames else mean


def _their_scaling(model: Any, z: Tensor) -> Tensor:
    """As the pipelines of diffusers."""
    config = model.config
    if config.get("latents_mean") is not None:
        mean, std = (torch.tensor(config[key]).view(-1, 1, 1) for key in ("latents_mean", "latents_std"))
        return (z - mean) / std * config.get("scaling_factor", 1.0)
    return (z - (config.get("shift_factor") or 0.0)) * config.get("scaling_factor", 1.0)


def test_the_gate_judges_channels_where_their_constants_differ(tmp_path):
    assert gate.per_channel(saved("AutoencoderKL", tmp_path / "own"))
    assert not gate.per_channel(saved("AsymmetricAutoencoderKL", tmp_path / "one"))


def test_a_posterior_is_sampled_from_its_generators(tmp_path):
    model = saved("AutoencoderKL", tmp_path)
    moments = model.encode(pixels(model))
    streams = [Streams.for_samples(0, torch.arange(2), purpose="posterior") for _ in range(2)]
    first, second = (model.to_latent(moments, stream) for stream in streams)
    assert torch.equal(first, second) and not torch.equal(first, model.to_latent(moments))


def test_a_fitted_normalisation_has_unit_scale_and_is_not_lost_silently(tmp_path):
    model = saved("AutoencoderKL", tmp_path / "a")
    before = model.identity
    means = torch.randn(64, 4, 8, 8) * 3 + 1
    model.fit_normalisation(means)
    latent = model.to_latent(model.encode(pixels(model))._replace(mean=means, logvar=None))
    channels = latent.unflatten(1, (4, -1)).transpose(0, 1).flatten(1)
    torch.testing.assert_close(channels.mean(1), torch.zeros(4), rtol=0, atol=1e-5)
    torch.testing.assert_close(channels.std(1), torch.ones(4), rtol=1e-4, atol=0)
    assert model.identity != before
    with pytest.raises(ValueError, match="the normalisation of AutoencoderKL_f2c4 was fitted"):
        save_diffusers(model, tmp_path / "b")


def test_folders_round_trip_to_the_bit(tmp_path):
    model = saved("AutoencoderKLQwenImage", tmp_path / "a")
    save_diffusers(model, tmp_path / "b")
    again = load(tmp_path / "b")
    assert again.identity == model.identity and again.spec == model.spec
    assert not again.training and not any(p.requires_grad for p in again.parameters())


def test_overrides_and_dtype(tmp_path):
    saved("AutoencoderTiny", tmp_path)
    model = load(tmp_path, patch=1, resolution=64, dtype=torch.bfloat16)
    assert (model.spec.stride, model.spec.channels, model.spec.grid) == (8, 4, 8)
    assert isinstance(model, ZooAutoencoder)
    assert {param.dtype for param in model.parameters()} == {torch.bfloat16}
    assert model.decode(model.latents(pixels(model))).dtype == torch.float32
    with pytest.raises(ValueError, match="unknown field of ZooSpec 'groups'; choose from: patch, resolution"):
        load(tmp_path, groups=8)


# ---- faults ------------------------------------------------------------------------------------------------


def test_faults_are_one_line(tmp_path):
    model = saved("AutoencoderTiny", tmp_path)
    with pytest.raises(ValueError, match="AutoencoderTiny_f8c4 belongs to diffusers; use .*save_diffusers"):
        save(model, tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match="this is an AutoencoderTiny autoencoder, not FLUX.2"):
        load(tmp_path, family="flux2")
    for method in (model.latents, model.encode):
        with pytest.raises(ValueError, match="18 x 16 pixels; AutoencoderTiny_f8c4 takes multiples of 16"):
            method(torch.zeros(1, 3, 18, 16))
    weights = tmp_path / "diffusion_pytorch_model.safetensors"
    with pytest.raises(ValueError, match="a diffusers autoencoder of another class; give its folder"):
        load(weights)
    tensors = read_weights(weights)[0]
    first = min(tensors)
    for damaged, message in [
        (
            {name: t for name, t in tensors.items() if name != first},
            f"lacks tensor '{first}' of AutoencoderTiny",
        ),
        (tensors | {"x": torch.zeros(1)}, "has the unknown tensor 'x' of AutoencoderTiny"),
        (tensors | {first: tensors[first] * torch.nan}, f"'{first}' holds NaN or infinity"),
        (tensors | {first: torch.zeros(1)}, "cannot be loaded as AutoencoderTiny"),
    ]:
        write_weights(weights, damaged, {"format": "pt"})
        with pytest.raises(ValueError, match=message) as caught:
            load(tmp_path)
        assert "\n" not in str(caught.value)
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ValueError, match="cannot be loaded as AutoencoderTiny"):
        load(tmp_path)


def test_what_is_no_autoencoder_of_pictures_is_refused(tmp_path):
    import diffusers

    sizes = {"encoder_hidden_size": 4, "decoder_channels": 4, "channel_multiples": [1, 1]}
    classes: Any = diffusers
    classes.AutoencoderOobleck(downsampling_ratios=[2, 2], **sizes).save_pretrained(tmp_path / "audio")
    with pytest.raises(ValueError, match="AutoencoderOobleck has no convolution of images"):
        load(tmp_path / "audio")
    grey = CLASSES["AutoencoderTiny"][0] | {"in_channels": 1}
    classes.AutoencoderTiny(**grey).save_pretrained(tmp_path / "grey")
    with pytest.raises(ValueError, match="AutoencoderTiny does not encode an image of three colours"):
        load(tmp_path / "grey")
