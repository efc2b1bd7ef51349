"""Published files in and out: golden vectors, diffusers' classes, round trips to the bit, faults by name."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from flowlab.autoencoders import load, save, save_diffusers, save_official
from flowlab.autoencoders.base import Autoencoder
from flowlab.autoencoders.kl import KLAutoencoder, KLSpec
from flowlab.autoencoders.names import COUNTER, table
from flowlab.autoencoders.normalise import BatchStatistics, patchify
from flowlab.core.weights import read_weights, write_weights

GOLDEN = Path(__file__).parents[1] / "data"
KIND = "AutoencoderKL"
SMALL: dict[str, Any] = {"channels": 32, "num_res_blocks": 1}
SPECS = {
    "sd": KLSpec(latent_channels=4, multipliers=(1, 1, 2, 2), scale=0.18215, **SMALL),
    "sdxl": KLSpec(latent_channels=4, multipliers=(1, 1, 2, 2), scale=0.13025, **SMALL),
    "flux1": KLSpec(
        latent_channels=8, multipliers=(1, 2), quant_conv=False, scale=0.3611, shift=0.1159, **SMALL
    ),
    "sd3": KLSpec(
        latent_channels=8, multipliers=(1, 2), quant_conv=False, scale=1.5305, shift=0.0609, **SMALL
    ),
    "flux2": KLSpec(latent_channels=8, multipliers=(1, 2), normalisation="batchnorm", **SMALL),
    "small_decoder": KLSpec(
        latent_channels=8, multipliers=(1, 2), normalisation="batchnorm", decoder_channels=64, **SMALL
    ),
    "vavae": KLSpec(
        latent_channels=32,
        multipliers=(1, 1, 1, 1, 2),
        attention_levels=(4,),
        patch=1,
        normalisation="batchnorm",
        **SMALL,
    ),
}
FAMILY = {name: name for name in SPECS} | {"small_decoder": "flux2"}
SINGLE_FILE = {name: name if name in ("sdxl", "sd3") else None for name in SPECS}
"""The variant to ask for."""


@cache
def random_model(name: str) -> KLAutoencoder:
    """Shared by the tests: leave it as it is."""
    torch.manual_seed(0)
    model = KLAutoencoder(SPECS[name], name).eval().requires_grad_(False)
    if isinstance(model.normalise, BatchStatistics):
        model.normalise.running_mean.normal_()
        model.normalise.running_var.uniform_(2.9, 3.5)
    return model


@cache
def golden(family: str) -> dict[str, Tensor]:
    return read_weights(GOLDEN / f"{family}_autoencoder.safetensors")[0]


def official_tensors(family: str) -> dict[str, Tensor]:
    """The published names and values of a small random model of the family's own code."""
    return {k.removeprefix("weights."): t for k, t in golden(family).items() if k.startswith("weights.")}


def same(a: Autoencoder, b: Autoencoder) -> bool:
    own, other = a.state_dict(), b.state_dict()
    return own.keys() == other.keys() and all(torch.equal(own[key], other[key]) for key in own)


def pixels(side: int = 32) -> Tensor:
    return torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(1)) * 2 - 1


# ---- equals a reference ------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["flux1", "flux2"])
def test_golden_vectors_of_the_official_code(tmp_path, family):
    write_weights(tmp_path / "ae.safetensors", official_tensors(family))
    model = load(tmp_path / "ae.safetensors", family=family)
    latent = golden(family)["out.latent"]
    latent = patchify(latent, 2) if family == "flux1" else latent  # FLUX.1's is recorded before its packing
    torch.testing.assert_close(model.latents(golden(family)["in.pixels"]), latent, rtol=0, atol=2e-5)
    torch.testing.assert_close(model.decode(latent), golden(family)["out.decoded"], rtol=0, atol=2e-5)


