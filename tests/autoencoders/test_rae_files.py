"""Published representation autoencoders: the same numbers as diffusers' own class, and files to the bit."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from flowlab.autoencoders.base import Moments
from flowlab.autoencoders.rae import PublishedRAESpec, RepresentationAutoencoder
from flowlab.autoencoders.rae_files import from_diffusers, to_diffusers
from flowlab.autoencoders.vit_decoder import ViTDecoderSpec
from flowlab.core.weights import read_weights, write_weights
from flowlab.features.vision import HALF, VisionSpec

pytest.importorskip("diffusers")
pytest.importorskip("transformers")

WEIGHTS = "diffusion_pytorch_model.safetensors"
SETTINGS: dict[str, dict[str, Any]] = {
    "dinov2": {"encoder_patch_size": 14, "encoder_input_size": 42},
    "mae": {"encoder_patch_size": 16, "encoder_input_size": 48},
}


def _theirs(kind: str, **settings: Any) -> Any:
    """A small AutoencoderRAE of random weights: 48 px in and out, a grid of 3."""
    from diffusers.models.autoencoders.autoencoder_rae import AutoencoderRAE

    torch.manual_seed(0)
    model = AutoencoderRAE(
        encoder_type=kind,
        encoder_hidden_size=64,
        encoder_num_hidden_layers=2,
        decoder_hidden_size=32,
        decoder_num_hidden_layers=2,
        decoder_num_attention_heads=2,
        decoder_intermediate_size=48,
        **(SETTINGS[kind] | settings),
    ).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # published weights are not near zero, and tokens differ
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return model


def _statistics() -> dict[str, Tensor]:
    return {"latents_mean": torch.randn(64, 3, 3), "latents_std": torch.rand(64, 3, 3) + 0.5}


@pytest.mark.parametrize("size", [48, 64])
@pytest.mark.parametrize("kind", ["dinov2", "mae"])
@torch.no_grad()
def test_latents_and_pixels_equal_diffusers(kind: str, size: int, tmp_path: Path):
    theirs = _theirs(kind, **_statistics(), scaling_factor=1.5)
    theirs.save_pretrained(tmp_path)
    ours = from_diffusers(tmp_path)
    pixels = torch.rand(2, 3, size, size)
    moments = Moments(ours.encoder(pixels * 2 - 1), None)  # it resizes; `encode` takes its own 48 px only
    latent = theirs.encode(pixels).latent
    torch.testing.assert_close(ours.to_latent(moments), latent, rtol=0, atol=1e-5)
    expected = theirs.decode(latent).sample * 2 - 1
    torch.testing.assert_close(ours.decode(latent), expected, rtol=0, atol=1e-5)
    assert ours.spec.name == f"rae_{kind}", "a size of its own, and not the embedded rae"
    assert latent.std() > 0.5 and expected.std() > 0.1


@pytest.mark.parametrize("kind", ["dinov2", "mae"])
@torch.no_grad()
def test_files_round_trip_to_the_bit_and_diffusers_reads_them(kind: str, tmp_path: Path):
    from diffusers.models.autoencoders.autoencoder_rae import AutoencoderRAE

    _theirs(kind, **_statistics(), noise_tau=0.8).save_pretrained(tmp_path / "theirs")
    ours = from_diffusers(tmp_path / "theirs")
    to_diffusers(ours, tmp_path / "ours")
    before, after = (
        read_weights(tmp_path / "theirs" / WEIGHTS)[0],
        read_weights(tmp_path / "ours" / WEIGHTS)[0],
    )
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    reader: Any = AutoencoderRAE
    again, report = reader.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not any(report.values()), report
    assert again.config["noise_tau"] == 0.8
    pixels = torch.rand(1, 3, 48, 48)
    torch.testing.assert_close(
        ours.to_latent(ours.encode(pixels * 2 - 1)), again.encode(pixels).latent, rtol=0, atol=1e-5
    )


@torch.no_grad()
def test_absent_statistics_leave_the_features_as_they_are(tmp_path: Path):
    theirs = _theirs("dinov2")
    theirs.save_pretrained(tmp_path)
    ours = from_diffusers(tmp_path)
    assert isinstance(ours.options, PublishedRAESpec) and ours.options.statistics == "none"
    pixels = torch.rand(1, 3, 48, 48)
    latent = theirs.encode(pixels).latent
    torch.testing.assert_close(ours.latents(pixels * 2 - 1), latent, rtol=0, atol=1e-5)
    with pytest.raises(ValueError, match="keeps no latent statistics"):
        ours.fit_normalisation(latent)


@pytest.mark.parametrize("kind", ["dinov2", "siglip2", "mae"])
def test_older_encoder_names_read_the_same(kind: str, tmp_path: Path):
    """Published files were written beside transformers 4; siglip2 also carries its pooling head."""
    model = _ours(kind)
    to_diffusers(model, tmp_path / "new")
    to_diffusers(model, tmp_path / "old", naming="transformers4")
    old_names = set(read_weights(tmp_path / "old" / WEIGHTS)[0])
    assert OLD_NAMES[kind] <= old_names
    for folder in ("new", "old"):
        again = from_diffusers(tmp_path / folder)
        assert again.identity == model.identity
        assert again.options == model.options


OLD_NAMES = {
    "dinov2": {
        "encoder.encoder.layer.1.attention.attention.query.weight",
        "encoder.encoder.layer.1.attention.output.dense.bias",
    },
    "siglip2": {
        "encoder.vision_model.encoder.layers.1.self_attn.q_proj.weight",
        "encoder.vision_model.head.probe",
    },
    "mae": {
        "encoder.encoder.layer.1.attention.attention.key.bias",
        "encoder.encoder.layer.1.intermediate.dense.weight",
        "encoder.encoder.layer.1.output.dense.weight",
        "encoder.encoder.layer.1.layernorm_before.bias",
    },
}


def _ours(kind: str) -> RepresentationAutoencoder:
    """48 px, a grid of 3, positions as diffusers spreads them; shapes that its class can hold."""
    torch.manual_seed(0)
    small = {
        "dinov2": VisionSpec(width=64, depth=2, mlp=256, input_size=42),
        "siglip2": VisionSpec(
            kind="siglip2",
            width=64,
            depth=2,
            patch=16,
            input_size=48,
            table_size=256,
            mean=HALF,
            std=HALF,
            pooling_head=True,
        ),
        "mae": VisionSpec(kind="mae", width=64, depth=2, patch=16, input_size=48, table_size=224),
    }
    decoder = ViTDecoderSpec(latent_channels=64, width=32, depth=2, heads=2, mlp=48, grid=3, position_span=16)
    encoder = small[kind]
    mean = torch.tensor(encoder.mean).tolist()  # as float32 holds them
    std = torch.tensor(encoder.std).tolist()
    encoder = replace(encoder, mean=tuple(mean), std=tuple(std))
    model = RepresentationAutoencoder(PublishedRAESpec(encoder=encoder, decoder=decoder)).eval()
    model.fit_normalisation(torch.randn(8, 64, 3, 3) * 2 + 1)
    return model


def test_plain_positions_and_a_kept_norm_are_refused(tmp_path: Path):
    model = _ours("dinov2")
    spec = model.options
    assert isinstance(spec, PublishedRAESpec)
    for changed, message in (
        (replace(spec, decoder=replace(spec.decoder, position_span=None)), "positions over 0 to 3"),
        (replace(spec, encoder=replace(spec.encoder, affine=True)), "norm with affine"),
        (replace(spec, encoder=replace(spec.encoder, head_width=32)), "heads of 32"),
    ):
        with pytest.raises(ValueError, match=f"cannot hold .*{message}"):
            to_diffusers(RepresentationAutoencoder(changed), tmp_path)
    with pytest.raises(ValueError, match="choose from: transformers5, transformers4"):
        to_diffusers(model, tmp_path, naming="transformers6")


def test_faulty_folders_are_named(tmp_path: Path):
    with pytest.raises(ValueError, match=r"no config.json in .*; give the folder"):
        from_diffusers(tmp_path)
    to_diffusers(_ours("dinov2"), tmp_path)
    config, weights = tmp_path / "config.json", tmp_path / WEIGHTS
    settings, tensors = json.loads(config.read_text()), read_weights(weights)[0]

    for change, message in (
        ({"_class_name": "AutoencoderKL"}, "holds a AutoencoderKL, not AutoencoderRAE"),
        ({"sharpness": 2}, "unknown setting .*'sharpness'"),
        ({"encoder_type": "clip"}, "unknown encoder_type 'clip'; choose from: dinov2, siglip2, mae"),
        ({"reshape_to_2d": False}, "reshape_to_2d=False"),
        ({"decoder_hidden_size": 64}, r"expected \(.*64"),
    ):
        config.write_text(json.dumps(settings | change))
        with pytest.raises(ValueError, match=message):
            from_diffusers(tmp_path)
    config.write_text(json.dumps(settings))

    lost = {name: tensor for name, tensor in tensors.items() if not name.endswith("decoder_norm.bias")}
    write_weights(weights, lost)
    with pytest.raises(ValueError, match="lacks 1 tensors .*decoder.norm.bias"):
        from_diffusers(tmp_path)
    broken = tensors["encoder_mean"].clone()
    broken[0, 1] = float("nan")
    write_weights(weights, tensors | {"encoder_mean": broken})
    with pytest.raises(ValueError, match="'encoder_mean' holds NaN"):
        from_diffusers(tmp_path)
    write_weights(weights, tensors | {"encoder.layernorm.weight": torch.ones(64)})
    with pytest.raises(ValueError, match="unknown to .*layernorm.weight"):
        from_diffusers(tmp_path)
