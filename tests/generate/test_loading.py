"""Which parts belong to a model, and what is said where one is missing or does not fit."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from tests.generate.small import save_flux2

from flowlab import autoencoders, backbones
from flowlab.autoencoders.sizes import build as build_autoencoder
from flowlab.core.weights import read_weights, write_weights
from flowlab.generate.loading import LoraFile, identity_of, load_parts, locate, loras_of

CPU: dict[str, Any] = {"device": torch.device("cpu"), "dtype": torch.float32}


def test_a_file_of_ours_says_all(model_file: Path) -> None:
    found = locate(model_file)
    assert (found.autoencoder, found.text, found.variant) == ("flux2_photos", "embedded", "flux2_scenes")
    assert {one.device.type for one in found.outline.parameters()} == {"meta"}
    parts = load_parts(found, **CPU)
    assert found.outline.spec == parts.model.spec
    assert parts.facts["model"]["identity"] == identity_of(read_weights(model_file)[0])


def test_what_is_not_told_must_be_given(model_file: Path, tmp_path: Path) -> None:
    model = backbones.load(model_file)
    backbones.save(model, tmp_path / "bare.safetensors", {})
    with pytest.raises(ValueError, match="does not say which autoencoder"):
        locate(tmp_path / "bare.safetensors")
    with pytest.raises(ValueError, match="does not say which text"):
        locate(tmp_path / "bare.safetensors", autoencoder="flux2_photos")
    with pytest.raises(ValueError, match="give variant flux2_klein .*flux2_klein_kv .*or flux2_klein_base"):
        locate(tmp_path / "bare.safetensors", autoencoder="flux2_photos", text_encoder="qwen3")
    found = locate(
        tmp_path / "bare.safetensors", autoencoder="sd", text_encoder="qwen3", variant="flux2_klein"
    )
    assert (found.autoencoder, found.text, found.variant) == ("sd", "qwen3", "flux2_klein")


def test_parts_on_disk_are_found_from_any_folder(
    model_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "klein" / "vae").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    found = locate(model_file, autoencoder="klein/vae", text_encoder="klein", variant="flux2_klein_base")
    assert (found.autoencoder, found.text) == (str(tmp_path / "klein" / "vae"), str(tmp_path / "klein"))
    (tmp_path / "embedded").mkdir()  # a name of ours stays one
    assert locate(model_file, text_encoder="embedded").text == "embedded"


def test_an_autoencoder_that_has_changed_is_refused_unless_it_was_asked_for(
    model_file: Path, tmp_path: Path
) -> None:
    here = autoencoders.load("flux2_photos").identity
    said = {"autoencoder": "flux2_photos", "text": "embedded"}
    for identity in (here, "0" * 12):
        file = tmp_path / f"{identity}.safetensors"
        backbones.save(backbones.load(model_file), file, {**said, "autoencoder_identity": identity})
    load_parts(locate(tmp_path / f"{here}.safetensors"), **CPU)
    changed = tmp_path / f"{'0' * 12}.safetensors"
    with pytest.raises(
        ValueError, match=rf"flux2_photos holds other weights \({here}\) than .* in \(0{{12}}"
    ):
        load_parts(locate(changed), **CPU)
    load_parts(locate(changed, autoencoder="flux2_photos"), **CPU)


def test_of_a_published_model_the_example_fits(tmp_path: Path) -> None:
    model = backbones.build_flux(
        "flux1_schnell", width=64, heads=2, double_blocks=1, single_blocks=1, axes=(8, 12, 12)
    )
    backbones.save(model, tmp_path / "flux1.safetensors", {})
    with pytest.raises(ValueError, match="give autoencoder, such as black-forest-labs/FLUX.1-schnell"):
        locate(tmp_path / "flux1.safetensors")


@pytest.mark.parametrize(
    ("variant", "part"),
    [
        ("flux2_dev", "has no guidance embedding, unlike flux2_dev"),
        ("flux1_dev", "is a FLUX.2, which is no flux1_dev"),
        ("flux3", "unknown variant 'flux3'; choose from: flux2_scenes, flux2_dev"),
    ],
)
def test_a_variant_that_does_not_fit(variant: str, part: str, model_file: Path) -> None:
    with pytest.raises(ValueError, match=part):
        locate(model_file, variant=variant)


def test_a_folder_of_diffusers_is_a_pipeline(tmp_path: Path) -> None:
    model = backbones.build_flux(
        "flux2_klein_4b",
        width=64,
        heads=2,
        double_blocks=1,
        single_blocks=1,
        text_width=48,
        axes=(8, 8, 8, 8),
    )
    backbones.save_diffusers(model, tmp_path / "transformer")
    for distilled, variant in ((True, "flux2_klein"), (False, "flux2_klein_base")):
        index = {"_class_name": "Flux2KleinPipeline", "is_distilled": distilled}
        (tmp_path / "model_index.json").write_text(json.dumps(index))
        found = locate(tmp_path)
        assert found.variant == variant and found.model == tmp_path / "transformer"
        assert (found.autoencoder, found.text) == (str(tmp_path / "vae"), str(tmp_path))


def test_of_a_pipeline_on_the_hub_only_settings_are_fetched_before_it_is_loaded(
    model_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = backbones.load(model_file)
    backbones.save_diffusers(model, tmp_path / "transformer")
    index = {"_class_name": "Flux2KleinPipeline", "is_distilled": False}
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    asked: list[str] = []

    def fetch(name: str) -> Path:
        asked.append(name)
        return tmp_path / name.removeprefix("org/flux").lstrip(":/")

    monkeypatch.setattr("flowlab.autoencoders.hub.fetch", fetch)
    found = locate("org/flux")
    assert asked == ["org/flux:model_index.json", "org/flux:transformer/config.json"]
    assert (found.autoencoder, found.text, found.variant) == ("org/flux", "org/flux", "flux2_klein_base")
    assert found.outline.spec == model.spec
    here = replace(found, autoencoder="flux2_photos", text="embedded")
    parts = load_parts(here, **CPU)
    assert asked[2:] == ["org/flux/transformer"] and parts.facts["model"]["file"] == "org/flux"
    assert parts.facts["model"]["identity"] == identity_of(model.state_dict())


def test_one_file_of_a_repository_is_a_model(model_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr("flowlab.autoencoders.hub.fetch", lambda name: asked.append(name) or model_file)
    assert locate("org/flux:flux.safetensors").model == model_file
    assert locate("org/flux/transformer").model == model_file
    assert asked == ["org/flux:flux.safetensors", "org/flux/transformer"]


def test_a_shipped_model_is_called_by_its_name(model_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flowlab.generate.loading.WEIGHTS", model_file.parent)
    parts = load_parts(locate(model_file.stem), **CPU)
    assert parts.facts["model"]["file"] == model_file.stem


def test_parts_that_do_not_fit_are_named(model_file: Path, tmp_path: Path) -> None:
    autoencoders.save(build_autoencoder("sd"), tmp_path / "sd.safetensors")
    with pytest.raises(
        ValueError, match=r"latents of 32 channels, the autoencoder .*sd.safetensors decodes 4"
    ):
        load_parts(locate(model_file, autoencoder=str(tmp_path / "sd.safetensors")), **CPU)
    wide = save_flux2(tmp_path / "wide.safetensors", text_width=96)
    with pytest.raises(ValueError, match="reads text of width 96, the encoder embedded gives 128"):
        load_parts(locate(wide), **CPU)


def test_what_is_no_model_of_prompts_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there is no model nosuch; give its path, or a shipped name"):
        locate("nosuch")
    backbones.save(backbones.build("tiny", channels=3, grid=2, num_classes=5), tmp_path / "sit.safetensors")
    with pytest.raises(ValueError, match="family 'sit', which reads no prompts"):
        locate(tmp_path / "sit.safetensors")
    write_weights(tmp_path / "other.safetensors", {"a": torch.zeros(2)})
    with pytest.raises(ValueError, match="is no FLUX transformer"):
        locate(tmp_path / "other.safetensors")
    (tmp_path / "half.safetensors").write_bytes((tmp_path / "sit.safetensors").read_bytes()[:-100])
    with pytest.raises(ValueError, match="half.safetensors is not a whole safetensors file"):
        locate(tmp_path / "half.safetensors")


def test_an_adapter_changes_the_image_and_is_remembered(model_file: Path, tmp_path: Path) -> None:
    name = "diffusion_model.single_blocks.0.linear2"
    down, up = torch.randn(4, 64 + 192), torch.randn(64, 4)
    save_file({f"{name}.lora_A.weight": down, f"{name}.lora_B.weight": up}, tmp_path / "lora.safetensors")
    file = str(tmp_path / "lora.safetensors")
    found = locate(model_file)
    plain, changed = (load_parts(found, **CPU, loras=loras) for loras in ((), loras_of([f"{file}:0.5"])))
    was, now = (one.model.get_parameter("single_blocks.0.linear2.weight") for one in (plain, changed))
    torch.testing.assert_close(now, was + 0.5 * up @ down)
    assert changed.facts["model"]["identity"] == plain.facts["model"]["identity"]
    (told,) = changed.facts["loras"]
    assert (told["file"], told["scale"], len(told["sha256"])) == (file, 0.5, 64)


def test_adapters_by_words() -> None:
    assert loras_of(["a.safetensors", "b.safetensors:0.5", "c:d/e"]) == (
        LoraFile(file="a.safetensors"),
        LoraFile(file="b.safetensors", scale=0.5),
        LoraFile(file="c:d/e"),
    )


def test_a_large_model_is_known_by_the_ends_of_its_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flowlab.generate.loading.LARGE", 10)
    monkeypatch.setattr("flowlab.generate.loading.ENDS", 2)
    tensors = {"a": torch.arange(12.0), "b": torch.zeros(3, 1)}
    last = {**tensors, "a": torch.arange(12.0).index_fill(0, torch.tensor(11), 5)}
    middle = {**tensors, "a": torch.arange(12.0).index_fill(0, torch.tensor(6), 5)}
    assert identity_of(tensors) != identity_of(last) and identity_of(tensors) == identity_of(middle)
