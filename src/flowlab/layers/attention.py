"""Multi-head attention: one function over heads, and the self-attention layer made of it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from flowlab.layers.norms import QKNorm
from flowlab.layers.rope import apply_rope

__all__ = ["SMALL", "SelfAttention", "attend"]

SMALL = 64
"""Keys up to which torch's fused attention loses on a CPU.

Forward and backward of 250 x 16 tokens, 4 heads of 24, one thread of Zen 4: fused 6.7 ms in float32 and 55 in
bfloat16, written out 4.2 and 3.3. Of 64 x 64 tokens, 6 heads of 32: 19 and 54 against 17 and 10.
"""


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    rope: Tensor | None = None,
    mask: Tensor | None = None,
    small: int = SMALL,
) -> Tensor:
    """softmax(q k^T / sqrt(D)) v: (B, H, N, D) each => (B, N, H D), heads merged; `rope` turns q, k.

    `mask` is bool, broadcast to (B, H, N, keys), true where a query sees a key; every query must see one.
    On a CPU up to `small` keys are attended to in plain operations.
    """
    if rope is not None:
        q, k = apply_rope(q, rope), apply_rope(k, rope)
    plain = q.device.type == "cpu" and k.shape[-2] <= small
    out = _written_out(q, k, v, mask) if plain else F.scaled_dot_product_attention(q, k, v, mask)
    return rearrange(out, "b h n d -> b n (h d)")


def _written_out(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """The same in plain operations, the softmax in float32."""
    logits = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5  # (B, H, N, M)
    if mask is not None:
        logits = logits.masked_fill(~mask, -torch.inf)
    return logits.softmax(dim=-1, dtype=torch.float32).to(v.dtype) @ v


class SelfAttention(nn.Module):
    """Tokens (B, N, width) attend to each other; joint attention of streams uses `heads_of` and `proj`."""

    def __init__(self, width: int, heads: int, *, qk_norm: bool = False, bias: bool = True):
        super().__init__()
        assert width % heads == 0, f"{width=} is not a multiple of {heads=}"
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=bias)
        self.norm = QKNorm(width // heads) if qk_norm else None
        self.proj = nn.Linear(width, width, bias=bias)

    def heads_of(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, N, width) => queries, keys, values (B, H, N, D); rows of `qkv` are [q | k | v], head-major."""
        q, k, v = rearrange(self.qkv(x), "b n (three h d) -> three b h n d", three=3, h=self.heads)
        if self.norm is not None:
            q, k = self.norm(q, k)
        return q, k, v

    def forward(self, x: Tensor, rope: Tensor | None = None) -> Tensor:
        return self.proj(attend(*self.heads_of(x), rope))