@pytest.mark.parametrize("name", SPECS)
def test_a_saved_folder_is_that_of_the_real_class(tmp_path, name):
    """diffusers loads it strictly and computes the same; FLUX.2's normalisation is in its pipeline."""
    import diffusers

    model = random_model(name)
    save_diffusers(model, tmp_path)
    kind = json.loads((tmp_path / "config.json").read_text())["_class_name"]
    theirs, report = getattr(diffusers, kind).from_pretrained(
        tmp_path, output_loading_info=True, low_cpu_mem_usage=False
    )
    assert not any(report.values()), report
    with torch.no_grad():
        own, moments = model.encode(pixels()), theirs.encode(pixels()).latent_dist
        torch.testing.assert_close(own.mean, moments.mean, rtol=0, atol=2e-5)
        torch.testing.assert_close(own.logvar, moments.logvar, rtol=0, atol=2e-5)
        torch.testing.assert_close(
            model.decode_raw(own.mean), theirs.decode(own.mean).sample, rtol=0, atol=2e-5
        )
    if kind == KIND and theirs.config.latents_mean is None:
        config = theirs.config
        expected = (own.mean - (config.shift_factor or 0)) * config.scaling_factor
        torch.testing.assert_close(model.to_latent(own), patchify(expected, model.options.patch))


def test_a_folder_written_by_diffusers_itself(tmp_path):
    import diffusers

    torch.manual_seed(0)
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    sizes = {"block_out_channels": (16, 32), "norm_num_groups": 8, "latent_channels": 4, **blocks}
    kind: Any = getattr(diffusers, KIND)
    theirs = kind(scaling_factor=0.13025, **sizes).eval()
    theirs.save_pretrained(tmp_path)
    model = load(tmp_path, resolution=64)
    assert isinstance(model, KLAutoencoder)
    assert (model.options.groups, model.options.scale, model.spec.grid) == (8, 0.13025, 16)
    with torch.no_grad():
        mean = theirs.encode(pixels()).latent_dist.mean
        torch.testing.assert_close(model.encode(pixels()).mean, mean, rtol=0, atol=2e-5)


# ---- survives save and load --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SPECS)
def test_round_trips_are_equal_to_the_bit(tmp_path, name):
    """official => ours => diffusers => ours => our own file => ours."""
    start = random_model(name)
    save_official(start, tmp_path / "official.safetensors")
    model = load(tmp_path / "official.safetensors", variant=SINGLE_FILE[name])
    for step, (write, where) in enumerate(
        [(save_diffusers, "folder"), (save, "ours.safetensors"), (save_official, "again.safetensors")]
    ):
        assert isinstance(model, KLAutoencoder) and same(model, start), step
        assert model.options == start.options and model.spec.name.startswith(FAMILY[name])
        write(model, tmp_path / where)
        model = load(tmp_path / where, family=FAMILY[name])
    first, last = (read_weights(tmp_path / f"{file}.safetensors")[0] for file in ("official", "again"))
    assert first.keys() == last.keys() and all(torch.equal(first[key], last[key]) for key in first)


@pytest.mark.parametrize("family", ["flux1", "flux2"])
def test_official_names_come_back_as_they_were(tmp_path, family):
    tensors = official_tensors(family)
    write_weights(tmp_path / "in.safetensors", tensors)
    save_official(load(tmp_path / "in.safetensors"), tmp_path / "out.safetensors")
    out = read_weights(tmp_path / "out.safetensors")[0]
    assert out.keys() == tensors.keys()
    assert all(torch.equal(out[key], tensors[key].float()) for key in tensors if key != COUNTER)


def test_a_fitted_scale_survives_every_format(tmp_path):
    model = deepcopy(random_model("sd"))
    model.fit_normalisation(torch.randn(8, 4, 4, 4) * 3 + 0.3)
    save_official(model, tmp_path / "a.safetensors")
    save_diffusers(model, tmp_path / "folder")
    save(model, tmp_path / "ours.safetensors")
    for place in ("a.safetensors", "folder", "ours.safetensors"):
        again = load(tmp_path / place)
        assert isinstance(again, KLAutoencoder) and same(again, model), place


@pytest.mark.parametrize("prefix", ["first_stage_model.", "vae."])
def test_the_autoencoder_inside_a_whole_checkpoint(tmp_path, prefix):
    model = random_model("sd")
    save_official(model, tmp_path / "plain.safetensors")
    plain = read_weights(tmp_path / "plain.safetensors")[0]
    whole = {prefix + key: tensor for key, tensor in plain.items()}
    whole["model.diffusion_model.out.2.weight"] = torch.zeros(2)
    write_weights(tmp_path / "whole.safetensors", whole)
    torch.save({"state_dict": plain | {"loss.logvar": torch.zeros(())}}, tmp_path / "training.ckpt")
    for name in ("whole.safetensors", "training.ckpt"):
        again = load(tmp_path / name)
        assert isinstance(again, KLAutoencoder) and same(again, model), name


