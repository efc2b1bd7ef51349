"""LoRA files in every style of keys, and what they add to the weights."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.backbones.tiny_flux import tiny
from torch import Tensor

from flowlab import backbones
from flowlab.backbones import lora
from flowlab.backbones.flux1 import Flux1
from flowlab.backbones.flux2 import Flux2
from flowlab.backbones.flux_names import Layout, sources
from flowlab.backbones.lora_names import Key, parse, target
from flowlab.layers.packed import pack_linears

RANK, WIDTH = 4, 64
FAMILIES = ("flux1", "flux2")
LAYOUTS = {name: Layout(family=name, double_blocks=2, single_blocks=3, guidance=True) for name in FAMILIES}


def pair(rows: int, columns: int, seed: int, rank: int = RANK) -> tuple[Tensor, Tensor]:
    """Down (rank, columns) and up (rows, rank)."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rank, columns, generator=generator), torch.randn(rows, rank, generator=generator)


def linears(family: str) -> dict[str, Tensor]:
    """Every matrix of the tiny model."""
    return {name: w.detach() for name, w in tiny(family).state_dict().items() if w.ndim == 2}


def merged(family: str, path: Path, scale: float = 1.0) -> Flux1 | Flux2:
    model = tiny(family)
    lora.merge(model, lora.read(path), scale)
    return model


# ---- merged weights equal the product ----------------------------------------------------------------------

STYLES: dict[str, Callable[[str], tuple[str, str]]] = {
    #                    official module => names of down and up
    "comfyui": lambda m: (f"diffusion_model.{m}.lora_A.weight", f"diffusion_model.{m}.lora_B.weight"),
    "comfyui_down": lambda m: (
        f"diffusion_model.{m}.lora_down.weight",
        f"diffusion_model.{m}.lora_up.weight",
    ),
    "comfyui_whole": lambda m: (
        f"model.diffusion_model.{m}.lora_A.weight",
        f"model.diffusion_model.{m}.lora_B.weight",
    ),
    "bfl": lambda m: (f"{m}.lora_A.weight", f"{m}.lora_B.weight"),
    "peft": lambda m: (
        f"base_model.model.{m}.lora_A.default.weight",
        f"base_model.model.{m}.lora_B.default.weight",
    ),
    "kohya": lambda m: (
        f"lora_unet_{m.replace('.', '_')}.lora_down.weight",
        f"lora_unet_{m.replace('.', '_')}.lora_up.weight",
    ),
}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("style", STYLES)
def test_every_module_in_official_names(tmp_path: Path, family: str, style: str) -> None:
    """Fused rows and the final halves as they stand; alpha 6 of half of the modules, else the rank."""
    table = sources(LAYOUTS[family], "official")
    file, expected = {}, {}
    for seed, (name, weight) in enumerate(linears(family).items()):
        module = table[name].names[0].removesuffix(".weight")
        down_name, up_name = STYLES[style](module)
        down, up = pair(len(weight), weight.shape[1], seed)
        file[down_name], file[up_name] = down, up
        if seed % 2:
            file[down_name.replace(".lora_down.weight", "").split(".lora_A")[0] + ".alpha"] = torch.tensor(
                6.0
            )
        expected[name] = weight + 0.5 * (6 / RANK if seed % 2 else 1) * up @ down
    save_file(file, tmp_path / "lora.safetensors")
    after = merged(family, tmp_path / "lora.safetensors", 0.5).state_dict()
    for name, weight in expected.items():
        torch.testing.assert_close(after[name], weight, rtol=1e-5, atol=1e-5)
    before = tiny(family).state_dict()
    assert all(torch.equal(after[name], before[name]) for name in before.keys() - expected.keys())


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    "prefix", ["transformer.", "base_model.model.", "base_model.model.transformer.", "kohya"]
)
def test_every_module_in_diffusers_names(tmp_path: Path, family: str, prefix: str) -> None:
    """The same as adding each product to the tensor of that name in diffusers' own file."""
    backbones.save_diffusers(tiny(family), tmp_path / "base")
    weights = tmp_path / "base" / "diffusion_pytorch_model.safetensors"
    theirs, file = load_file(weights), {}
    for seed, name in enumerate(sorted(name for name, weight in theirs.items() if weight.ndim == 2)):
        down, up = pair(len(theirs[name]), theirs[name].shape[1], seed, rank=2 + seed % 3)
        module = name.removesuffix(".weight")
        if prefix == "kohya":
            module = f"lora_transformer_{module.replace('.', '_')}"
            file[f"{module}.lora_down.weight"], file[f"{module}.lora_up.weight"] = down, up
        else:
            file[f"{prefix}{module}.lora_A.weight"], file[f"{prefix}{module}.lora_B.weight"] = down, up
        theirs[name] = theirs[name] + up @ down
    save_file(theirs, weights)
    save_file(file, tmp_path / "lora.safetensors")
    axes = tiny(family).spec.axes
    expected = backbones.load(tmp_path / "base", axes=axes).state_dict()
    after = merged(family, tmp_path / "lora.safetensors").state_dict()
    for name in after:
        torch.testing.assert_close(after[name], expected[name], rtol=1e-5, atol=1e-5)


