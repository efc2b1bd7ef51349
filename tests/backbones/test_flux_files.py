"""FLUX files: official, diffusers' and our own names, sizes from shapes, mapping, and damage."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tests.backbones.tiny_flux import AXES, inputs, official, renamed, tiny
from torch import Tensor

from flowlab import backbones
from flowlab.backbones.checkpoints import METADATA, save_diffusers, save_official
from flowlab.backbones.flux1 import Flux1
from flowlab.backbones.flux2 import Flux2
from flowlab.backbones.flux_files import from_tensors
from flowlab.backbones.flux_names import NAMINGS
from flowlab.backbones.flux_sizes import FLUX_SIZES, build_flux
from flowlab.core.weights import read_weights

FAMILIES = ("flux1", "flux2")
OPTIONS = (
    ("flux1", {}),
    ("flux1", {"guidance": False, "in_channels": 12}),
    ("flux2", {}),
    ("flux2", {"guidance": False, "mlp_ratio": 2.0}),
)


def load(path: Path, **overrides: Any) -> Any:
    return backbones.load(path, **overrides)


def same(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    first, second = a.state_dict(), b.state_dict()
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


# ---- round trips -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("family", "options"), OPTIONS)
def test_our_files_come_back_bit_for_bit(tmp_path: Path, family: str, options: dict) -> None:
    model = tiny(family, **options)
    backbones.save(model, tmp_path / "model.safetensors", {"text": "embedded"})
    loaded = load(tmp_path / "model.safetensors")
    assert isinstance(loaded, type(model))
    assert loaded.spec == model.spec
    assert not loaded.training
    assert all(p.requires_grad for p in loaded.parameters())
    assert same(loaded, model)
    assert read_weights(tmp_path / "model.safetensors")[1]["text"] == "embedded"


@pytest.mark.parametrize(("family", "options"), OPTIONS)
def test_official_to_diffusers_and_back_is_equal_to_the_bit(
    tmp_path: Path, family: str, options: dict
) -> None:
    tensors = official(family, **options)
    save_file(tensors, tmp_path / "official.safetensors")
    model = load(tmp_path / "official.safetensors", axes=AXES[family])
    assert same(model, tiny(family, **options))
    save_diffusers(model, tmp_path / "diffusers")
    again = load(tmp_path / "diffusers")
    save_official(again, tmp_path / "again.safetensors")
    back = load_file(tmp_path / "again.safetensors")
    assert back.keys() == tensors.keys()
    assert all(torch.equal(back[name], tensors[name]) for name in tensors)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_final_halves_swap_and_the_fused_rows_split(tmp_path: Path, family: str) -> None:
    model = tiny(family)
    save_diffusers(model, tmp_path / "diffusers")
    theirs = load_file(tmp_path / "diffusers" / "diffusion_pytorch_model.safetensors")
    own = model.state_dict()
    for leaf in ("weight", "bias") if family == "flux1" else ("weight",):
        shift, scale = own[f"final_layer.modulation.lin.{leaf}"].chunk(2)
        assert torch.equal(theirs[f"norm_out.linear.{leaf}"], torch.cat([scale, shift]))
        _, k, _ = own[f"double_blocks.1.txt_attn.qkv.{leaf}"].chunk(3)
        assert torch.equal(theirs[f"transformer_blocks.1.attn.add_k_proj.{leaf}"], k)
    if family == "flux1":
        mlp = own["single_blocks.2.linear1.weight"][3 * 64 :]
        assert torch.equal(theirs["single_transformer_blocks.2.proj_mlp.weight"], mlp)


# ---- diffusers itself --------------------------------------------------------------------------------------


def their_class(family: str) -> Any:
    from diffusers.models.transformers.transformer_flux import FluxTransformer2DModel
    from diffusers.models.transformers.transformer_flux2 import Flux2Transformer2DModel

    return Flux2Transformer2DModel if family == "flux2" else FluxTransformer2DModel


def their_velocity(theirs: Any, model: Flux1 | Flux2) -> Tensor:
    """Diffusers' output for `inputs`, as (B, C, h, w)."""
    given = inputs(model)
    latent, text = given["latent"], given["text"]
    if "concat" in given:
        latent = torch.cat([latent, given["concat"]], dim=1)
    rows, columns = latent.shape[2:]
    axes = len(model.spec.axes)
    image_ids, text_ids = torch.zeros(rows, columns, axes), torch.zeros(text.shape[1], axes)
    image_ids[..., 1], image_ids[..., 2] = torch.arange(rows)[:, None], torch.arange(columns)
    if axes == 4:
        text_ids[:, 3] = torch.arange(text.shape[1])
    more = {"pooled_projections": given["pooled"]} if "pooled" in given else {}
    out = theirs(
        hidden_states=latent.flatten(2).transpose(1, 2),
        encoder_hidden_states=text,
        timestep=given["t"],
        guidance=given.get("guidance"),
        img_ids=image_ids.flatten(0, 1),
        txt_ids=text_ids,
        return_dict=False,
        **more,
    )[0]
    return out.transpose(1, 2).unflatten(2, (rows, columns))