@pytest.mark.parametrize("naming", ["diffusers", "diffusers_2022"])
def test_a_diffusers_file_without_its_config(tmp_path, naming):
    model = random_model("sd")
    own = model.state_dict()
    renamed = {theirs: own[ours] for ours, theirs in table(model.options, "ours", naming).items()}
    write_weights(tmp_path / "a.safetensors", renamed)
    again = load(tmp_path / "a.safetensors")
    assert isinstance(again, KLAutoencoder) and same(again, model)


def test_batchnorms_counter_may_be_absent(tmp_path):
    tensors = official_tensors("flux2")
    write_weights(tmp_path / "with.safetensors", tensors)
    write_weights(tmp_path / "without.safetensors", {k: t for k, t in tensors.items() if k != COUNTER})
    with_it, without = (load(tmp_path / f"{name}.safetensors") for name in ("with", "without"))
    assert with_it.identity == without.identity


# ---- what files cannot tell --------------------------------------------------------------------------------


def test_variants_and_overrides(tmp_path):
    save_official(random_model("sd"), tmp_path / "a.safetensors")
    tensors = read_weights(tmp_path / "a.safetensors")[0]
    write_weights(tmp_path / "a.safetensors", tensors)  # as published: without our metadata
    options = [
        ({}, 0.18215),
        ({"variant": "sdxl"}, 0.13025),
        ({"family": "sdxl"}, 0.13025),
        ({"scale": 0.5}, 0.5),
        ({"scale": 0.5, "family": "sdxl"}, 0.5),
    ]
    for settings, scale in options:
        model = load(tmp_path / "a.safetensors", **settings)
        assert isinstance(model, KLAutoencoder) and model.options.scale == scale
        assert float(model.normalise.scale) == pytest.approx(scale)
    assert load(tmp_path / "a.safetensors", resolution=512).spec.grid == 32
    half = load(tmp_path / "a.safetensors", dtype=torch.bfloat16)
    assert isinstance(half, KLAutoencoder) and half.encoder.conv_in.weight.dtype == torch.bfloat16
    assert half.normalise.scale.dtype == torch.float32
    with pytest.raises(
        ValueError, match="unknown field of KLSpec 'size'; choose from: latent_channels, channels"
    ):
        load(tmp_path / "a.safetensors", size=3)


def test_an_unknown_dtype_lists_the_known(tmp_path):
    with pytest.raises(ValueError, match="unknown dtype 'int4'; choose from: float32, bfloat16, float16"):
        load(tmp_path / "a.safetensors", dtype="int4")


@pytest.mark.parametrize("name", ["flux1", "flux2"])
def test_half_weights_answer_in_float32(tmp_path, name):
    save_official(random_model(name), tmp_path / "a.safetensors")
    half = load(tmp_path / "a.safetensors", dtype="bfloat16")
    latent = half.latents(torch.rand(1, 3, 32, 32) * 2 - 1)
    assert latent.dtype == half.decode(latent).dtype == torch.float32


@pytest.mark.parametrize("name", SPECS)
def test_the_spec_names_its_family(name):
    assert random_model(name).spec.family == {"small_decoder": "flux2"}.get(name, name)
    assert load("flux2").spec.family == "kl", "the small ones that ship"


def test_published_names_of_scale_and_shift(tmp_path):
    write_weights(tmp_path / "a.safetensors", official_tensors("flux1"))
    found = load(tmp_path / "a.safetensors", scale_factor=0.5, shift_factor=0.25)
    pixels = torch.rand(1, 3, 32, 32) * 2 - 1
    moments = found.encode(pixels)
    torch.testing.assert_close(found.to_latent(moments), patchify(0.5 * (moments.mean - 0.25), 2))


