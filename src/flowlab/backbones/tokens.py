"""Between latents and tokens: channels in (c, row, column) order, tokens row-major."""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor

__all__ = ["grid_positions", "patchify", "unpatchify"]


def patchify(x: Tensor, patch: int = 1) -> Tensor:
    """Latent (B, C, h, w) => tokens (B, h w / patch^2, C patch^2)."""
    if patch == 1:
        return rearrange(x, "b c h w -> b (h w) c")
    return rearrange(x, "b c (h p) (w q) -> b (h w) (c p q)", p=patch, q=patch)


def unpatchify(tokens: Tensor, rows: int, columns: int, patch: int = 1) -> Tensor:
    """The inverse; the latent is rows x columns tokens."""
    if patch == 1:
        return rearrange(tokens, "b (h w) c -> b c h w", h=rows, w=columns)
    return rearrange(tokens, "b (h w) (c p q) -> b c (h p) (w q)", h=rows, w=columns, p=patch, q=patch)


def grid_positions(rows: int, columns: int, device: torch.device | None = None) -> Tensor:
    """(row, column) of each token, (rows columns, 2) int64."""
    axes = [torch.arange(length, device=device) for length in (rows, columns)]
    return torch.cartesian_prod(*axes)