def test_a_split_projection_changes_its_rows_alone(tmp_path: Path) -> None:
    """diffusers' to_v is the third run of qkv; FLUX.1's proj_mlp is what follows q, k and v."""
    down, up = pair(WIDTH, WIDTH, 0)
    name = "transformer.transformer_blocks.1.attn.to_v"
    save_file({f"{name}.lora_A.weight": down, f"{name}.lora_B.weight": up}, tmp_path / "v.safetensors")
    for family in FAMILIES:
        change = merged(family, tmp_path / "v.safetensors").state_dict()
        change = (
            change["double_blocks.1.img_attn.qkv.weight"]
            - linears(family)["double_blocks.1.img_attn.qkv.weight"]
        )
        assert not change[: 2 * WIDTH].any()
        torch.testing.assert_close(change[2 * WIDTH :], up @ down, rtol=1e-4, atol=1e-4)
    down, up = pair(4 * WIDTH, WIDTH, 1)
    name = "transformer.single_transformer_blocks.0.proj_mlp"
    save_file({f"{name}.lora_A.weight": down, f"{name}.lora_B.weight": up}, tmp_path / "mlp.safetensors")
    change = merged("flux1", tmp_path / "mlp.safetensors").state_dict()["single_blocks.0.linear1.weight"]
    change = change - linears("flux1")["single_blocks.0.linear1.weight"]
    assert not change[: 3 * WIDTH].any()
    torch.testing.assert_close(change[3 * WIDTH :], up @ down, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_final_halves_are_swapped_for_diffusers_alone(tmp_path: Path, family: str) -> None:
    down, up = pair(2 * WIDTH, WIDTH, 0)
    change = {}
    for name in ("transformer.norm_out.linear", "diffusion_model.final_layer.adaLN_modulation.1"):
        save_file({f"{name}.lora_A.weight": down, f"{name}.lora_B.weight": up}, tmp_path / "x.safetensors")
        after = merged(family, tmp_path / "x.safetensors").state_dict()["final_layer.modulation.lin.weight"]
        change[name[0]] = after - linears(family)["final_layer.modulation.lin.weight"]
    torch.testing.assert_close(change["d"], up @ down, rtol=1e-4, atol=1e-4)
    swapped = torch.cat([up[WIDTH:], up[:WIDTH]]) @ down
    torch.testing.assert_close(change["t"], swapped, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("style", ["kohya", "comfyui"])
def test_diffusers_converts_to_the_same(tmp_path: Path, style: str) -> None:
    """Its own converters of FLUX.2 files, whose result we read in PEFT's style.

    Not the final modulation: one of them renames it without swapping its halves, the other leaves it out.
    """
    from diffusers.loaders import lora_conversion_utils as theirs

    convert = {
        "kohya": theirs._convert_kohya_flux2_lora_to_diffusers,
        "comfyui": theirs._convert_non_diffusers_flux2_lora_to_diffusers,
    }
    table = sources(LAYOUTS["flux2"], "official")
    file = {}
    for seed, (name, weight) in enumerate(linears("flux2").items()):
        module = table[name].names[0].removesuffix(".weight")
        if name.startswith(("double_blocks", "single_blocks", "img_in", "txt_in", "time_in")):
            down_name, up_name = STYLES[style](module)
            file[down_name], file[up_name] = pair(len(weight), weight.shape[1], seed)
            if style == "kohya":
                file[down_name.replace(".lora_down.weight", ".alpha")] = torch.tensor(2.0)
    save_file(file, tmp_path / "given.safetensors")
    converted = {name: tensor.contiguous().clone() for name, tensor in convert[style](dict(file)).items()}
    save_file(converted, tmp_path / "converted.safetensors")
    ours = merged("flux2", tmp_path / "given.safetensors").state_dict()
    reference = merged("flux2", tmp_path / "converted.safetensors").state_dict()
    before = tiny("flux2").state_dict()
    assert sum(not torch.equal(ours[name], before[name]) for name in before) == len(file) // (
        3 if style == "kohya" else 2
    )
    for name, weight in reference.items():
        torch.testing.assert_close(ours[name], weight, rtol=1e-4, atol=1e-4)


# ---- scale -------------------------------------------------------------------------------------------------

SETTINGS = (
    ({}, 1.0),
    ({"lora_alpha": 8, "r": RANK}, 2.0),
    ({"lora_alpha": 8, "use_rslora": True}, 8 / math.sqrt(RANK)),
    ({"lora_alpha": 8, "alpha_pattern": {"transformer_blocks.0.attn.to_out.0": 2}}, 0.5),
    ({"lora_alpha": 8, "alpha_pattern": {"to_q": 2}}, 2.0),
)


@pytest.mark.parametrize(("settings", "scale"), SETTINGS)
@pytest.mark.parametrize("where", ["peft", "diffusers"])
def test_alpha_comes_from_the_configuration(tmp_path: Path, settings: dict, scale: float, where: str) -> None:
    """PEFT's adapter_config.json in its folder, or the metadata that diffusers itself writes."""
    down, up = pair(WIDTH, WIDTH, 0)
    name = "transformer_blocks.0.attn.to_out.0"
    if where == "peft":
        file = {f"base_model.model.{name}.lora_A.weight": down, f"base_model.model.{name}.lora_B.weight": up}
        save_file(file, tmp_path / "adapter_model.safetensors")
        (tmp_path / "adapter_config.json").write_text(json.dumps(settings))
    else:
        from diffusers.loaders.lora_pipeline import Flux2LoraLoaderMixin

        layers: dict[str, torch.nn.Module | Tensor] = {
            f"{name}.lora_A.weight": down,
            f"{name}.lora_B.weight": up,
        }
        Flux2LoraLoaderMixin.save_lora_weights(
            tmp_path, layers, transformer_lora_adapter_metadata=settings or None
        )
    after = merged("flux2", tmp_path).state_dict()["double_blocks.0.img_attn.proj.weight"]
    expected = linears("flux2")["double_blocks.0.img_attn.proj.weight"] + scale * up @ down
    torch.testing.assert_close(after, expected, rtol=1e-5, atol=1e-5)


def test_half_precision_sums_in_float32(tmp_path: Path) -> None:
    down, up = pair(WIDTH, WIDTH, 0)
    name = "double_blocks.0.img_attn.proj"
    file = {f"{name}.lora_A.weight": down.bfloat16(), f"{name}.lora_B.weight": up.bfloat16()}
    save_file(file, tmp_path / "x.safetensors")
    model = tiny("flux2").bfloat16()
    before = model.state_dict()[f"{name}.weight"].float()
    lora.merge(model, lora.read(tmp_path / "x.safetensors"), 0.1)
    exact = before + 0.1 * (up.bfloat16().float() @ down.bfloat16().float())
    assert torch.equal(model.state_dict()[f"{name}.weight"], exact.bfloat16())


def test_what_is_read_is_told_in_our_names(tmp_path: Path) -> None:
    file = {}
    for module, rank in (("attn.to_q", 3), ("attn.to_k", 2), ("ff.linear_in", 4)):
        down, up = pair(384 if "ff" in module else WIDTH, WIDTH, 0, rank)
        file[f"transformer.transformer_blocks.1.{module}.lora_A.weight"] = down
        file[f"transformer.transformer_blocks.1.{module}.lora_B.weight"] = up
    save_file(file, tmp_path / "x.safetensors")
    read = lora.read(tmp_path / "x.safetensors")
    assert read.ranks == {"double_blocks.1.img_attn.qkv": 5, "double_blocks.1.img_mlp.in_layer": 4}
    assert read.families == {"flux2"}


def test_keys_are_taken_apart() -> None:
    key = "lora_unet_double_blocks_12_img_mlp_0.lora_down.weight"
    assert parse(key) == Key("double_blocks_12_img_mlp_0", "down")
    assert parse("base_model.model.transformer.x_embedder.alpha") == Key("x_embedder", "alpha")
    assert parse("x_embedder.weight") is None
    found = target("double_blocks_12_img_mlp_0")
    assert found is not None
    assert (found.module, found.part) == ("double_blocks.12.img_mlp.in_layer", None)
    assert target("double_blocks.0.img_attn.norm.query_norm") is None
    assert target("double_blocks.0") is None


# ---- what is refused ---------------------------------------------------------------------------------------


def written(tmp_path: Path, name: str, rows: int = WIDTH, columns: int = WIDTH) -> Path:
    down, up = pair(rows, columns, 0)
    save_file({f"{name}.lora_A.weight": down, f"{name}.lora_B.weight": up}, tmp_path / "x.safetensors")
    return tmp_path / "x.safetensors"


@pytest.mark.parametrize(
    ("family", "name", "rows", "message"),
    [
        (
            "flux2",
            "double_blocks.0.img_mod.lin",
            384,
            "x.safetensors is a LoRA of FLUX.1; this model is a FLUX.2",
        ),
        ("flux1", "transformer_blocks.0.ff.linear_in", 384, "is a LoRA of FLUX.2; this model is a FLUX.1"),
        (
            "flux1",
            "single_blocks.0.linear1",
            576,
            r"'single_blocks.0.linear1' is \(448, 64\) in this model, \(576",
        ),
        (
            "flux2",
            "double_blocks.9.img_attn.proj",
            64,
            r"1 of its 1 modules are not in this FLUX.2 of 2 \+ 3",
        ),
        (
            "flux2",
            "transformer_blocks.0.attn.to_q",
            65,
            r"img_attn.qkv' is \(64, 64\) in this model, \(65, 64\)",
        ),
    ],
)
def test_an_adapter_of_another_model_changes_nothing(
    tmp_path: Path, family: str, name: str, rows: int, message: str
) -> None:
    path, model = written(tmp_path, name, rows), tiny(family)
    with pytest.raises(ValueError, match=message) as problem:
        lora.merge(model, lora.read(path))
    assert "\n" not in str(problem.value)
    before = tiny(family).state_dict()
    assert all(torch.equal(weight, before[key]) for key, weight in model.state_dict().items())


GOOD = "diffusion_model.double_blocks.0.img_attn.proj"
BAD = {
    "processor.qkv_lora1.down.weight": "1 keys of 3 that are of no FLUX LoRA, first 'processor.qkv",
    "diffusion_model.double_blocks.0.img_attn.lora_A.weight": "1 keys of 3 .* first 'diffusion_model.double",
    "base_model.model.double_blocks.0.img_attn.proj.lora_A.weight": "1 keys of 3 ",
    f"{GOOD}.lokr_w1": "is a LoKr: ",
    f"{GOOD}.hada_w1_a": "is a LoHa: ",
    f"{GOOD}.dora_scale": "is a DoRA: ",
    f"{GOOD}.diff": "is a set of full differences: ",
    f"{GOOD}.diff_b": "is a set of full differences: ",
    "lora_te1_text_model_encoder_layers_0_mlp_fc1.lora_down.weight": "changes a text encoder, too: 'lora_te1",
    "diffusion_model.txt_in.lora_B.weight": "has no 'down' matrix for 'txt_in'",
}


@pytest.mark.parametrize("key", BAD)
def test_keys_that_do_not_match_are_named(tmp_path: Path, key: str) -> None:
    down, up = pair(WIDTH, WIDTH, 0)
    file = {f"{GOOD}.lora_A.weight": down, f"{GOOD}.lora_B.weight": up, key: torch.ones(2, 2)}
    save_file(file, tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match=BAD[key]) as problem:
        lora.read(tmp_path / "x.safetensors")
    assert "x.safetensors" in str(problem.value)
    assert "\n" not in str(problem.value)


def test_files_that_are_no_adapter(tmp_path: Path) -> None:
    backbones.save(tiny("flux2"), tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="that are of no FLUX LoRA, first 'double_blocks.0.img_attn"):
        lora.read(tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="no weights at .*absent"):
        lora.read(tmp_path / "absent.safetensors")
    with pytest.raises(ValueError, match="has neither adapter_model nor pytorch_lora_weights"):
        lora.read(tmp_path)
    down, up = pair(WIDTH, WIDTH, 0)
    name = "double_blocks.0.img_attn.proj"
    save_file({f"{name}.lora_A.weight": down[1:], f"{name}.lora_B.weight": up}, tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match=r"'double_blocks.0.img_attn.proj' are \(64, 4\) and \(3, 64\)"):
        lora.read(tmp_path / "x.safetensors")
    both = {"double_blocks.0.img_mod.lin": 384, "single_stream_modulation.lin": 192}
    mixed = {f"{n}.lora_A.weight": down.clone() for n in both}
    mixed |= {f"{n}.lora_B.weight": torch.ones(rows, RANK) for n, rows in both.items()}
    save_file(mixed, tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match="mixes FLUX.1 .'double_blocks.0.img_mod.lin'. and FLUX.2"):
        lora.read(tmp_path / "x.safetensors")
    file = {f"{name}.lora_A.weight": down, f"{name}.lora_B.weight": up * torch.nan}
    save_file(file, tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match="img_attn.proj.lora_B.weight' holds NaN"):
        lora.read(tmp_path / "x.safetensors")


def test_a_packed_model_takes_none(tmp_path: Path) -> None:
    model = tiny("flux2")
    pack_linears(model.single_blocks)
    with pytest.raises(ValueError, match="cannot be saved or changed; load it anew"):
        lora.merge(model, lora.read(written(tmp_path, "double_blocks.0.img_attn.proj")))


def test_a_sit_takes_none(tmp_path: Path) -> None:
    sit = backbones.build("tiny", channels=4, grid=4, num_classes=3)
    with pytest.raises(ValueError, match="is a LoRA of FLUX; a SiT takes none"):
        lora.merge(sit, lora.read(written(tmp_path, "double_blocks.0.img_attn.proj")))


# ---- control LoRAs -----------------------------------------------------------------------------------------


def control_lora(path: Path) -> dict[str, Tensor]:
    """As BFL's Canny and Depth: every linear with a bias, norm scales, twice the channels in the first."""
    generator = torch.Generator().manual_seed(3)
    table = sources(LAYOUTS["flux1"], "official")
    file = {}
    for seed, (name, weight) in enumerate(linears("flux1").items()):
        module = table[name].names[0].removesuffix(".weight")
        columns = 16 if module == "img_in" else weight.shape[1]
        down, up = pair(len(weight), columns, seed)
        file |= {f"{module}.lora_A.weight": down, f"{module}.lora_B.weight": up}
        file[f"{module}.lora_B.bias"] = torch.randn(len(weight), generator=generator)
    for ours, source in table.items():
        if ours.endswith(".scale"):
            file[source.names[0]] = torch.randn(32, generator=generator)
    save_file(file, path)
    return file


@torch.no_grad()
def test_a_control_lora_changes_biases_norms_and_the_first_layer(tmp_path: Path) -> None:
    file, before = control_lora(tmp_path / "canny.safetensors"), tiny("flux1").state_dict()
    model = merged("flux1", tmp_path / "canny.safetensors", scale=0.5)
    assert model.spec.entry_channels == 16 and model.img_in.in_features == 16
    after, table = model.state_dict(), sources(LAYOUTS["flux1"], "official")
    for ours, source in table.items():
        (name,) = source.names
        if ours.endswith(".scale"):
            expected = file[name]
        elif ours.endswith(".bias"):
            expected = before[ours] + 0.5 * file[f"{name.removesuffix('.bias')}.lora_B.bias"]
        else:
            module = name.removesuffix(".weight")
            old = before[ours]
            old = torch.cat([old, torch.zeros_like(old)], 1) if ours == "img_in.weight" else old
            expected = old + 0.5 * file[f"{module}.lora_B.weight"] @ file[f"{module}.lora_A.weight"]
        torch.testing.assert_close(after[ours], expected, rtol=1e-5, atol=1e-5)
    backbones.save(model, tmp_path / "merged.safetensors")
    assert backbones.load(tmp_path / "merged.safetensors").spec == model.spec
    latent, text = torch.randn(1, 8, 2, 2), torch.randn(1, 5, 24)
    given: dict[str, Any] = {"pooled": torch.randn(1, 12), "guidance": torch.tensor([30.0])}
    t, maps = torch.tensor([0.5]), torch.randn(2, 1, 8, 2, 2)
    one, two = (model.velocity(latent, t, text, concat=control, **given) for control in maps)
    assert not torch.allclose(one, two), "it sees the map"


def test_a_control_lora_fits_no_flux2_and_no_control_model(tmp_path: Path) -> None:
    control_lora(tmp_path / "canny.safetensors")
    adapter = lora.read(tmp_path / "canny.safetensors")
    wide = tiny("flux1", in_channels=24)
    for model, message in (
        (tiny("flux2"), "is a LoRA of FLUX.1; this model is a FLUX.2"),
        (wide, "'img_in' is .*64, 24.* in this model, .*64, 16.* in the LoRA"),
    ):
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        with pytest.raises(ValueError, match=message):
            lora.merge(model, adapter)
        assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_peft_settings_are_read_beside_a_file_of_any_name(tmp_path: Path) -> None:
    down, up = pair(WIDTH, WIDTH, 0)
    module = "base_model.model.double_blocks.0.img_attn.proj"
    save_file(
        {f"{module}.lora_A.weight": down, f"{module}.lora_B.weight": up}, tmp_path / "style.safetensors"
    )
    (tmp_path / "adapter_config.json").write_text(json.dumps({"lora_alpha": 8, "r": RANK}))
    (piece,) = lora.read(tmp_path / "style.safetensors").pieces["double_blocks.0.img_attn.proj"]
    assert piece.scale == 2.0
