"""Frozen networks of either origin serve every term; the full recipes run on small networks of their kind."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from flowlab.autoencoders import load as load_autoencoder
from flowlab.autoencoders import save, sizes
from flowlab.autoencoders.kl import KLSpec
from flowlab.autoencoders.rae import PublishedRAESpec, RepresentationAutoencoder
from flowlab.autoencoders.vit_decoder import ViTDecoderSpec
from flowlab.core.pixels import to_float
from flowlab.features import vgg
from flowlab.features.embedded import load_teacher
from flowlab.features.vision import VisionEncoder, VisionSpec
from flowlab.presets import PRESETS
from flowlab.train import autoencoder_config
from flowlab.train.autoencoder import AdversaryConfig, AutoencoderConfig
from flowlab.train.autoencoder_terms import _noisy
from flowlab.train.flow import AlignmentConfig, FlowConfig, ensure_latents, training_images
from flowlab.train.frozen import load
from flowlab.train.loop import LoopConfig
from flowlab.train.run import recipe_of, start
from flowlab.train.state import Randomness

pytest.importorskip("transformers")

SMALL = VisionSpec(width=32, depth=2, mlp=128, head_width=16, input_size=42, table_size=42)
PLAIN = replace(SMALL, kind="dinov2_plain")
SIDE = 48  # pixels
SHORT = LoopConfig(batch_size=4, num_steps=2)


def folder(path: Path, spec: VisionSpec) -> str:
    """A random vision transformer as a hub folder."""
    torch.manual_seed(0)
    VisionEncoder(replace(spec, affine=True)).network.save_pretrained(path)  # pyright: ignore
    return str(path)


# ---- one face ----------------------------------------------------------------------------------------------


def test_an_embedded_teacher_is_itself_at_its_own_size_and_resized_at_others():
    teacher, ours = load_teacher("teacher"), load("teacher")
    pixels = torch.rand(2, 3, 32, 32) * 2 - 1
    assert torch.equal(ours.tokens(pixels), teacher.tokens(pixels))
    assert all(torch.equal(a, b) for a, b in zip(ours.layers(pixels), teacher.layers(pixels), strict=True))
    assert torch.equal(ours.layers(pixels, (2,))[0], teacher.layers(pixels)[2])
    large = torch.nn.functional.interpolate(pixels, scale_factor=2)
    assert ours.tokens(large).shape == ours.tokens(pixels).shape == (2, 16, ours.channels)


def test_a_vision_transformer_gives_its_patches_row_by_row(tmp_path):
    ours = load(folder(tmp_path / "dino", SMALL))
    pixels = torch.rand(2, 3, SIDE, SIDE) * 2 - 1
    network = ours.network
    assert isinstance(network, VisionEncoder)
    grid = network(pixels)  # (B, C, 16, 16)
    assert torch.equal(ours.tokens(pixels)[:, 16 + 2], grid[:, :, 1, 2])
    assert [layer.shape for layer in ours.layers(pixels, (1,))] == [(2, 256, 32)]
    assert (ours.channels, ours.width, ours.depth) == (32, 32, 2)


def test_a_plain_input_reaches_the_network_as_it_is(tmp_path):
    pixels = torch.rand(1, 3, 42, 42) * 2 - 1
    where = folder(tmp_path / "dino", PLAIN)
    plain, published = load(where, plain=True).network, load(where).network
    assert isinstance(plain, VisionEncoder) and isinstance(published, VisionEncoder)
    torch.testing.assert_close(plain.unstandardise(pixels), pixels)
    assert not torch.allclose(published.unstandardise(pixels), pixels)


# ---- recipes on small networks of their kind ---------------------------------------------------------------


@pytest.fixture
def small_world(tmp_path, monkeypatch) -> Path:
    """Small stand-ins under the published names, a small VGG, and images in class folders."""
    conv = KLSpec(
        latent_channels=4, channels=8, multipliers=(1, 2, 4), num_res_blocks=1, groups=4, resolution=32
    )
    decoder = ViTDecoderSpec(latent_channels=32, width=32, depth=1, heads=2, mlp=64, grid=3)
    stand_ins: dict[str, KLSpec | PublishedRAESpec] = {
        name: conv for name, spec in sizes.PUBLISHED.items() if isinstance(spec, KLSpec)
    }
    stand_ins["rae_dinov2_base"] = PublishedRAESpec(encoder=replace(SMALL, input_size=42), decoder=decoder)
    for name, spec in stand_ins.items():
        monkeypatch.setitem(sizes.PUBLISHED, name, spec)
        monkeypatch.setitem(autoencoder_config.SPECS, name, spec)
    monkeypatch.setattr(vgg, "load", lambda trunk, heads: vgg.random(width=4))
    for split in ("train", "heldout"):
        for number in range(8):
            path = tmp_path / "images" / split / "class" / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            noise = torch.randint(0, 256, (64, 64, 3), dtype=torch.uint8)
            Image.fromarray(noise.numpy()).save(path)
    return tmp_path


@pytest.mark.parametrize("name", [name for name in PRESETS if name.endswith("_imagenet")])
def test_the_full_recipe_runs_on_small_networks_of_its_kind(small_world, name):
    """The full form, not the debug one: LPIPS, vision teachers, ADM's crop, a start from a file."""
    config = PRESETS[name]()
    assert autoencoder_config.SPECS[config.autoencoder] and config.dataset == "data/imagenet"
    if config.initial:
        torch.manual_seed(0)
        save(sizes.build(config.autoencoder), small_world / "initial.safetensors")
        config = replace(config, initial=str(small_world / "initial.safetensors"))
    with_registers = "registers" in config.teacher
    teacher = "teacher" if config.teacher == "teacher" else str(small_world / "teacher")
    if teacher != "teacher":
        folder(small_world / "teacher", SMALL if with_registers else PLAIN)
    adversary = replace(config.adversary, discriminator_start=0, generator_start=1, channels=8)
    if adversary.kind == "features":
        adversary = replace(adversary, features=folder(small_world / "critic", PLAIN), blocks=(0, 1))
    config = replace(
        config,
        dataset=str(small_world / "images"),
        num_images=8,
        teacher=teacher,
        adversary=adversary,
        end_to_end=replace(config.end_to_end, backbone="tiny", block=2, hidden=32),
        normalisation_images=8,
        loop=replace(config.loop, batch_size=4, num_steps=2),
    )
    state, records = start(config, small_world / "run")
    seen = list(records)
    assert all(value.isfinite() for record in seen for value in record.scalars.values())
    assert ("adversarial" in seen[-1].scalars) == bool(config.adversary.weight)
    assert recipe_of(config).preview(state)["reconstruction"].shape[1] == 3
    assert load_autoencoder(recipe_of(config).export(state, small_world)).spec.name


