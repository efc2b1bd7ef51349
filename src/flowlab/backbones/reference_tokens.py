"""Positions of text, target and reference tokens, and references of different number and size in one batch.

A position is one integer per RoPE axis: (t, row, column, l) in FLUX.2, (t, row, column) in FLUX.1. The target
sits at t = 0, the k-th reference (from 0) at t = spacing (k + 1): 10, 20, ... in FLUX.2 and 1 in Kontext.
Every reference starts at row and column 0. Tokens are row-major.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from flowlab.backbones.tokens import grid_positions

__all__ = ["ReferenceTokens", "image_ids", "joined_ids", "reference_tokens", "text_ids"]


class ReferenceTokens(NamedTuple):
    """The references of B samples as one padded sequence of M tokens."""

    tokens: Tensor
    """(B, M, C), zeros where a sample has fewer."""
    ids: Tensor
    """(M, A) where all samples agree in number and sizes, else (B, M, A)."""
    mask: Tensor | None
    """(B, M) bool, true at tokens that exist; None where no sample is padded."""


def text_ids(length: int, num_axes: int, device: torch.device | None = None) -> Tensor:
    """(length, num_axes) int64: FLUX.2 counts tokens on its fourth axis, FLUX.1 puts all at 0."""
    ids = torch.zeros(length, num_axes, dtype=torch.int64, device=device)
    if num_axes == 4:
        ids[:, 3] = torch.arange(length, device=device)
    return ids


def image_ids(
    rows: int,
    columns: int,
    num_axes: int,
    t: int = 0,
    origin: Tensor | None = None,
    device: torch.device | None = None,
) -> Tensor:
    """(rows columns, num_axes) int64: (t, row, column, 0...) of each token.

    With `origin` (B, 2), the row and column of each sample's first token, (B, rows columns, num_axes).
    """
    ids = torch.zeros(rows * columns, num_axes, dtype=torch.int64, device=device)
    ids[:, 0] = t
    ids[:, 1:3] = grid_positions(rows, columns, device)
    if origin is None:
        return ids
    return ids + F.pad(origin.to(ids), (1, num_axes - 3))[:, None]


def joined_ids(parts: Sequence[Tensor]) -> Tensor:
    """Positions (N_i, A) or (B, N_i, A) one after the other; of each sample its own where any part's are."""
    batch = torch.broadcast_shapes(*(part.shape[:-2] for part in parts))
    return torch.cat([part.expand(*batch, *part.shape[-2:]) for part in parts], dim=-2)


def reference_tokens(
    references: Sequence[Sequence[Tensor] | None] | None,
    *,
    batch: int,
    channels: int,
    num_axes: int,
    spacing: int,
) -> ReferenceTokens | None:
    """The references, one list per sample of latents (C, h, w), as tokens; None where no sample has any.

    A sample without any may say so by None, too.
    """
    if references is None:
        return None
    references = [[] if own is None else list(own) for own in references]
    _check(references, batch, channels)
    if not any(len(own) for own in references):
        return None
    tokens = [torch.cat([latent.flatten(1).T for latent in own]) if own else None for own in references]
    ids = [_ids(own, num_axes, spacing) for own in references]
    lengths = [0 if own is None else len(own) for own in tokens]
    some = next(own for own in tokens if own is not None)
    padded = some.new_zeros(batch, max(lengths), channels)
    for i, own in enumerate(tokens):
        if own is not None:
            padded[i, : len(own)] = own
    if all(torch.equal(own, ids[0]) for own in ids):
        return ReferenceTokens(padded, ids[0].to(padded.device), None)
    places = torch.zeros(batch, max(lengths), num_axes, dtype=torch.int64)
    mask = torch.zeros(batch, max(lengths), dtype=torch.bool)
    for i, own in enumerate(ids):
        places[i, : len(own)], mask[i, : len(own)] = own, True
    held = None if min(lengths) == max(lengths) else mask.to(padded.device)
    return ReferenceTokens(padded, places.to(padded.device), held)


def _ids(references: Sequence[Tensor], num_axes: int, spacing: int) -> Tensor:
    """(m, A) on the CPU, so that comparing them never waits for a device."""
    places = [
        image_ids(latent.shape[1], latent.shape[2], num_axes, spacing * (k + 1))
        for k, latent in enumerate(references)
    ]
    return torch.cat(places) if places else torch.zeros(0, num_axes, dtype=torch.int64)


def _check(references: Sequence[Sequence[Tensor]], batch: int, channels: int) -> None:
    if len(references) != batch:
        raise ValueError(f"{len(references)} lists of references for {batch} samples; give one list each")
    for i, own in enumerate(references):
        for k, latent in enumerate(own):
            if latent.ndim != 3 or latent.shape[0] != channels:
                raise ValueError(
                    f"reference {k} of sample {i} is {tuple(latent.shape)}; this model takes latents"
                    f" ({channels}, h, w)"
                )
