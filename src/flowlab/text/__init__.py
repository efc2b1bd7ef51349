"""Prompts => token features. `load` is the way in."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from flowlab.core.choices import lookup
from flowlab.text.base import TextEncoder, TextFeatures

__all__ = ["ENCODERS", "TextEncoder", "TextFeatures", "load"]


def load(name_or_path: str | Path, **options: Any) -> TextEncoder:
    """A text encoder by its name in ENCODERS, or from a folder or hub id ("org/name") of a known kind.

    A folder is one model with its tokenizer, or a diffusers folder of FLUX.1 or FLUX.2. `options` of all:
    device; of all but "embedded": path, dtype ("bfloat16" or "float32"), quantization (None, "4bit", "8bit");
    of "mistral" and "qwen3": tokenizer; of "t5_clip": t5, clip, length. Faults are a ValueError.
    """
    name = str(name_or_path)
    if name not in ENCODERS and (Path(name).is_dir() or "/" in name):
        return _by_content(name, options)
    return lookup(ENCODERS, name, "text encoder")(**options)


def _embedded(**options: Any) -> TextEncoder:
    from flowlab.text.embedded import EmbeddedText

    return EmbeddedText(**options)


def _mistral(**options: Any) -> TextEncoder:
    from flowlab.text.language import load as load_language

    return load_language("mistral", **options)


def _qwen3(**options: Any) -> TextEncoder:
    from flowlab.text.language import load as load_language

    return load_language("qwen3", **options)


def _t5_clip(**options: Any) -> TextEncoder:
    from flowlab.text.t5_clip import load as load_t5_clip

    return load_t5_clip(**options)


ENCODERS: dict[str, Callable[..., TextEncoder]] = {
    "embedded": _embedded,  # the embedded models: 64 tokens of 128; nothing to download
    "mistral": _mistral,  #   FLUX.2 dev: 512 tokens of 15,360; 24 billion weights, 17 of them needed
    "qwen3": _qwen3,  #       FLUX.2 klein: 512 tokens of 7,680 (4B) or 12,288 (9B: give its path)
    "t5_clip": _t5_clip,  #   FLUX.1: 512 tokens of 4,096 and one vector of 768
}


def _by_content(path: str, options: dict[str, Any]) -> TextEncoder:
    """The encoder of a folder or hub id, by the model type that its configuration states."""
    from flowlab.text.language import KINDS
    from flowlab.text.pretrained import find_config

    names = {model_type: name for name, kind in KINDS.items() for model_type in kind.model_types}
    names |= {"clip": "t5_clip", "clip_text_model": "t5_clip"}
    config, _ = find_config(path)
    return ENCODERS[lookup(names, config.model_type, f"type of text encoder at {path}:")](
        path=path, **options
    )
