"""What a text-conditioned backbone is told beside the latent and the time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

__all__ = ["Condition"]


@dataclass(frozen=True)
class Condition:
    """The condition of B samples; what the model at hand does not take must be absent."""

    text: Tensor
    """Token features (B, L, text_width), padding included: FLUX attends to it."""
    pooled: Tensor | None = None
    """(B, pooled_width); FLUX.1 alone takes it and needs it."""
    guidance: Tensor | None = None
    """(B,) the embedded guidance scale, such as 4.0; needed by models that have the embedding."""
    references: Sequence[Sequence[Tensor]] | None = None
    """One list per sample of latents (C, h, w), any number and size of them."""
    concat: Tensor | None = None
    """(B, in_channels - C, h, w), laid beside the latent's channels: FLUX.1 Fill, Canny and Depth."""
    origin: Tensor | None = None
    """(B, 2) int64: row and column, in tokens, of the latent within the picture that it is a window of; None
    = the picture itself."""