@pytest.mark.parametrize("name", ["sd", "flux1", "flux2"])
def test_folders_in_every_form(tmp_path, name):
    """A pipeline, shards, a variant of lower precision, no class in the config, no config."""
    model, folder = random_model(name), tmp_path / "pipeline" / "vae"
    save_diffusers(model, folder)
    (tmp_path / "pipeline" / "model_index.json").write_text("{}")
    assert same(load(tmp_path / "pipeline"), model)
    whole = folder / "diffusion_pytorch_model.safetensors"
    tensors = read_weights(whole)[0]
    half = {key: tensor.half() for key, tensor in tensors.items()}
    write_weights(folder / "diffusion_pytorch_model.fp16.safetensors", half)
    assert same(load(folder), model)
    (folder / "diffusion_pytorch_model.fp16.safetensors").unlink()
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(
        json.dumps({key: value for key, value in config.items() if key != "_class_name"})
    )
    assert same(load(folder), model)
    names = sorted(tensors)
    places = {}
    for i, part in enumerate((names[::2], names[1::2])):
        write_weights(folder / f"part-{i}.safetensors", {key: tensors[key] for key in part})
        places |= dict.fromkeys(part, f"part-{i}.safetensors")
    whole.unlink()
    index = folder / "diffusion_pytorch_model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": places}))
    assert same(load(folder), model)
    (folder / "config.json").unlink()
    options = model.options
    constants: dict[str, Any] = {} if name == "flux2" else {"scale": options.scale, "shift": options.shift}
    variant = {"sd": "sd", "flux1": "flux1"}.get(name)
    assert same(load(folder, variant=variant, **constants), model)


def test_a_file_of_ours_in_official_names_keeps_its_own_scale(tmp_path):
    save_official(random_model("sd"), tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match="this is a Stable Diffusion autoencoder, not SDXL"):
        load(tmp_path / "a.safetensors", variant="sdxl")


def test_a_folder_of_before_safetensors(tmp_path):
    save_diffusers(random_model("sd"), tmp_path)
    weights = tmp_path / "diffusion_pytorch_model.safetensors"
    torch.save(read_weights(weights)[0], weights.with_suffix(".bin"))
    weights.unlink()
    again = load(tmp_path)
    assert isinstance(again, KLAutoencoder) and same(again, random_model("sd"))


def test_an_override_of_the_scale_reaches_our_own_files(tmp_path):
    save(random_model("sd"), tmp_path / "ours.safetensors")
    model = load(tmp_path / "ours.safetensors", scale=0.5)
    assert isinstance(model, KLAutoencoder) and float(model.normalise.scale) == 0.5


# ---- faults ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("written", [save_official, save_diffusers, save])
@pytest.mark.parametrize(
    ("name", "expected", "message"),
    [
        ("flux1", "flux2", "this is a FLUX.1 autoencoder, not FLUX.2"),
        ("flux2", "flux1", "this is a FLUX.2 autoencoder, not FLUX.1"),
        ("sd", "flux1", "this is a Stable Diffusion autoencoder, not FLUX.1"),
        ("flux2", "rae", "this is a FLUX.2 autoencoder, not RAE"),
        ("sd", "flux3", "unknown .*family 'flux3'; choose from: sd, sdxl, flux1"),
    ],
)
def test_another_family_is_named_for_what_it_is(tmp_path, written: Callable, name, expected, message):
    path = tmp_path / ("folder" if written is save_diffusers else "a.safetensors")
    written(random_model(name), path)
    with pytest.raises(ValueError, match=message):
        load(path, family=expected)


def test_a_config_settles_sd_against_sdxl(tmp_path):
    save_diffusers(random_model("sdxl"), tmp_path)
    assert load(tmp_path, family="sdxl").spec.name.startswith("sdxl")
    with pytest.raises(ValueError, match="this is an SDXL autoencoder, not Stable Diffusion"):
        load(tmp_path, family="sd")
    with pytest.raises(ValueError, match="variant='sd': .* itself says what it is"):
        load(tmp_path, variant="sd")


def _with(key: str, tensor: Tensor) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    return lambda tensors: tensors | {key: tensor}


