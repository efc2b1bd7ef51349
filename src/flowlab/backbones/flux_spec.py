"""What the specs of FLUX.1 and FLUX.2 share, and the checks of their numbers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from flowlab.backbones.flux_blocks import BlockShape
from flowlab.core.choices import lookup

__all__ = ["ROUNDINGS", "FluxSpec"]


def _as_published(t: Tensor) -> Tensor:
    """What has for its thousandfold that which BFL's code computes of t in bfloat16 before it embeds it."""
    return (t.to(torch.bfloat16) * 1000).double().div(1000).float()


ROUNDINGS = {
    "none": lambda t: t,  #        float32 throughout
    "bfloat16": _as_published,  #  to the units that published images were made with: 4 of 1000 above t = 0.5
}
"""What becomes of the time (...), and of the guidance scale, before it is embedded."""


@dataclass(frozen=True, kw_only=True)
class FluxSpec(ABC):
    """Everything that decides the shapes of the weights and what they compute."""

    channels: int
    """C of the latent and of the velocity: the width of an image token, as final latents need no patchify."""
    width: int
    """Of the residual stream, a multiple of heads."""
    heads: int
    """Of attention."""
    double_blocks: int
    """Blocks in which text and image have weights of their own."""
    single_blocks: int
    """Blocks after those, in which they share them."""
    text_width: int
    """Of a text token."""
    mlp_ratio: float
    """Hidden over residual width."""
    axes: tuple[int, ...]
    """Channels of a head that each RoPE axis owns, even numbers that add up to width / heads."""
    theta: float
    """RoPE's base."""
    guidance: bool
    """Whether the guidance scale is embedded (guidance-distilled weights)."""
    time_rounding: str = "none"
    """A key of ROUNDINGS."""

    @property
    @abstractmethod
    def entry_channels(self) -> int:
        """Of an image token as it enters, with what is laid beside the latent."""

    @property
    @abstractmethod
    def num_axes(self) -> int:
        """Of RoPE: coordinates of a token's position."""

    @property
    @abstractmethod
    def spacing(self) -> int:
        """RoPE time of the first reference, and between one and the next."""

    @property
    @abstractmethod
    def block(self) -> BlockShape:
        """Of every block."""

    @property
    def mlp_hidden(self) -> int:
        """Hidden width of the MLP."""
        return int(self.width * self.mlp_ratio)

    def validate(self) -> None:
        """Refuse sizes that do not fit together, before anything is built."""
        lookup(ROUNDINGS, self.time_rounding, "rounding of the time")
        for name in ("channels", "width", "heads", "text_width", "mlp_hidden"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} of a FLUX is {getattr(self, name)}; it must be at least 1")
        if self.double_blocks < 0 or self.single_blocks < 0 or self.double_blocks + self.single_blocks == 0:
            blocks = f"{self.double_blocks} double and {self.single_blocks} single blocks"
            raise ValueError(f"a FLUX of {blocks} is none; give at least one block")
        if self.width % self.heads:
            raise ValueError(
                f"width {self.width} is not a multiple of {self.heads} heads; choose one that is"
            )
        head = self.width // self.heads
        fits = len(self.axes) == self.num_axes and sum(self.axes) == head
        if not fits or any(axis < 0 or axis % 2 for axis in self.axes):
            raise ValueError(
                f"RoPE axes {tuple(self.axes)} must be {self.num_axes} even numbers that add up to the head's"
                f" width {head} (width {self.width}, {self.heads} heads)"
            )
