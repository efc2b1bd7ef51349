"""Normalisation over the last axis, eps 1e-6 as in DiT and FLUX."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["NORMS", "LayerNorm", "QKNorm", "RMSNorm", "rms_norm"]


class LayerNorm(nn.Module):
    """LayerNorm without scale or shift: modulation supplies both."""

    def __init__(self, width: int):
        super().__init__()
        self.width = width

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, (self.width,), eps=1e-6)


class RMSNorm(nn.Module):
    """x / rms(x) times a learned scale (Zhang and Sennrich 2019, arXiv 1910.07467)."""

    def __init__(self, width: int):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return rms_norm(x) * self.scale


class QKNorm(nn.Module):
    """RMSNorm of queries and keys over each head's channels; bounds attention logits in half precision."""

    def __init__(self, head_width: int):
        super().__init__()
        self.query_norm = RMSNorm(head_width)
        self.key_norm = RMSNorm(head_width)

    def forward(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        return self.query_norm(q), self.key_norm(k)


NORMS: dict[str, type[nn.Module]] = {
    "layer": LayerNorm,  # DiT, SiT, FLUX: no parameters
    "rms": RMSNorm,  #     LightningDiT: one scale per channel
}


def rms_norm(x: Tensor) -> Tensor:
    """x / sqrt(mean(x^2) + 1e-6) over the last axis; float32 inside, cast back before any scale (as FLUX)."""
    return F.rms_norm(x, x.shape[-1:], eps=1e-6)