def test_published_decoders_get_their_noise_before_the_whitening():
    """Noise of known strength on features, whatever std the whitening has stored."""
    decoder = ViTDecoderSpec(latent_channels=32, width=32, depth=1, heads=2, mlp=64, grid=3)
    model = RepresentationAutoencoder(PublishedRAESpec(encoder=SMALL, decoder=decoder))
    z, randomness = torch.zeros(256, 32, 3, 3), Randomness(0, torch.arange(256))
    plain = _noisy(model, z, 0.8, randomness)
    assert float(plain.std()) == pytest.approx(0.8 / 3**0.5, rel=0.05)  # rms of U(0, 0.8)
    model.normalise.std.fill_(3.0)  # pyright: ignore
    assert torch.equal(_noisy(model, z, 0.8, randomness), plain)


def test_a_folder_needs_its_held_out_images_before_training(tmp_path):
    for split, count in (("train", 4), ("heldout", 3)):
        if split == "heldout":
            with pytest.raises(ValueError, match="no split 'heldout'"):
                start(_on_folder(tmp_path), tmp_path / "run")
            assert not (tmp_path / "run").exists()
        for number in range(count):
            path = tmp_path / "images" / split / "class" / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (32, 32), (number, 9, 80)).save(path)
    state, records = start(_on_folder(tmp_path), tmp_path / "run")
    list(records)
    assert len(recipe_of(_on_folder(tmp_path)).preview(state)["reconstruction"]) == 6, "three over three"


def _on_folder(where: Path) -> AutoencoderConfig:
    return AutoencoderConfig(
        autoencoder="flux2",
        dataset=str(where / "images"),
        num_images=4,
        normalisation_images=4,
        loop=SHORT,
    )


def test_a_vision_transformer_can_be_teacher_and_critic_of_an_embedded_autoencoder(tmp_path):
    where = folder(tmp_path / "dino", SMALL)
    config = AutoencoderConfig(
        autoencoder="flux2",
        num_images=8,
        teacher=where,
        semantic_weight=0.1,
        adversary=AdversaryConfig(weight=0.5, kind="features", features=where),
        loop=SHORT,
    )
    _, records = start(config, tmp_path / "run")
    assert all(value.isfinite() for record in records for value in record.scalars.values())


def test_a_vision_transformer_can_be_what_a_flow_model_is_aligned_with(tmp_path):
    """As REPA has it: 256 patches of the network, resampled to the 16 tokens of the latent."""
    where = folder(tmp_path / "dino", PLAIN)
    alignment = AlignmentConfig(weight=0.5, teacher=where)
    config = FlowConfig(
        autoencoder="flux2", num_images=8, cache=str(tmp_path / "cache"), alignment=alignment, loop=SHORT
    )
    state, records = start(config, tmp_path / "run")
    assert all(value.isfinite() for record in records for value in record.scalars.values())
    cached = ensure_latents(config).read(torch.arange(8))
    images = training_images(config, 32).read(torch.arange(8)).pixels
    assert cached.teacher is not None and images is not None
    wanted = load(where).tokens(to_float(images))
    torch.testing.assert_close(cached.teacher.float(), wanted, atol=2e-3, rtol=2e-3)  # kept in float16
    assert state.modules["projector"].layers[-1].out_features == PLAIN.width  # pyright: ignore
