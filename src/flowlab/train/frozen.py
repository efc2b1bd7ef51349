"""Frozen feature networks of any origin behind one face: tokens to aim at, hidden states to compare."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flowlab.features import vision
from flowlab.features.embedded import TEACHERS, Teacher, load_teacher
from flowlab.features.vision import VisionEncoder

__all__ = ["Frozen", "load"]

PLAIN: dict[str, Any] = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5), "resize": "bilinear"}


class Frozen:
    """A network that never trains; gradients pass through it to the pixels."""

    def __init__(self, network: Teacher | VisionEncoder):
        self.network = network
        self.width, self.depth = network.spec.width, network.spec.depth
        self.channels = network.spec.channels if isinstance(network, Teacher) else network.spec.width

    def tokens(self, pixels: Tensor) -> Tensor:
        """(B, 3, H, W) in [-1, 1] => patch tokens (B, N, channels), row-major."""
        if isinstance(self.network, Teacher):
            return self.network.tokens(self._fitted(pixels))
        return self.network(pixels).flatten(2).transpose(1, 2)  # (B, C, g, g) to (B, g g, C)

    def layers(self, pixels: Tensor, blocks: Sequence[int] = ()) -> list[Tensor]:
        """Hidden states (B, N, width) after each of `blocks`, from 0; () is all."""
        if isinstance(self.network, VisionEncoder):
            return self.network.layers(pixels, blocks or None)
        states = self.network.layers(self._fitted(pixels))
        return [states[index] for index in blocks] if blocks else states

    def to(self, device: torch.device) -> Frozen:
        """The same, its network moved."""
        self.network.to(device)
        return self

    def state_dict(self) -> dict[str, Tensor]:
        """The network's weights."""
        return self.network.state_dict()

    def _fitted(self, pixels: Tensor) -> Tensor:
        """Embedded teachers have one grid; others resize by themselves."""
        assert isinstance(self.network, Teacher)
        side = self.network.spec.resolution
        if pixels.shape[2:] == (side, side):
            return pixels
        return F.interpolate(pixels, size=(side, side), mode="bilinear", align_corners=False, antialias=True)


def load(name: str, *, affine: bool = True, plain: bool = False) -> Frozen:
    """An embedded teacher by name or .safetensors path, else a vision transformer from a folder or hub id.

    `affine` keeps the final norm's scale and shift (REPA and VA-VAE do, RAE does not); `plain` gives it
    [-1, 1] pixels as they are, resized bilinearly (VA-VAE). Neither touches an embedded teacher.
    """
    elsewhere = "/" in name or Path(name).is_dir()
    if name in TEACHERS or name.endswith(".safetensors") or not elsewhere:
        return Frozen(load_teacher(name))
    network: nn.Module = vision.load(name, affine=affine, **(PLAIN if plain else {}))
    assert isinstance(network, VisionEncoder)
    return Frozen(network)