@pytest.mark.parametrize(("family", "options"), OPTIONS)
@torch.no_grad()
def test_diffusers_loads_what_we_write(tmp_path: Path, family: str, options: dict) -> None:
    model = tiny(family, **options)
    save_diffusers(model, tmp_path / "diffusers")
    theirs, report = their_class(family).from_pretrained(tmp_path / "diffusers", output_loading_info=True)
    assert not any(report.values()), report
    ours = model.velocity(**inputs(model))
    torch.testing.assert_close(their_velocity(theirs, model), ours, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_we_load_what_diffusers_writes(tmp_path: Path, family: str) -> None:
    """In shards, from the folder of a transformer or of the whole pipeline."""
    model = tiny(family)
    save_diffusers(model, tmp_path / "written")
    theirs = their_class(family).from_pretrained(tmp_path / "written")
    theirs.save_pretrained(tmp_path / "pipeline" / "transformer", max_shard_size="500KB")
    (tmp_path / "pipeline" / "model_index.json").write_text("{}")
    assert len(list((tmp_path / "pipeline" / "transformer").glob("*.safetensors"))) > 1
    for folder in ("pipeline", "pipeline/transformer"):
        loaded = load(tmp_path / folder)
        assert loaded.spec == model.spec
        assert same(loaded, model)


# ---- what a file holds -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FLUX_SIZES)
def test_sizes_come_from_the_shapes(name: str) -> None:
    """Every published size, on the meta device, from official names alone."""
    with torch.device("meta"):
        model = build_flux(name)
    tensors = renamed(model, "official")
    loaded = from_tensors(tensors, lambda names: [tensors[n] for n in names], name)
    assert loaded.spec == FLUX_SIZES[name]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("naming", NAMINGS[:2])
@pytest.mark.parametrize("prefix", ["", "model.diffusion_model.", "diffusion_model.", "transformer."])
def test_prefixes_and_namings_are_one_model(tmp_path: Path, family: str, naming: str, prefix: str) -> None:
    model = tiny(family)
    tensors = {prefix + name: tensor for name, tensor in renamed(model, naming).items()}
    if prefix:
        tensors["vae.decoder.conv_in.weight"] = torch.zeros(2, 2)  # a file of a whole generator
    save_file(tensors, tmp_path / "model.safetensors")
    assert same(load(tmp_path / "model.safetensors", axes=AXES[family]), model)


def test_a_pytorch_file_is_read_too(tmp_path: Path) -> None:
    torch.save({"model": official("flux2")}, tmp_path / "model.pt")
    assert same(load(tmp_path / "model.pt"), tiny("flux2"))


def test_weights_need_no_config_beside_them(tmp_path: Path) -> None:
    """A folder of one file, shards with their index, the index alone, a config that says nothing."""
    model, tensors = tiny("flux2"), official("flux2")
    (tmp_path / "one").mkdir()
    save_file(tensors, tmp_path / "one" / "flux2-dev.safetensors")
    assert same(load(tmp_path / "one"), model)
    shards = tmp_path / "shards"
    shards.mkdir()
    names = sorted(tensors)
    places = {}
    for i, part in enumerate((names[:20], names[20:])):
        save_file({name: tensors[name] for name in part}, shards / f"model-{i}.safetensors")
        places |= dict.fromkeys(part, f"model-{i}.safetensors")
    index = shards / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": places}))
    assert same(load(shards), model) and same(load(index), model)
    (shards / "config.json").write_text("{}")
    assert same(load(shards), model)
    half = {name: tensor.half() for name, tensor in tensors.items()}
    save_file(half, tmp_path / "one" / "flux2-dev.fp16.safetensors")
    assert same(load(tmp_path / "one"), model), "the whole precision is taken"


def test_a_name_with_and_without_its_prefix_is_refused(tmp_path: Path) -> None:
    tensors = {f"model.diffusion_model.{name}": tensor for name, tensor in official("flux2").items()}
    save_file({**tensors, "img_in.weight": torch.zeros(64, 8)}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="'.*img_in.weight' with and without 'model.diffusion_model.'"):
        load(tmp_path / "model.safetensors")


# ---- memory ------------------------------------------------------------------------------------------------


def test_parameters_are_the_file_mapped_and_training_leaves_it(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file(official("flux2"), path)
    before = path.read_bytes()
    model = load(path)
    optimiser = torch.optim.SGD(model.parameters(), lr=1.0)
    model.velocity(**inputs(model)).square().mean().backward()
    optimiser.step()
    assert not same(model, tiny("flux2"))
    assert path.read_bytes() == before


@pytest.mark.parametrize("naming", ["official", "diffusers"])
def test_dtype_is_said_or_the_files(tmp_path: Path, naming: str) -> None:
    model = tiny("flux1").bfloat16()
    if naming == "official":
        save_official(model, tmp_path / "model.safetensors")
    else:
        save_diffusers(model, tmp_path / "model.safetensors")
    for dtype, expected in ((None, torch.bfloat16), ("float32", torch.float32)):
        loaded = load(tmp_path / "model.safetensors", dtype=dtype)
        assert {p.dtype for p in loaded.parameters()} == {expected}
        assert same(loaded.bfloat16(), model)
    with pytest.raises(ValueError, match="unknown dtype 'int3'; choose from: float32, bfloat16, float16"):
        load(tmp_path / "model.safetensors", dtype="int3")


MEASURE = """
import re, sys
from flowlab import backbones

def high():
    return int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) * 1024

small = backbones.build_flux("flux2_small", width=64, heads=2, axes=(8, 8, 8, 8))
total = sum(float(p.sum()) for p in small.parameters())  # what torch loads on first use
before = high()
model = backbones.load(sys.argv[1])
print(high() - before)
total = sum(float(p.sum()) for p in model.parameters())
print(high() - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's account of memory")
@pytest.mark.parametrize(("family", "naming"), [("flux1", "diffusers"), ("flux2", "official")])
def test_loading_takes_no_second_copy(tmp_path: Path, family: str, naming: str) -> None:
    """The peak while loading, and then with every weight read once, is at most 1.1 times the file."""
    axes = (16, 56, 56) if family == "flux1" else (32, 32, 32, 32)
    model = tiny(family, width=512, heads=4, axes=axes, double_blocks=3, single_blocks=3)
    path = tmp_path / "model"
    (save_official if naming == "official" else save_diffusers)(model, path)
    size = sum(p.numel() for p in model.parameters()) * 4
    assert size > 100e6
    program = [sys.executable, "-c", MEASURE, str(path)]
    out = subprocess.run(program, check=True, capture_output=True, text=True).stdout.split()
    loading, used = (int(line) for line in out)
    assert loading < (0.2 if naming == "official" else 0.6) * size  # mapped; only fused rows are copied
    assert 0.9 * size < used < 1.1 * size


# ---- damage ------------------------------------------------------------------------------------------------


def without(name: str) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    return lambda tensors: {key: tensor for key, tensor in tensors.items() if key != name}


def plus(name: str, tensor: Tensor) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    return lambda tensors: {**tensors, name: tensor}


FAULTS = {
    "missing": (
        without("img_in.weight"),
        "lacks 1 tensors of a FLUX.2 of 2 . 3 blocks, first 'img_in.weight'",
    ),
    "marker": (
        without("single_stream_modulation.lin.weight"),
        "lacks 1 tensors .* 'single_stream_modulation.lin.weight'",
    ),
    "unmatched": (plus("bn.running_mean", torch.ones(2)), "1 tensors unknown to .*first 'bn.running_mean'"),
    "bias": (plus("img_in.bias", torch.ones(64)), "unknown to a FLUX.2 .* 'img_in.bias'"),
    "gap": (
        plus("single_blocks.9.linear1.weight", torch.ones(2, 2)),
        "lacks 4 tensors .* 'single_blocks.3.linear1.weight'",
    ),
    "shape": (
        plus("double_blocks.1.img_mlp.2.weight", torch.ones(64, 9)),
        r"'double_blocks.1.img_mlp.2.weight' is \(64, 9\), expected \(64, 192\)",
    ),
    "rank": (plus("txt_in.weight", torch.ones(64)), r"'txt_in.weight' has the shape \(64,\)"),
    "channels": (plus("img_in.weight", torch.ones(64, 9)), r"'img_in.weight' is \(64, 9\), expected"),
    "scale": (
        plus("img_in.weight_scale", torch.ones(1)),
        "is quantised .*'img_in.weight_scale'.*; give its bfloat16 file",
    ),
    "nvfp4": (plus("img_in.weight", torch.ones(64, 4, dtype=torch.uint8)), "is quantised"),
    "fp8": (
        plus("img_in.weight", torch.ones(64, 8).to(torch.float8_e4m3fn)),
        "float8_e4m3fn .*; say dtype='bfloat16'",
    ),
    "lora": (plus("img_in.lora_A.weight", torch.ones(4, 8)), r"is an adapter \(LoRA\), not a backbone"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_file_that_does_not_fit_is_refused(tmp_path: Path, fault: str) -> None:
    change, message = FAULTS[fault]
    save_file(change(official("flux2")), tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=message) as problem:
        load(tmp_path / "model.safetensors")
    assert "model.safetensors" in str(problem.value)
    assert "\n" not in str(problem.value)


def test_runs_of_a_fused_weight_that_only_sum_up_are_refused(tmp_path: Path) -> None:
    save_diffusers(tiny("flux2"), tmp_path / "x")
    path = tmp_path / "x" / "diffusion_pytorch_model.safetensors"
    runs = {"to_q": 65, "to_k": 63}
    changed = {f"transformer_blocks.0.attn.{name}.weight": torch.ones(n, 64) for name, n in runs.items()}
    save_file({**load_file(path), **changed}, path)
    with pytest.raises(ValueError, match=r"attn.to_q.weight' \+ .* has runs of 65, 63, 64 rows, not of 64"):
        load(tmp_path / "x")


def test_plain_fp8_is_widened_when_asked(tmp_path: Path) -> None:
    narrow = {name: tensor.to(torch.float8_e4m3fn) for name, tensor in official("flux2").items()}
    save_file(narrow, tmp_path / "model.safetensors")
    loaded = load(tmp_path / "model.safetensors", dtype=torch.bfloat16)
    assert torch.equal(loaded.img_in.weight, narrow["img_in.weight"].to(torch.bfloat16))


STRANGERS = {
    "decoder.conv_in.weight": "is an autoencoder; give it to autoencoders.load",
    "model.layers.0.self_attn.q_proj.weight": "is a text encoder; give it to text.load",
    "transformer.double_blocks.0.img_mod.lin.lora_A.weight": "is an adapter",
    "model.diffusion_model.input_blocks.0.0.weight": "is a U-Net",
    "weight": "no backbone that flowlab knows; give .* FLUX",
}


@pytest.mark.parametrize("name", STRANGERS)
def test_a_file_of_another_kind_is_named(tmp_path: Path, name: str) -> None:
    save_file({name: torch.zeros(2, 2)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match=STRANGERS[name]):
        load(tmp_path / "other.safetensors")


def test_the_metadata_of_another_family_does_not_load(tmp_path: Path) -> None:
    described = {"family": "flux2", "spec": json.loads(json.dumps(tiny("flux2").spec.__dict__))}
    save_file(official("flux1"), tmp_path / "mixed.safetensors", {METADATA: json.dumps(described)})
    with pytest.raises(ValueError, match="says that it is FLUX.2, but its tensors are of a FLUX.1"):
        load(tmp_path / "mixed.safetensors")


def test_folders_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "transformer"
    save_diffusers(tiny("flux2"), folder)
    weights, config = folder / "diffusion_pytorch_model.safetensors", folder / "config.json"
    with safe_open(weights, "pt") as file:
        plain = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    save_file(plain, weights)  # no spec in it
    good = json.loads(config.read_text())
    for change, message in (
        (
            {"_class_name": "FluxTransformer2DModel"},
            "names FluxTransformer2DModel, but the tensors are of a Flux2",
        ),
        ({"patch_size": 2}, "has patch_size 2; flowlab has only 1"),
        ({"guidance_embeds": False}, "contradicts the file, which has a guidance embedding"),
        ({"axes_dims_rope": [8, 8]}, "must be 4 even numbers that add up"),
    ):
        config.write_text(json.dumps({**good, **change}))
        with pytest.raises(ValueError, match=message):
            load(folder)
    config.write_text(json.dumps(good))
    index = folder / "diffusion_pytorch_model.safetensors.index.json"
    places = dict.fromkeys(plain, weights.name)
    for placed, message in (
        ({**places, "proj_out.weight": "second.safetensors"}, "lacks the shard second.safetensors; fetch it"),
        ({**places, "more.weight": weights.name}, "disagree on 1 tensors, first 'more.weight'"),
        ({"proj_out.weight": "../elsewhere.safetensors"}, "places no tensors in files beside it"),
    ):
        index.write_text(json.dumps({"weight_map": placed}))
        with pytest.raises(ValueError, match=message):
            load(folder)
    for content in (
        "[]",
        "{}",
        '{"weight_map": ["model.safetensors"]}',
        '{"weight_map": {"proj_out.weight": 1}}',
    ):
        index.write_text(content)
        with pytest.raises(ValueError, match="places no tensors in files beside it"):
            load(folder)
    index.unlink()
    save_file(plain, folder / "twice.safetensors")
    with pytest.raises(
        ValueError, match="one set of safetensors, but has .*twice.safetensors; give the file"
    ):
        load(folder)
    (folder / "twice.safetensors").unlink()
    weights.unlink()
    with pytest.raises(ValueError, match="one set of safetensors, but has none"):
        load(folder)
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    with pytest.raises(ValueError, match="is a GGUF file"):
        load(tmp_path / "model.gguf")


def test_a_model_without_the_form_is_not_written(tmp_path: Path) -> None:
    sit = backbones.build("tiny", channels=4, grid=4, num_classes=3)
    for write in (save_official, save_diffusers):
        with pytest.raises(ValueError, match="a SiT is no FLUX"):
            write(sit, tmp_path / "x")
    with pytest.raises(
        ValueError, match="a Linear cannot be saved as a backbone; choose from: SiT, Flux1, Flux2"
    ):
        backbones.save(torch.nn.Linear(1, 1), tmp_path / "x")
    with pytest.raises(ValueError, match="diffusers' FLUX.1 has mlp_ratio 4 and theta 10000, this model 2"):
        save_diffusers(tiny("flux1", mlp_ratio=2.0), tmp_path / "x")
