"""Published vision transformers: the same tokens as transformers' own, from pixels prepared as pinned."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from flowlab.features.vision import ENCODERS, KINDS, VisionEncoder, VisionSpec, load

transformers = pytest.importorskip("transformers")

SMALL = {
    "dinov2": VisionSpec(width=32, depth=2, mlp=128, head_width=16, input_size=42, table_size=70),
    "dinov2_plain": VisionSpec(
        kind="dinov2_plain", width=32, depth=2, mlp=128, head_width=16, input_size=42, table_size=70
    ),
    "siglip2": VisionSpec(
        kind="siglip2", width=32, depth=2, mlp=64, head_width=16, patch=16, input_size=48, table_size=32
    ),
    "mae": VisionSpec(
        kind="mae", width=32, depth=2, mlp=64, head_width=16, patch=16, input_size=48, table_size=32
    ),
}
COUNTS = {  # without the final norm's affine; by hand: embedding, positions, special tokens, blocks
    "dinov2_small": 22_057_344,
    "dinov2_base": 86_582_016,
    "dinov2_large": 304_370_688,
    "siglip2_base": 85_841_664,
    "mae_base": 85_797_120,
}


def _shaken(spec: VisionSpec) -> VisionEncoder:
    """Random weights far from their start, where class tokens and layer scales do nothing."""
    torch.manual_seed(0)
    encoder = VisionEncoder(spec)
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return encoder


def _reference(encoder: VisionEncoder, pixels: Tensor) -> tuple[Tensor, list[Tensor]]:
    """All final tokens and each block's, by the library's own forward on pixels prepared here."""
    spec = encoder.spec
    x = F.interpolate((pixels + 1) / 2, (spec.input_size, spec.input_size), mode=spec.resize)
    x = (x - torch.tensor(spec.mean).view(3, 1, 1)) / torch.tensor(spec.std).view(3, 1, 1)
    more: dict[str, Any] = {} if "dinov2" in spec.kind else {"interpolate_pos_encoding": True}
    if spec.kind == "mae":
        more["noise"] = torch.arange(spec.grid**2).expand(len(x), -1)
    output = encoder.network(x, output_hidden_states=True, **more)
    return output.last_hidden_state, list(output.hidden_states)[-spec.depth :]


@pytest.mark.parametrize("name", ENCODERS)
def test_full_sizes_build_on_meta_with_a_grid_of_16(name: str):
    with torch.device("meta"):
        encoder = VisionEncoder(ENCODERS[name])
    assert sum(parameter.numel() for parameter in encoder.parameters()) == COUNTS[name]
    assert encoder.spec.grid == 16 and len(encoder.blocks) == encoder.spec.depth


@pytest.mark.parametrize("resize", ["bicubic", "bilinear"])
@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_tokens_and_layers_equal_the_librarys_own_forward(kind: str, resize: str):
    encoder = _shaken(replace(SMALL[kind], resize=resize))
    pixels = torch.rand(2, 3, 56, 56) * 2 - 1
    tokens, states = _reference(encoder, pixels)
    torch.testing.assert_close(encoder.tokens(pixels), tokens, rtol=0, atol=1e-5)
    special = encoder.kind.num_special
    assert tokens.shape == (2, special + 9, 32)
    features = encoder(pixels)
    assert features.shape == (2, 32, 3, 3)
    torch.testing.assert_close(features[:, :, 1, 2], tokens[:, special + 5], rtol=0, atol=1e-5)
    first, last = encoder.layers(pixels, [0, 1])
    torch.testing.assert_close(first, states[0][:, special:], rtol=0, atol=1e-5)
    torch.testing.assert_close(last, states[1][:, special:], rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_tokens_have_unit_scale_without_the_norms_affine(kind: str):
    tokens = _shaken(SMALL[kind]).tokens(torch.rand(2, 3, 48, 48) * 2 - 1)
    torch.testing.assert_close(tokens.mean(-1), torch.zeros(tokens.shape[:2]), rtol=0, atol=1e-5)
    torch.testing.assert_close(tokens.var(-1, correction=0), torch.ones(tokens.shape[:2]), rtol=0, atol=1e-3)


@torch.no_grad()
def test_mae_keeps_the_order_of_many_patches_in_bfloat16():
    """bfloat16 counts to 256 only; patches sorted by ties may come in any order."""
    encoder = _shaken(replace(SMALL["mae"], patch=2, input_size=64, table_size=64, depth=1))
    pixels = torch.rand(1, 3, 64, 64) * 2 - 1
    (_, order), _ = encoder.kind.inputs(pixels.bfloat16(), encoder.spec)
    assert (order.diff() > 0).all(), "strictly rising for all 1024 patches"
    exact = encoder(pixels)
    rounded = encoder.bfloat16()(pixels.bfloat16()).float()
    assert F.cosine_similarity(exact, rounded, dim=1).min() > 0.95


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_reach_the_pixels_and_no_weight(kind: str):
    encoder = _shaken(SMALL[kind])
    pixels = (torch.rand(1, 3, 48, 48) * 2 - 1).requires_grad_()
    sum(state.pow(2).mean() for state in [*encoder.layers(pixels), encoder(pixels)]).backward()  # pyright: ignore
    assert pixels.grad is not None and pixels.grad.isfinite().all() and pixels.grad.abs().sum() > 0
    assert not any(parameter.requires_grad for parameter in encoder.parameters())


@pytest.mark.parametrize("affine", [False, True])
@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_a_saved_folder_loads_whole(kind: str, affine: bool, tmp_path: Path):
    """As published: with the final norm's affine, a pooling head (siglip2) and a mask ratio (mae)."""
    saved = _shaken(replace(SMALL[kind], affine=True, pooling_head=kind == "siglip2"))
    saved.network.save_pretrained(tmp_path)  # pyright: ignore
    encoder = load(str(tmp_path), input_size=SMALL[kind].input_size, affine=affine)
    pixels = torch.rand(1, 3, 48, 48) * 2 - 1
    saved.mean.copy_(encoder.mean)
    saved.std.copy_(encoder.std)
    expected = saved.tokens(pixels)
    if not affine:
        norm = saved.norm
        assert isinstance(norm, torch.nn.LayerNorm)
        expected = (expected - norm.bias) / norm.weight
    torch.testing.assert_close(encoder.tokens(pixels), expected, rtol=0, atol=1e-4)
    assert (encoder.spec.mean == (0.5, 0.5, 0.5)) == (kind == "siglip2")


