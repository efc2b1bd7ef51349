"""The shipped autoencoders: they load, reconstruct as promised, and survive their files."""

from __future__ import annotations

import pytest
import torch

from flowlab.autoencoders import load, save, save_diffusers, save_official
from flowlab.autoencoders.sizes import AUTOENCODERS, build, weights_path
from flowlab.autoencoders.strips import InStrips
from flowlab.core.pixels import to_float, to_uint8
from flowlab.core.weights import write_weights
from flowlab.data.embedded import digits, photos
from flowlab.data.scenes import scenes
from flowlab.metrics.paired import psnr

FLOOR_DB = {
    "sd": 26.0,
    "flux1": 27.0,
    "flux1_semantic": 27.0,
    "flux2_plain": 27.0,
    "flux2": 27.0,
    "rae": 23.0,
    "flux2_photos": 34.0,
    "flux2_scenes": 30.0,
}
CHANNELS = {
    "sd": 4,
    "flux1": 16,
    "flux1_semantic": 16,
    "flux2_plain": 32,
    "flux2": 32,
    "rae": 64,
    "flux2_photos": 32,
    "flux2_scenes": 32,
}


@pytest.fixture(scope="module")
def held_out() -> dict[str, torch.Tensor]:
    sets = {
        "digits": digits("heldout", num_images=397),
        "photos": photos("heldout"),
        "scenes": scenes("heldout", num_images=200),
    }
    batches = {name: data.read(torch.arange(len(data))) for name, data in sets.items()}
    return {name: batch.pixels for name, batch in batches.items() if batch.pixels is not None}


@pytest.mark.parametrize("name", AUTOENCODERS)
def test_shipped_weights_reconstruct_held_out_images(name, held_out):
    model = load(name)
    images = held_out[name.removeprefix("flux2_") if name in ("flux2_photos", "flux2_scenes") else "digits"]
    with torch.no_grad():
        latent = model.latents(to_float(images))
        output = to_uint8(model.decode(latent))
    grid = model.spec.resolution // 8
    assert latent.shape == (len(images), CHANNELS[name], grid, grid) and images.shape[-1] == 8 * grid
    assert (model.spec.stride, model.spec.channels, model.spec.num_tokens) == (8, CHANNELS[name], grid**2)
    assert float(psnr(output, images).mean()) > FLOOR_DB[name]
    assert abs(float(latent.mean())) < 0.1 and 0.9 < float(latent.std()) < 1.1
    assert weights_path(name).stat().st_size < 5_000_000


@pytest.mark.parametrize("name", AUTOENCODERS)
def test_files_round_trip(tmp_path, name):
    model = load(name)
    save(model, tmp_path / "a.safetensors")
    again = load(tmp_path / "a.safetensors")
    assert again.identity == model.identity and again.spec == model.spec
    assert not any(parameter.requires_grad for parameter in again.parameters()) and not again.training


def test_identities_tell_encoders_apart():
    assert len({load(name).identity for name in AUTOENCODERS}) == len(AUTOENCODERS)


def test_a_fixed_grid_refuses_other_sizes_in_one_line():
    with pytest.raises(ValueError, match="64 x 64 pixels; rae takes 32 x 32 only"):
        load("rae").latents(torch.zeros(1, 3, 64, 64))
    assert load("flux2").latents(torch.zeros(1, 3, 64, 64)).shape == (1, 32, 8, 8)


def test_overrides_replace_fields_and_unknown_ones_are_listed():
    assert load("flux2", resolution=64).spec.grid == 8
    with pytest.raises(ValueError, match="unknown field of KLSpec 'size'; choose from: latent_channels"):
        load("flux2", size=3)


def test_bad_files_are_named(tmp_path):
    with pytest.raises(ValueError, match="unknown autoencoder"):
        load("flux9")
    with pytest.raises(ValueError, match="no weights at"):
        load(tmp_path / "none.safetensors")
    write_weights(tmp_path / "other.safetensors", {"a": torch.zeros(1)})
    with pytest.raises(ValueError, match="no autoencoder of a known naming"):
        load(tmp_path / "other.safetensors")
    whole = weights_path("sd").read_bytes()
    (tmp_path / "half.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="not a whole safetensors file"):
        load(tmp_path / "half.safetensors")


@pytest.mark.parametrize("write", [save, save_official, save_diffusers])
def test_a_wrapper_of_strips_is_not_saved_but_named(tmp_path, write):
    with pytest.raises(ValueError, match="flux2 is wrapped to run in strips; save the autoencoder that was"):
        write(InStrips(load("flux2")), tmp_path / "a")  # pyright: ignore


def test_an_unknown_family_is_said_before_anything_is_read(tmp_path):
    with pytest.raises(ValueError, match="unknown family 'flux9'; choose from: sd, .*, rae"):
        load(tmp_path / "none.safetensors", family="flux9")


def test_random_weights_differ_from_the_shipped():
    assert build("sd").identity != load("sd").identity
