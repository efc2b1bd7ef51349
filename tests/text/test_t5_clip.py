"""T5 and CLIP as FLUX.1 uses them, on tiny random weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.text import tiny
from transformers import AutoTokenizer, T5ForConditionalGeneration

from flowlab import text

PROMPTS = ["a red star above a #3366CC ring", "", "two blue squares"]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any, Any]:
    folder = tmp_path_factory.mktemp("flux1")
    return folder, *tiny.save_t5_clip(folder)


def test_features_equal_the_models_own_without_a_mask(pair: tuple[Path, Any, Any]) -> None:
    folder, t5, clip = pair
    encoder = text.load(str(folder), dtype="float32")
    found = encoder.encode(PROMPTS)
    words, letters = (AutoTokenizer.from_pretrained(folder / name) for name in ("tokenizer_2", "tokenizer"))
    ids, short = (
        tokenizer(PROMPTS, padding="max_length", max_length=length, return_tensors="pt")
        for tokenizer, length in ((words, 512), (letters, 77))
    )
    assert found.tokens.shape == (3, encoder.length, encoder.width) == (3, 512, 16)
    assert torch.allclose(found.tokens, t5(ids["input_ids"]).last_hidden_state, atol=1e-6)
    masked = t5(ids["input_ids"], attention_mask=ids["attention_mask"]).last_hidden_state
    assert (found.tokens - masked).abs().max() > 1e-2
    assert found.pooled is not None and found.pooled.shape == (3, 12)
    assert torch.allclose(found.pooled, clip(short["input_ids"]).pooler_output, atol=1e-6)


def test_neighbours_do_not_matter(pair: tuple[Path, Any, Any]) -> None:
    encoder = text.load(str(pair[0]), dtype="float32", length=32)
    together, alone = encoder.encode(PROMPTS), encoder.encode(PROMPTS[2:])
    assert torch.equal(together.tokens[2:], alone.tokens)
    assert together.pooled is not None and alone.pooled is not None
    assert torch.equal(together.pooled[2:], alone.pooled)


def test_two_places_give_the_same_encoder(pair: tuple[Path, Any, Any], tmp_path: Path) -> None:
    """From a folder each, T5 with the decoder that its publisher ships."""
    folder, t5, clip = pair
    config = t5.config.to_dict() | {"num_decoder_layers": 1, "is_encoder_decoder": True}
    whole = T5ForConditionalGeneration(type(t5.config)(**config))
    whole.encoder.load_state_dict(t5.encoder.state_dict())
    whole.shared.load_state_dict(t5.shared.state_dict())
    for name, model, tokenizer in (("t5", whole, "tokenizer_2"), ("clip", clip, "tokenizer")):
        model.save_pretrained(tmp_path / name)
        AutoTokenizer.from_pretrained(folder / tokenizer).save_pretrained(tmp_path / name)
    places = {name: str(tmp_path / name) for name in ("t5", "clip")}
    apart = text.load("t5_clip", **places, dtype="float32", length=64)
    joined = text.load("t5_clip", path=str(folder), dtype="float32", length=64)
    assert apart.identity == joined.identity
    assert torch.equal(apart.encode(PROMPTS).tokens, joined.encode(PROMPTS).tokens)
    assert text.load("t5_clip", **places, dtype="float32", length=63).identity != joined.identity


def test_a_long_prompt_is_cut_with_a_warning(pair: tuple[Path, Any, Any]) -> None:
    encoder = text.load(str(pair[0]), dtype="float32", length=16)
    prompt = "ring " * 40
    num = encoder.num_tokens(prompt)
    with pytest.warns(UserWarning, match=f"prompt 1 .* lost its last {num - 16} of {num} tokens"):
        encoder.encode(["ring", prompt])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"t5": "x"}, "path=None, t5='x', clip=None; give one folder as path, or t5 and clip"),
        ({"path": "y", "t5": "x", "clip": "x"}, "path='y'"),
        ({"length": 513}, "length=513; FLUX.1 takes 1 to 512 tokens"),
    ],
)
def test_unfit_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        text.load("t5_clip", **options)
