"""What a text encoder is: each prompt, by itself, becomes the same number of token features."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

__all__ = ["TextEncoder", "TextFeatures", "warn_of_cuts"]

SHOWN = 32
"""Characters of a prompt in a warning."""


class TextFeatures(NamedTuple):
    """What a generator learns of B prompts."""

    tokens: Tensor
    """(B, length, width) floating point. Padding counts: FLUX attends to it."""
    pooled: Tensor | None = None
    """(B, pooled_width), one vector per prompt, for FLUX.1 (CLIP); None elsewhere."""

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> TextFeatures:
        """The same features on another device or in another number format."""
        pooled = None if self.pooled is None else self.pooled.to(device, dtype)
        return TextFeatures(self.tokens.to(device, dtype), pooled)


class TextEncoder(Protocol):
    """A frozen function of prompts. The features of a prompt never depend on its neighbours in a batch."""

    @property
    def identity(self) -> str:
        """Names the encoder; another string whenever any feature would differ."""
        ...

    @property
    def width(self) -> int:
        """Channels of a token."""
        ...

    @property
    def length(self) -> int:
        """Tokens of every prompt: shorter ones are padded, longer ones cut."""
        ...

    def encode(self, prompts: Sequence[str]) -> TextFeatures:
        """Features of B prompts, without gradients, on the encoder's device; says what it had to cut."""
        ...

    def num_tokens(self, prompt: str) -> int:
        """Tokens of a prompt (with the template around it) before it is padded or cut to `length`."""
        ...


def warn_of_cuts(prompts: Sequence[str], num_tokens: Sequence[int], length: int) -> None:
    """One warning for all prompts of a call that have more than `length` tokens; none where all fit."""
    cuts = [
        f"prompt {i} ({prompt[:SHOWN] + '...' if len(prompt) > SHOWN else prompt!r}) lost its last"
        f" {num - length} of {num} tokens"
        for i, (prompt, num) in enumerate(zip(prompts, num_tokens, strict=True))
        if num > length
    ]
    if cuts:
        warnings.warn(f"the text encoder takes {length} tokens: {'; '.join(cuts)}; shorten it", stacklevel=3)