@torch.no_grad()
def test_whole_models_give_their_vision_half(tmp_path: Path):
    """SigLIP2 is published with its text half, MAE with its decoder and a mask ratio of 0.75."""
    torch.manual_seed(0)
    small = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    vision = small | {"image_size": 32, "patch_size": 16}
    text = small | {"vocab_size": 50, "projection_size": 32}
    siglip = transformers.SiglipModel(transformers.SiglipConfig(text_config=text, vision_config=vision))
    mae = transformers.ViTMAEForPreTraining(transformers.ViTMAEConfig(**vision))
    for name, model, half in (("siglip", siglip, siglip.vision_model), ("mae", mae, mae.vit)):
        model.save_pretrained(tmp_path / name)
        encoder = load(str(tmp_path / name), input_size=48)
        own = {key: tensor for key, tensor in half.state_dict().items() if "head." not in key}
        stored = encoder.network.state_dict()
        assert all(torch.equal(stored[key], own[key]) for key in stored)
        assert own.keys() - stored.keys() == {f"{encoder.kind.norm}.{part}" for part in ("weight", "bias")}
        assert encoder(torch.zeros(1, 3, 48, 48)).shape == (1, 32, 3, 3)


def test_unstandardise_undoes_the_colour_statistics():
    encoder = VisionEncoder(SMALL["dinov2"])
    pixels = torch.rand(1, 3, 4, 4) * 2 - 1
    x = ((pixels + 1) / 2 - torch.tensor(encoder.spec.mean).view(3, 1, 1)) / encoder.std
    torch.testing.assert_close(encoder.unstandardise(x), pixels)


def test_faults_are_named(tmp_path: Path):
    for changed, message in (
        ({"kind": "clip"}, "unknown vision encoder 'clip'; choose from: dinov2, dinov2_plain, siglip2, mae"),
        ({"resize": "area"}, "unknown resize 'area'; choose from: bicubic, bilinear"),
        ({"input_size": 40}, "input_size 40 is not a multiple of the patch, 14"),
        ({"head_width": 20}, "width 32 is not a multiple of head_width, 20"),
        ({"mlp": 100}, "mlp 100 is not a multiple of the width, 32"),
    ):
        with pytest.raises(ValueError, match=message):
            VisionEncoder(replace(SMALL["dinov2"], **changed))
    encoder = VisionEncoder(SMALL["dinov2"])
    with pytest.raises(ValueError, match=r"shape \(1, 1, 42, 42\); expected \(batch, 3"):
        encoder(torch.zeros(1, 1, 42, 42))
    with pytest.raises(ValueError, match="no block 2; this dinov2 has 0 to 1"):
        encoder.layers(torch.zeros(1, 3, 42, 42), [2])
    with pytest.raises(ValueError, match="no vision encoder at .*; give a whole folder"):
        load(str(tmp_path))


@pytest.mark.parametrize(("field", "value"), [("hidden_act", "relu"), ("layer_norm_eps", 0.1)])
@pytest.mark.parametrize("kind", KINDS)
def test_what_tensors_do_not_tell_is_refused_where_it_is_unusual(
    kind: str, field: str, value, tmp_path: Path
):
    """Every tensor would fit, and every feature would be another."""
    network: Any = VisionEncoder(replace(SMALL[kind], affine=True)).network
    setattr(network.config, field, value)
    network.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=f"has {field} {value}; only .* can be used for {kind}"):
        load(str(tmp_path), input_size=SMALL[kind].input_size)


def test_half_a_folder_and_an_unknown_field_are_named(tmp_path: Path):
    from flowlab.core.weights import read_weights, write_weights

    VisionEncoder(replace(SMALL["mae"], affine=True)).network.save_pretrained(tmp_path)  # pyright: ignore
    with pytest.raises(ValueError, match="unknown field of VisionSpec 'size'"):
        load(str(tmp_path), size=224)
    config = tmp_path / "config.json"
    right = config.read_text()
    config.write_text(right.replace("vit_mae", "vit"))
    with pytest.raises(ValueError, match="unknown type of vision encoder 'vit'; choose from: dinov2_with"):
        load(str(tmp_path))
    config.write_text(right)
    weights = tmp_path / "model.safetensors"
    tensors, metadata = read_weights(weights)
    tensors = {name: tensor.clone() for name, tensor in tensors.items()}
    write_weights(weights, {k: v for k, v in tensors.items() if "cls_token" not in k}, metadata)
    with pytest.raises(ValueError, match="lacks 'embeddings.cls_token' of ViTMAEModel"):
        load(str(tmp_path))
    weights.write_bytes(weights.read_bytes()[:-1000])
    with pytest.raises(ValueError, match="no vision encoder at .* whole"):
        load(str(tmp_path))
