"""Representation alignment: hidden states learn to predict a teacher's tokens (REPA; arXiv 2410.06940)."""

from __future__ import annotations

import math

import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

__all__ = ["Projector", "alignment_loss", "match_tokens"]


class Projector(nn.Module):
    """Student tokens (B, N, width) => the teacher's width (B, N, teacher_width), token by token.

    Trained with the backbone and dropped at sampling. REPA uses hidden = 2048 for every size.
    """

    def __init__(self, width: int, hidden: int, teacher_width: int):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(width, hidden),
            nn.SiLU(),
            nn.Linear(hidden, hidden),
            nn.SiLU(),
            nn.Linear(hidden, teacher_width),
        )

    def forward(self, tokens: Tensor) -> Tensor:
        return self.layers(tokens)


def alignment_loss(projected: Tensor, teacher: Tensor) -> Tensor:
    """Negative cosine similarity, averaged over tokens: (B, N, D) and (B, M, D) => (B,) float32 in [-1, 1].

    Where the token counts differ the teacher's square map is resampled to the student's.
    """
    if projected.shape[-1] != teacher.shape[-1]:
        raise ValueError(
            f"projected tokens are {projected.shape[-1]} wide and the teacher's {teacher.shape[-1]}; "
            "give the projector the teacher's width"
        )
    teacher = match_tokens(teacher.float(), projected.shape[1])
    return -F.cosine_similarity(projected.float(), teacher, dim=-1).mean(dim=1)


def match_tokens(tokens: Tensor, num_tokens: int) -> Tensor:
    """Resample a square map of tokens (B, M, D) bilinearly, antialiased, to (B, num_tokens, D)."""
    if tokens.shape[1] == num_tokens:
        return tokens
    side, wanted = math.isqrt(tokens.shape[1]), math.isqrt(num_tokens)
    if side**2 != tokens.shape[1] or wanted**2 != num_tokens:
        raise ValueError(f"cannot resample {tokens.shape[1]} teacher tokens to {num_tokens}; use squares")
    grid = rearrange(tokens, "b (h w) d -> b d h w", h=side)
    grid = F.interpolate(grid, size=(wanted, wanted), mode="bilinear", align_corners=False, antialias=True)
    return rearrange(grid, "b d h w -> b (h w) d")
