"""Mistral and Qwen3 as text encoders: tiny random ones against the whole model, and against diffusers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.pipelines.flux2.pipeline_flux2 import Flux2Pipeline
from diffusers.pipelines.flux2.pipeline_flux2_klein import Flux2KleinPipeline
from safetensors.torch import load_file, save_file
from tests.text import tiny
from transformers import AutoTokenizer

from flowlab import text
from flowlab.text.language import KINDS, LanguageEncoder

PROMPTS = ["a red star above a #3366CC ring", "", "two blue squares"]
NAMES = ("mistral", "qwen3")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Any]]:
    """Folder and whole model of each kind."""
    root = tmp_path_factory.mktemp("language")
    return {
        "mistral": (root / "mistral", tiny.save_mistral(root / "mistral")),
        "qwen3": (root / "qwen3", tiny.save_qwen3(root / "qwen3")),
    }


@pytest.fixture(scope="module")
def encoders(folders: dict[str, tuple[Path, Any]]) -> dict[str, LanguageEncoder]:
    found = {name: text.load(str(folder), dtype="float32") for name, (folder, _) in folders.items()}
    assert all(isinstance(encoder, LanguageEncoder) for encoder in found.values())
    return found  # pyright: ignore


def _copy(source: Path, target: Path) -> Path:
    shutil.copytree(source, target)
    return target


# ---- features ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_features_equal_those_of_diffusers(name: str, folders: Any, encoders: Any) -> None:
    """To the bit: template, padding, mask, layers, the state before the final norm, the order of stacking."""
    folder, whole = folders[name]
    if name == "mistral":
        tokenizer = AutoTokenizer.from_pretrained(folder / "tokenizer", padding_side="left")
        expected = [Flux2Pipeline._get_mistral_3_small_prompt_embeds(whole, tokenizer, [p]) for p in PROMPTS]
    else:
        tokenizer = AutoTokenizer.from_pretrained(folder / "tokenizer")
        expected = [Flux2KleinPipeline._get_qwen3_prompt_embeds(whole, tokenizer, [p]) for p in PROMPTS]
    found = encoders[name].encode(PROMPTS)
    assert found.tokens.shape == (3, 512, 48) and found.pooled is None
    assert found.tokens.isfinite().all()
    assert torch.equal(found.tokens, torch.cat(expected))


@pytest.mark.parametrize("name", NAMES)
def test_only_the_layers_that_are_needed_are_kept(name: str, folders: Any, encoders: Any) -> None:
    kept = encoders[name].model
    assert len(kept.layers) == KINDS[name].layers[-1] < len(folders[name][1].get_decoder().layers)
    assert not any("vision" in tensor or "lm_head" in tensor for tensor in kept.state_dict())


@pytest.mark.parametrize("name", NAMES)
def test_the_last_state_is_not_normed(name: str, folders: Any, encoders: Any) -> None:
    """A model cut to exactly k layers gives its k-th state normed, unless its norm is taken out."""
    encoder, decoder = encoders[name], folders[name][1].get_decoder()
    inputs = encoder.tokenizer(encoder.kind.template("a ring"), add_special_tokens=False, return_tensors="pt")
    states = decoder(**inputs, output_hidden_states=True).hidden_states
    own = encoder.model(**inputs, output_hidden_states=True).hidden_states
    for layer in encoder.kind.layers:
        assert torch.equal(own[layer], states[layer])
    assert not torch.allclose(own[-1], decoder.norm(states[encoder.kind.layers[-1]]))


def test_mistral_pads_left_and_qwen3_right(encoders: Any) -> None:
    """Right padding cannot reach the tokens before it; left padding moves them to the end."""
    mistral, qwen3 = (encoders[name].encode(["a ring", "a ring above"]).tokens for name in NAMES)
    start = len(
        encoders["qwen3"].tokenizer("<|im_start|>user\na ring", add_special_tokens=False)["input_ids"]
    )
    assert torch.equal(qwen3[0, :start], qwen3[1, :start])
    num = encoders["mistral"].num_tokens("a ring")
    assert mistral[0, 512 - num].ne(mistral[0, 511 - num]).any()  # the first token differs from padding
    assert torch.equal(mistral[0, 0], mistral[0, 511 - num])  # and all padding before it is alike


@pytest.mark.parametrize("name", NAMES)
def test_neighbours_do_not_matter(name: str, encoders: Any) -> None:
    together = encoders[name].encode(PROMPTS).tokens
    assert torch.equal(together[2:], encoders[name].encode(PROMPTS[2:]).tokens)


@pytest.mark.parametrize("name", NAMES)
def test_a_long_prompt_is_cut_with_a_warning(name: str, encoders: Any) -> None:
    prompt = "ring " * 600
    num = encoders[name].num_tokens(prompt)
    with pytest.warns(UserWarning, match=f"lost its last {num - 512} of {num} tokens"):
        assert encoders[name].encode([prompt]).tokens.shape == (1, 512, 48)


# ---- identity ----------------------------------------------------------------------------------------------


def test_identity_is_of_content_and_not_of_place(folders: Any, encoders: Any, tmp_path: Path) -> None:
    folder, identity = folders["qwen3"][0], encoders["qwen3"].identity
    moved = _copy(folder, tmp_path / "moved")
    assert text.load(str(moved), dtype="float32").identity == identity
    assert text.load(str(moved), dtype="bfloat16").identity != identity
    weights = moved / "text_encoder" / "model.safetensors"
    tensors = load_file(weights)
    tensors["model.layers.26.mlp.up_proj.weight"] += 0.01
    save_file(tensors, weights, {"format": "pt"})
    assert text.load(str(moved), dtype="float32").identity != identity


# ---- faults ------------------------------------------------------------------------------------------------


def test_a_model_with_too_few_layers_is_refused(tmp_path: Path) -> None:
    tiny.save_qwen3(tmp_path, num_layers=12)
    with pytest.raises(ValueError, match="has 12 layers; FLUX.2 reads layer 27"):
        text.load(str(tmp_path))


def test_a_missing_and_an_unknown_tensor_are_refused(folders: Any, tmp_path: Path) -> None:
    folder = _copy(folders["qwen3"][0], tmp_path / "damaged")
    weights = folder / "text_encoder" / "model.safetensors"
    tensors = load_file(weights)
    moved = tensors.pop("model.layers.3.mlp.up_proj.weight")
    save_file(tensors, weights, {"format": "pt"})
    with pytest.raises(ValueError, match="lacks 'layers.3.mlp.up_proj.weight'"):
        text.load(str(folder))
    both = {
        "model.layers.3.mlp.up_proj.weight": moved,
        "model.layers.3.mlp.up_proj.bias": moved[:, 0].clone(),
    }
    save_file(tensors | both, weights, {"format": "pt"})
    with pytest.raises(ValueError, match="has unknown 'model.layers.3.mlp.up_proj.bias'"):
        text.load(str(folder))


def test_a_tokenizer_of_another_family_is_refused(folders: Any) -> None:
    other = str(folders["mistral"][0] / "tokenizer")
    with pytest.raises(ValueError, match=r"has no token '<\|im_start\|>'"):
        text.load(str(folders["qwen3"][0]), tokenizer=other)


def test_a_model_of_another_family_is_refused(folders: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds a model of type 'qwen3', not mistral or mistral3"):
        text.load("mistral", path=str(folders["qwen3"][0]))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(ValueError, match="unknown type of text encoder at .* 'bert'; choose from: mistral"):
        text.load(str(tmp_path))


def test_an_empty_folder_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cannot load a text model from") as caught:
        text.load(str(tmp_path))
    assert "\n" not in str(caught.value)


def test_quantization_names_the_package_it_needs(folders: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = str(folders["qwen3"][0])
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match="quantization='4bit' needs the package bitsandbytes"):
        text.load(folder, quantization="4bit")
    with pytest.raises(ValueError, match="unknown quantization '3bit'; choose from: 4bit, 8bit"):
        text.load(folder, quantization="3bit")