def _without(key: str) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    return lambda tensors: {name: tensor for name, tensor in tensors.items() if name != key}


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_without("decoder.mid.block_1.conv1.bias"), "lacks 'decoder.mid.block_1.conv1.bias' of a FLUX.2"),
        (_without("bn.running_var"), "lacks 'bn.running_var' of a FLUX.2"),
        (_without("bn.running_mean"), "lacks 'bn.running_mean'; fetch"),
        (_without("encoder.conv_in.weight"), "lacks 'encoder.conv_in.weight'; fetch"),
        (
            _with("decoder.extra.weight", torch.zeros(1)),
            "has the unknown tensor 'decoder.extra.weight' of a FLUX",
        ),
        (_with("encoder.norm_out.bias", torch.full((64,), torch.nan)), "'encoder.norm_out.bias' holds NaN"),
        (_with("bn.running_var", torch.full((32,), torch.inf)), "'bn.running_var' holds NaN or infinity"),
        (_with("decoder.mid.block_1.conv1.bias", torch.zeros(3)), r"conv1.bias' is \(3,\), expected \(64,\)"),
        (lambda tensors: {"double_blocks.0.x": torch.zeros(1)}, "is a FLUX transformer; expected a convolu"),
        (lambda tensors: {"a": torch.zeros(1)}, "no autoencoder of a known naming .*first tensor: 'a'"),
    ],
)
def test_damaged_files_are_named(tmp_path, damage, message):
    write_weights(tmp_path / "a.safetensors", damage(official_tensors("flux2")))
    with pytest.raises(ValueError, match=message) as caught:
        load(tmp_path / "a.safetensors")
    assert "\n" not in str(caught.value)


def test_damaged_folders_are_named(tmp_path):
    with pytest.raises(ValueError, match="should hold one set of safetensors, but has none"):
        load(tmp_path)
    save_diffusers(random_model("sd"), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    for change, message in [
        ({"latent_channels": 16}, "says 16 latent channels, the weights have 4"),
        (
            {"_class_name": "AutoencoderKLFlux2", "latent_channels": 4},
            "but the weights lack 'bn.running_mean'",
        ),
        ({"_class_name": "UNet2DModel"}, "unknown autoencoder class .* 'UNet2DModel'; choose from"),
    ]:
        (tmp_path / "config.json").write_text(json.dumps(config | change))
        with pytest.raises(ValueError, match=message):
            load(tmp_path)


def test_a_flux2_autoencoder_of_another_build_is_refused(tmp_path):
    """The general adapter would leave its BatchNorm statistics out."""
    save_diffusers(random_model("flux2"), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    for change in ({"batch_norm_eps": 1e-5}, {"patch_size": [2, 1]}):
        (tmp_path / "config.json").write_text(json.dumps(config | change))
        with pytest.raises(ValueError, match="describes an AutoencoderKLFlux2 unlike any published"):
            load(tmp_path)


def test_pickles_of_before_2020_are_read_and_damaged_ones_named(tmp_path):
    model = random_model("sd")
    save_official(model, tmp_path / "a.safetensors")
    tensors = read_weights(tmp_path / "a.safetensors")[0]
    torch.save(tensors, tmp_path / "old.ckpt", _use_new_zipfile_serialization=False)
    again = load(tmp_path / "old.ckpt")
    assert isinstance(again, KLAutoencoder) and same(again, model)
    torch.save(tensors, tmp_path / "new.ckpt")
    whole = (tmp_path / "new.ckpt").read_bytes()
    for content in (whole[: len(whole) // 2], b""):
        (tmp_path / "a.ckpt").write_bytes(content)
        with pytest.raises(
            ValueError, match=r"a.ckpt cannot be read safely \(.+\); fetch it again"
        ) as caught:
            load(tmp_path / "a.ckpt")
        assert "\n" not in str(caught.value)


def test_a_config_that_is_no_table_is_named(tmp_path):
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(ValueError, match="config.json holds no settings by name; fetch it again"):
        load(tmp_path)


def test_a_pickle_with_code_in_it_is_refused(tmp_path):
    torch.save({"state_dict": {"a": torch.nn.Identity()}}, tmp_path / "a.ckpt")
    with pytest.raises(ValueError, match="cannot be read safely .*convert it to .safetensors"):
        load(tmp_path / "a.ckpt")


def test_what_a_format_cannot_hold_is_said(tmp_path):
    small = KLAutoencoder(replace(SPECS["sd"], linear_path=True), "mine")
    for write in (save_official, save_diffusers):
        with pytest.raises(ValueError, match="mine has a linear path, which no published format holds"):
            write(small, tmp_path / "a")
    wide = KLAutoencoder(replace(SPECS["sd"], decoder_channels=64), "wide")
    with pytest.raises(ValueError, match="wide has decoder_channels=64; AutoencoderKL has one width"):
        save_diffusers(wide, tmp_path / "a")
    with pytest.raises(ValueError, match="rae has no official single file; use autoencoders.save_diffusers"):
        save_official(load("rae"), tmp_path / "a")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        save_official(random_model("sd"), tmp_path / "b.safetensors")
