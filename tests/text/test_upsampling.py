"""Prompt upsampling by tiny random language models: what they read, and what happens to what they say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from tests.text import tiny

from flowlab.text import upsampling
from flowlab.text.upsampling import Upsampler, load_upsampler, montage, upsampler_gb

RED, WIDE = Image.new("RGB", (60, 40), "red"), Image.new("RGB", (100, 80), "blue")


@pytest.fixture(scope="module")
def upsamplers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Upsampler]:
    root = tmp_path_factory.mktemp("upsampling")
    tiny.save_mistral(root / "mistral3", num_layers=2)
    tiny.save_qwen3(root / "qwen3", num_layers=2)
    return {name: load_upsampler(str(root / name), dtype="float32") for name in ("mistral3", "qwen3")}


class Spy:
    """Stands before `generate`: keeps what it was asked, and answers with given ids instead of sampling."""

    def __init__(self, answer: list[int]):
        self.answer = answer
        self.asked: list[dict[str, Any]] = []

    def __call__(self, **inputs: Any) -> torch.Tensor:
        self.asked.append(inputs)
        return torch.cat([inputs["input_ids"], torch.tensor([self.answer])], dim=1)


@pytest.mark.parametrize("name", ["mistral3", "qwen3"])
def test_a_rewrite_depends_on_the_prompt_and_the_seed_alone(
    name: str, upsamplers: dict[str, Upsampler], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upsampling, "MAX_NEW_TOKENS", 12)
    writer = upsamplers[name]
    torch.manual_seed(5)
    after = torch.rand(1)
    torch.manual_seed(5)
    alone = writer.rewrite(["a ring"])
    assert torch.equal(torch.rand(1), after)  # the caller's random numbers go on as if nothing had happened
    among = writer.rewrite(["two blue squares", "a ring"])
    assert alone[0] == among[1] != "a ring"
    assert len({writer.rewrite(["a ring"], seed=seed)[0] for seed in range(6)}) > 1


def test_the_answer_replaces_the_prompt(upsamplers: dict[str, Upsampler], monkeypatch: Any) -> None:
    writer = upsamplers["qwen3"]
    answer = writer.tokenizer(" a bright red ring<|im_end|>", add_special_tokens=False)["input_ids"]
    spy = Spy(answer)
    monkeypatch.setattr(writer.model, "generate", spy)
    assert writer.rewrite(["a ring"]) == ["a bright red ring"]
    asked = spy.asked[0]
    assert (asked["temperature"], asked["max_new_tokens"], asked["do_sample"]) == (0.15, 512, True)
    text = writer.tokenizer.decode(asked["input_ids"][0])
    assert text.startswith("<|im_start|>system\nYou are an expert prompt engineer")
    assert text.endswith("<|im_start|>user\na ring<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n")


def test_references_are_one_picture_before_the_prompt(
    upsamplers: dict[str, Upsampler], monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = upsamplers["mistral3"]
    spy = Spy(writer.tokenizer("keep the ring", add_special_tokens=False)["input_ids"])
    with monkeypatch.context() as patch:
        patch.setattr(writer.model, "generate", spy)
        assert writer.rewrite(["a ring", "keep"], [(RED, WIDE), ()]) == ["keep the ring"] * 2
    edit, plain = (writer.tokenizer.decode(asked["input_ids"][0]) for asked in spy.asked)
    assert "image-editing expert" in edit and "prompt engineer" in plain
    # 160 x 80 pixels, shrunk to a longest side of 112, are 2 rows of 4 tokens of 28 pixels
    row = "[IMG]" * 4
    assert edit.endswith(f"[INST]{row}[IMG_BREAK]{row}[IMG_END][/INST][INST]a ring[/INST]")
    assert spy.asked[0]["pixel_values"].shape == (1, 3, 56, 112)
    assert "pixel_values" not in spy.asked[1]


def test_the_model_sees_the_picture(
    upsamplers: dict[str, Upsampler], monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    monkeypatch.setattr(upsampling, "MAX_NEW_TOKENS", 4)
    writer = upsamplers["mistral3"]
    assert writer.rewrite(["a ring"], [(RED, WIDE)]) != ["a ring"]
    assert not any("used as it stands" in str(warning.message) for warning in recwarn)
    words = writer.tokenizer(writer.writer.template("a ring", edit=True, image=(2, 4)), return_tensors="pt")
    red, blue = (
        writer.model(input_ids=words["input_ids"], **writer._picture([image])[0]).logits[0, -1]
        for image in (Image.new("RGB", (112, 56), "red"), Image.new("RGB", (112, 56), "blue"))
    )
    assert (red - blue).abs().max() > 1e-3


def test_an_empty_answer_and_a_fault_leave_the_prompt(
    upsamplers: dict[str, Upsampler], monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = upsamplers["qwen3"]
    monkeypatch.setattr(writer.model, "generate", Spy(writer.tokenizer.convert_tokens_to_ids(["<|im_end|>"])))
    with pytest.warns(UserWarning, match="'a ring' is used as it stands: no rewrite .the answer is empty"):
        assert writer.rewrite(["a ring"]) == ["a ring"]

    def fail(**_: Any) -> None:
        raise RuntimeError("out of memory\nlong details")

    monkeypatch.setattr(writer.model, "generate", fail)
    with pytest.warns(UserWarning, match=r"no rewrite \(out of memory\)$"):
        assert writer.rewrite(["a ring"], [(RED,)]) == ["a ring"]


def test_the_size_is_known_before_anything_is_loaded(
    upsamplers: dict[str, Upsampler], tmp_path: Path
) -> None:
    tiny.save_qwen3(tmp_path, num_layers=2)
    counted = sum(one.numel() for one in upsamplers["qwen3"].model.parameters())
    assert upsampler_gb(str(tmp_path)) == pytest.approx(2 * counted / 1e9)
    assert upsampler_gb(str(tmp_path), "4bit") == pytest.approx(counted / 2e9)


def test_unfit_input_is_refused(upsamplers: dict[str, Upsampler], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="1 lists of references for 2 prompts; give one for each"):
        upsamplers["qwen3"].rewrite(["a", "b"], [()])
    tiny.save_t5_clip(tmp_path)
    with pytest.raises(ValueError, match="unknown language model for rewriting 'clip_text_model'"):
        load_upsampler(str(tmp_path))


def test_montage_is_side_by_side_on_white_and_capped() -> None:
    joined = montage([RED, WIDE])
    assert joined.size == (160, 80)
    corners = [joined.getpixel(place) for place in ((0, 0), (0, 40), (60, 0), (59, 61))]
    assert corners == [(255, 255, 255), (255, 0, 0), (0, 0, 255), (255, 255, 255)]
    capped = montage([Image.new("L", (3000, 1000))] * 2)
    assert capped.mode == "RGB" and capped.size == (1881, 313)
