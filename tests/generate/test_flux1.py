"""FLUX.1's ways through the pipeline (Kontext, Fill, Depth) and FLUX.2's KV variant, all tiny and random."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from flowlab import backbones
from flowlab.autoencoders.kl import KLAutoencoder, KLSpec
from flowlab.backbones import lora
from flowlab.backbones.flux1 import Flux1
from flowlab.backbones.flux2 import Flux2
from flowlab.generate.loading import Parts
from flowlab.generate.pipeline import Pipeline
from flowlab.text import TextFeatures
from flowlab.text.embedded import EmbeddedText

PICTURE = Image.linear_gradient("L").resize((128, 64)).convert("RGB")
FEW: dict[str, Any] = {"num_steps": 2, "progress": False}


class Pooled:
    """The embedded encoder with a pooled vector beside the tokens, as T5 with CLIP gives."""

    identity, width, length = "pooled", 128, 64

    def encode(self, prompts: Sequence[str]) -> TextFeatures:
        tokens = EmbeddedText().encode(prompts).tokens
        return TextFeatures(tokens, tokens[:, :3].flatten(1)[:, :20])

    def num_tokens(self, prompt: str) -> int:
        return EmbeddedText().num_tokens(prompt)


def pipeline_of(name: str, latent_channels: int, text: Any, **spec: Any) -> Pipeline:
    torch.manual_seed(0)
    family = "flux1_dev" if name.startswith("flux1") else "flux2_klein_9b"
    small = {"width": 64, "heads": 2, "double_blocks": 1, "single_blocks": 1, "text_width": 128}
    model = backbones.build_flux(family, **{**small, **spec})
    assert isinstance(model, (Flux1, Flux2))
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    options = KLSpec(
        latent_channels=latent_channels, channels=8, multipliers=(1, 1, 1, 1), num_res_blocks=1, groups=4
    )
    facts = {"model": {"variant": name}}
    autoencoder = KLAutoencoder(options).eval().requires_grad_(False)
    parts = Parts(model=model.eval().requires_grad_(False), autoencoder=autoencoder, text=text, facts=facts)
    return Pipeline(parts, torch.device("cpu"))


def flux1(name: str, **spec: Any) -> Pipeline:
    return pipeline_of(name, 16, Pooled(), axes=(8, 12, 12), pooled_width=20, **spec)


def mask_of(box: tuple[int, int, int, int]) -> Image.Image:
    mask = Image.new("L", PICTURE.size)
    mask.paste(255, box)
    return mask


def test_the_scale_of_a_distilled_model_is_embedded() -> None:
    pipeline = flux1("flux1_dev")
    size: dict[str, Any] = {"width": 64, "height": 64}
    a = pipeline("a star", **FEW, **size)
    assert a.facts[0]["guidance"] == {"scale": 2.5, "kind": "embedded"}
    assert a.facts[0]["schedule"]["name"] == "flux1"
    assert not torch.equal(a.pixels, pipeline("a star", guidance=5.0, **FEW, **size).pixels)
    with pytest.raises(ValueError, match="this model takes none"):
        pipeline("a star", references=[PICTURE], **FEW, **size)


def test_kontext_sees_one_reference_at_its_own_size() -> None:
    pipeline = flux1("flux1_kontext")
    images = pipeline("in blue", references=[PICTURE], width=64, height=64, num_steps=1, progress=False)
    (reference,) = images.facts[0]["references"]
    assert reference["transforms"] == ["stretched from 128 x 64 to 1456 x 720"]
    with pytest.raises(ValueError, match="2 reference images were given; this model takes at most 1"):
        pipeline("in blue", references=[PICTURE] * 2, **FEW)
    with pytest.raises(ValueError, match="reference_cap is 4096; flux1_kontext has sizes of its own"):
        pipeline("in blue", references=[PICTURE], reference_cap=4096, **FEW)


def test_fill_repaints_by_its_own_channels() -> None:
    pipeline = flux1("flux1_fill", in_channels=384)
    left, right = mask_of((0, 0, 64, 64)), mask_of((64, 0, 128, 64))
    a = pipeline("a star", image=PICTURE, mask=left, keep_outside=False, **FEW).pixels
    b = pipeline("a star", image=PICTURE, mask=right, keep_outside=False, **FEW).pixels
    assert a.shape == (1, 3, 64, 128) and not torch.equal(a, b), "the mask is an input of the network"
    cases: tuple[tuple[dict[str, Any], str], ...] = (
        ({}, "flux1_fill needs an image and a mask"),
        ({"image": PICTURE}, "needs a mask beside the image"),
        ({"image": PICTURE, "mask": left, "strength": 0.5}, "flux1_fill starts from noise alone"),
    )
    for settings, part in cases:
        with pytest.raises(ValueError, match=part):
            pipeline("a star", **FEW, **settings)


def test_depth_follows_a_map() -> None:
    pipeline = flux1("flux1_depth", in_channels=128)
    a, b = (pipeline("a star", image=one, **FEW).pixels for one in (PICTURE, PICTURE.rotate(180)))
    assert a.shape == (1, 3, 64, 128) and not torch.equal(a, b)
    with pytest.raises(ValueError, match="needs an edge or depth map as image"):
        pipeline("a star", **FEW)


def test_a_control_lora_makes_dev_follow_a_map(tmp_path: Path) -> None:
    pipeline = flux1("flux1_depth")
    down, up = torch.randn(4, 128), torch.randn(64, 4)
    save_file({"img_in.lora_A.weight": down, "img_in.lora_B.weight": up}, tmp_path / "depth.safetensors")
    lora.merge(pipeline.model, lora.read(tmp_path / "depth.safetensors"))
    one, other = (
        pipeline("a star", image=picture, seed=1, **FEW).pixels
        for picture in (PICTURE, PICTURE.transpose(Image.Transpose.FLIP_LEFT_RIGHT).rotate(180))
    )
    assert one.shape == (1, 3, 64, 128) and not torch.equal(one, other)


def test_the_kv_variant_runs_references_once(monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline = pipeline_of("flux2_klein_kv", 32, EmbeddedText(), axes=(8, 8, 8, 8), variant="kv")
    seen: list[int] = []
    block: Any = pipeline.model.single_blocks[0]
    monkeypatch.setattr(
        block, "with_keys", lambda x, *rest, run=block.with_keys: seen.append(x.shape[1]) or run(x, *rest)
    )
    images = pipeline("in blue", references=[PICTURE], progress=False)
    assert seen == [4 * 8] and images.pixels.shape == (1, 3, 64, 128)
    assert not torch.equal(images.pixels, pipeline("in blue", width=128, height=64, progress=False).pixels)
