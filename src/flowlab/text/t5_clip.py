"""FLUX.1's two text encoders: T5 gives the tokens, CLIP one vector for the whole prompt.

T5's last hidden state, of a prompt padded to 512 tokens (schnell 256, Fill 128) with no attention mask, as
FLUX.1 was trained; CLIP's pooled output of the first 77 tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from flowlab.text.base import TextFeatures, warn_of_cuts
from flowlab.text.pretrained import load_model, load_tokenizer, model_identity, token_ids

__all__ = ["WEIGHTS", "T5Clip", "load"]

WEIGHTS = "black-forest-labs/FLUX.1-dev"
"""Hub id of the published pair."""
MAX_LENGTH = 512


class T5Clip:
    """Prompts => tokens (B, length, 4096) of T5 and pooled (B, 768) of CLIP, on the models' device.

    Prompts go through the models one by one, so that none depends on its neighbours.
    """

    def __init__(self, t5: Any, clip: Any, t5_tokenizer: Any, clip_tokenizer: Any, length: int):
        self.t5, self.clip = t5, clip
        self.t5_tokenizer, self.clip_tokenizer = t5_tokenizer, clip_tokenizer
        self.length = length
        parts = model_identity(t5, t5_tokenizer), model_identity(clip, clip_tokenizer)
        self.identity = f"T5 {parts[0]} of {length} tokens and CLIP {parts[1]}"

    @property
    def width(self) -> int:
        """Of T5's tokens."""
        return self.t5.config.d_model

    @torch.no_grad()
    def encode(self, prompts: Sequence[str]) -> TextFeatures:
        """Features of at least one prompt; what T5 has to cut is warned of (CLIP cuts at 77, unsaid)."""
        warn_of_cuts(prompts, [self.num_tokens(prompt) for prompt in prompts], self.length)
        clip_length = self.clip.config.max_position_embeddings
        tokens = [self.t5(_padded(self.t5_tokenizer, text, self.length, self.t5))[0] for text in prompts]
        pooled = [
            self.clip(_padded(self.clip_tokenizer, text, clip_length, self.clip)).pooler_output
            for text in prompts
        ]
        return TextFeatures(torch.cat(tokens), torch.cat(pooled))

    def num_tokens(self, prompt: str) -> int:
        """T5's tokens with the end mark, before they are padded or cut."""
        return len(token_ids(self.t5_tokenizer, prompt, special=True))


def load(
    *,
    path: str | None = None,
    t5: str | None = None,
    clip: str | None = None,
    length: int = MAX_LENGTH,
    dtype: str = "bfloat16",
    device: torch.device | str | None = None,
    quantization: str | None = None,
) -> T5Clip:
    """Both encoders from a diffusers folder or hub id (`path`), or each from its own (`t5` and `clip`).

    By default the published pair. `length`: tokens of T5, at most 512. `quantization` is of T5 alone: CLIP is
    small.
    """
    if (t5 is None) != (clip is None) or (path is not None and t5 is not None):
        raise ValueError(f"T5 and CLIP: {path=}, {t5=}, {clip=}; give one folder as path, or t5 and clip")
    if not 1 <= length <= MAX_LENGTH:
        raise ValueError(f"T5 and CLIP: {length=}; FLUX.1 takes 1 to {MAX_LENGTH} tokens (schnell 256)")
    whole = path or WEIGHTS
    t5_place = (whole, "text_encoder_2", "tokenizer_2") if t5 is None else (t5, "", "")
    clip_place = (whole, "text_encoder", "tokenizer") if clip is None else (clip, "", "")
    options: dict[str, Any] = {"dtype": dtype, "device": device}
    return T5Clip(
        load_model(
            "T5EncoderModel",
            t5_place[0],
            subfolder=t5_place[1],
            unused=lambda tensor: tensor.startswith(("decoder.", "lm_head.")),
            quantization=quantization,
            **options,
        ),
        load_model(
            "CLIPTextModel",
            clip_place[0],
            subfolder=clip_place[1],
            unused=lambda tensor: not tensor.startswith("text_model."),
            **options,
        ),
        load_tokenizer(t5_place[0], subfolder=t5_place[2]),
        load_tokenizer(clip_place[0], subfolder=clip_place[2]),
        length,
    )


def _padded(tokenizer: Any, text: str, length: int, model: Any) -> Tensor:
    """(1, length) ids on the model's device."""
    inputs = tokenizer(text, padding="max_length", truncation=True, max_length=length, return_tensors="pt")
    return inputs["input_ids"].to(model.device)
