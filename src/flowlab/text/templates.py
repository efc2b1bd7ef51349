"""What a language model reads around a prompt: system messages and chat marks, as its publisher writes them.

The strings are built here and not by the template that a model's folder brings, so that an edited or newer
template cannot move every feature unnoticed. The system messages come from `diffusers`, checked by hash.
"""

from __future__ import annotations

import functools
import hashlib

from flowlab.core.choices import lookup

__all__ = [
    "MISTRAL_MARKS",
    "PICTURE_MARKS",
    "QWEN3_MARKS",
    "mistral",
    "mistral_rewriting",
    "qwen3",
    "qwen3_rewriting",
]

MESSAGES = {  # flowlab's name: diffusers' name, SHA-256
    "conditioning": (
        "SYSTEM_MESSAGE",  # 168 characters, a line break at 123
        "d43d93082f24034d9c7f4e5b65cdeceb1e082c64c9cf95dfae5be89c31e1320d",
    ),
    "rewrite_text": (
        "SYSTEM_MESSAGE_UPSAMPLING_T2I",
        "0ad9a42c565716b0a8eb82a442dd4f6cc82d583eb3474f82ccb610c1a29233c7",
    ),
    "rewrite_edit": (
        "SYSTEM_MESSAGE_UPSAMPLING_I2I",
        "1233bb94dcc251f85d676ffb27b6da74107e9af11b0e82041eac66a66717d772",
    ),
}

IMAGE = "[IMG]"
"""Mistral's mark for an image; deleted from prompts, where it would stand for an image that is not there."""
IMAGE_BREAK, IMAGE_END = "[IMG_BREAK]", "[IMG_END]"
MISTRAL_MARKS = ("<s>", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[INST]", "[/INST]")
PICTURE_MARKS = (IMAGE, IMAGE_BREAK, IMAGE_END)
QWEN3_MARKS = ("<|im_start|>", "<|im_end|>", "<think>", "</think>")


# ---- of conditioning ---------------------------------------------------------------------------------------


def mistral(prompt: str) -> str:
    """What FLUX.2 dev was trained on: the system message, the prompt, and no start of an answer."""
    return _mistral_turns("conditioning", prompt)


def qwen3(prompt: str) -> str:
    """What FLUX.2 klein was trained on: no system message; the answer starts with an empty thought."""
    return _qwen3_turn("user", prompt) + _QWEN3_ANSWER


# ---- of rewriting ------------------------------------------------------------------------------------------


def mistral_rewriting(prompt: str, *, edit: bool, image: tuple[int, int] | None = None) -> str:
    """A request to rewrite `prompt`; a picture of `image` (rows, columns) tokens is a turn before it."""
    return _mistral_turns(
        _rewriting(edit), prompt, "" if image is None else f"[INST]{_picture(*image)}[/INST]"
    )


def qwen3_rewriting(prompt: str, *, edit: bool) -> str:
    """The same for Qwen3, which sees no pictures."""
    return _qwen3_turn("system", _message(_rewriting(edit))) + _qwen3_turn("user", prompt) + _QWEN3_ANSWER


# ---- pieces ------------------------------------------------------------------------------------------------


_QWEN3_ANSWER = "<|im_start|>assistant\n<think>\n\n</think>\n\n"


def _mistral_turns(message: str, prompt: str, before: str = "") -> str:
    system = f"<s>[SYSTEM_PROMPT]{_message(message)}[/SYSTEM_PROMPT]"
    return f"{system}{before}[INST]{prompt.replace(IMAGE, '')}[/INST]"


def _picture(rows: int, columns: int) -> str:
    """A mark per token of a picture, row by row, as Pixtral's processor writes them."""
    return IMAGE_BREAK.join([IMAGE * columns] * rows) + IMAGE_END


def _qwen3_turn(role: str, content: str) -> str:
    return f"<|im_start|>{role}\n{content}<|im_end|>\n"


def _rewriting(edit: bool) -> str:
    return "rewrite_edit" if edit else "rewrite_text"


@functools.cache
def _message(name: str) -> str:
    """A system message of FLUX.2; absent or altered, a ValueError."""
    theirs, digest = lookup(MESSAGES, name, "system message")
    try:
        from diffusers.pipelines.flux2 import system_messages
    except ImportError as problem:
        raise ValueError(
            "FLUX.2's system messages come with the package diffusers; install flowlab with its extra:"
            " flowlab[zoo]"
        ) from problem
    message = str(getattr(system_messages, theirs))
    found = hashlib.sha256(message.encode()).hexdigest()
    if found != digest:
        raise ValueError(
            f"{theirs} of diffusers has the SHA-256 {found[:8]}..., not {digest[:8]}..., so that all features"
            " would differ from those in training; install diffusers 0.40 to 0.42"
        )
    return message
