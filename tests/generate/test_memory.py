"""Offload, fewer bits, and the estimate that is made before anything is loaded."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.backbones.tiny_flux import inputs, tiny
from tests.generate.small import save_flux2

from flowlab import backbones
from flowlab.generate.estimate import BYTES, decoder_of, estimate
from flowlab.generate.loading import Located, locate
from flowlab.generate.offload import OFFLOADS
from flowlab.generate.pipeline import Pipeline
from flowlab.generate.plans import plan
from flowlab.generate.quantise import QUANTISATIONS
from flowlab.layers.packed import PackedLinear


def cost(located: Located, prompts: str | list[str] = "a star", batch_size: int = 1, **options):
    made = plan(prompts, variant=located.variant, stride=8)
    return estimate(
        located,
        [made],
        batch_size=batch_size,
        precision=torch.float32,
        device=torch.device("cpu"),
        **options,
    )


def test_one_layer_visits_the_device_at_a_time() -> None:
    model = backbones.build_flux(
        "flux2_scenes", width=32, heads=2, double_blocks=1, single_blocks=2, axes=(4,) * 4
    )
    homes = {name: parameter.data_ptr() for name, parameter in model.named_parameters()}
    OFFLOADS["blocks"](model, torch.device("meta"))
    places = {name: parameter.device.type for name, parameter in model.named_parameters()}
    assert {places[name] for name in places if name.endswith(("linear1.weight", "qkv.weight"))} == {"cpu"}
    assert places["img_in.weight"] == "meta" and places["single_blocks.0.norm.query_norm.scale"] == "meta"
    seen = []
    layer: Any = model.get_submodule("single_blocks.0.linear1")
    layer.register_forward_pre_hook(lambda layer, _: seen.append(layer.weight.device.type))
    layer(torch.zeros(1, 32, device="meta"))
    assert seen == ["meta"] and layer.weight.data_ptr() == homes["single_blocks.0.linear1.weight"]


@pytest.mark.parametrize("family", ["flux1", "flux2"])
@torch.no_grad()
def test_a_processors_own_layout_computes_the_same(family: str) -> None:
    model = tiny(family)
    expected = model.velocity(**inputs(model))
    OFFLOADS["none"](model, torch.device("cpu"))
    assert isinstance(model.get_submodule("single_blocks.0.linear1"), PackedLinear)
    torch.testing.assert_close(model.velocity(**inputs(model)), expected, rtol=1e-5, atol=1e-5)


def test_quantisation_without_its_library_says_what_to_install(
    model_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    for name in ("8bit", "4bit"):
        with pytest.raises(ValueError, match="pip install bitsandbytes"):
            Pipeline.from_pretrained(model_file, quantise=name)
    with pytest.raises(ValueError, match="choose one"):
        Pipeline.from_pretrained(model_file, quantise="8bit", offload="blocks")
    with pytest.raises(ValueError, match="unknown quantisation '2bit'; choose from: none, 8bit, 4bit"):
        Pipeline.from_pretrained(model_file, quantise="2bit")
    assert QUANTISATIONS.keys() == BYTES.keys()


@pytest.mark.parametrize(("name", "tolerance"), [("8bit", 3.0), ("4bit", 25.0)])
def test_fewer_bits_stay_close(name: str, tolerance: float, model_file: Path) -> None:
    pytest.importorskip("bitsandbytes")
    whole, narrow = (Pipeline.from_pretrained(model_file, quantise=one) for one in ("none", name))
    a, b = (one("a star", num_steps=3, progress=False) for one in (whole, narrow))
    assert 0 < (a.pixels.float() - b.pixels.float()).abs().mean() < tolerance
    assert b.facts[0]["precision"]["quantise"] == name


# ---- the estimate ------------------------------------------------------------------------------------------


def test_operations_are_counted_exactly(model_file: Path) -> None:
    from torch.utils.flop_counter import FlopCounterMode

    from flowlab.backbones.condition import Condition
    from flowlab.generate.estimate import _forward_flops

    outline = locate(model_file).outline
    with FlopCounterMode(display=False) as counter:
        outline(
            torch.zeros(1, 32, 12, 12, device="meta"),
            torch.zeros(1, device="meta"),
            Condition(torch.zeros(1, 64, 128, device="meta")),
        )
    # The rest: projections at both ends, time, modulations.
    assert _forward_flops(outline, 64, 144) == pytest.approx(counter.get_total_flops(), rel=0.1)


def test_the_estimate_follows_the_plan(model_file: Path) -> None:
    located = locate(model_file)
    one = cost(located)
    params = sum(parameter.numel() for parameter in located.outline.parameters())
    assert one.tokens == "text 64, image 64, references 0"
    assert one.weights_gb == pytest.approx(4 * params / 1e9)
    many = cost(located, ["a", "b", "c"], batch_size=2)
    assert many.activations_gb == pytest.approx(2 * one.activations_gb)
    assert (
        cost(located, quantise="4bit").weights_gb < cost(located, quantise="8bit").weights_gb < one.weights_gb
    )
    assert cost(located, offload="blocks").weights_gb < one.weights_gb
    assert cost(located, tiles=True).decode_gb < one.decode_gb
    assert one.peak_gb > 0 and one.seconds > 0 and len(one.lines()) == 3


def test_a_text_encoder_is_known_by_its_width(tmp_path: Path) -> None:
    located = locate(
        save_flux2(tmp_path / "model.safetensors", text_width=15360),
        variant="flux2_klein_base",
        text_encoder="org/x",
    )
    whole, narrow, away = cost(located), cost(located, quantise="4bit"), cost(located, offload="blocks")
    assert whole.tokens.startswith("text 512,") and whole.text_gb == 34.7
    assert narrow.text_gb == pytest.approx(34.7 / 4)
    assert away.text_gb == 0 and away.beside_gb > 34.7 and "of main memory" in away.lines()[1]


def test_a_decoder_is_known_before_it_is_loaded(tmp_path: Path) -> None:
    from flowlab import autoencoders
    from flowlab.autoencoders.sizes import build

    autoencoders.save(build("sd"), tmp_path / "sd.safetensors")
    assert decoder_of(str(tmp_path / "sd.safetensors")).stride == decoder_of("sd").stride == 8
    assert (decoder_of("path/to/vae").stride, decoder_of("path/to/vae").channels) == (16, 128)
