"""The strings around a prompt, character by character."""

from __future__ import annotations

import pytest

from flowlab.text import templates

SYSTEM = (
    "You are an AI that reasons about image descriptions. You give structured responses focusing on object"
    " relationships, object\nattribution and actions without speculation."
)


def test_mistral_reads_the_system_message_with_its_line_break_and_no_start_of_an_answer() -> None:
    assert templates.mistral("a ring") == (f"<s>[SYSTEM_PROMPT]{SYSTEM}[/SYSTEM_PROMPT][INST]a ring[/INST]")
    assert SYSTEM[123] == "\n"


def test_the_mark_of_an_image_is_deleted_from_prompts() -> None:
    assert templates.mistral("a [IMG]ring") == templates.mistral("a ring")


def test_qwen3_reads_no_system_message_and_an_empty_thought() -> None:
    assert templates.qwen3("a ring") == (
        "<|im_start|>user\na ring<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
    )


def test_rewriting_takes_another_message_for_edits_and_a_turn_for_the_image() -> None:
    text = templates.mistral_rewriting("a ring", edit=False)
    edit = templates.mistral_rewriting("a ring", edit=True, image=(2, 3))
    assert text.startswith("<s>[SYSTEM_PROMPT]You are an expert prompt engineer for FLUX.2")
    assert text.endswith("nothing else.[/SYSTEM_PROMPT][INST]a ring[/INST]")
    assert edit.startswith("<s>[SYSTEM_PROMPT]You are FLUX.2 by Black Forest Labs, an image-editing expert.")
    picture = "[INST][IMG][IMG][IMG][IMG_BREAK][IMG][IMG][IMG][IMG_END][/INST]"
    assert edit.endswith(f"nothing else.[/SYSTEM_PROMPT]{picture}[INST]a ring[/INST]")
    qwen3 = templates.qwen3_rewriting("a ring", edit=False)
    assert qwen3.startswith("<|im_start|>system\nYou are an expert") and qwen3.endswith(
        templates.qwen3("a ring")
    )


def test_an_altered_system_message_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from diffusers.pipelines.flux2 import system_messages

    monkeypatch.setattr(system_messages, "SYSTEM_MESSAGE", SYSTEM.replace("\n", " "))
    templates._message.cache_clear()
    with pytest.raises(ValueError, match="SYSTEM_MESSAGE of diffusers has the SHA-256 .* not d43d9308"):
        templates.mistral("a ring")
    templates._message.cache_clear()
