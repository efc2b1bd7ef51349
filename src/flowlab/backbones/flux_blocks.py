"""The blocks of FLUX: double-stream (text and image with weights of their own), then single-stream.

Attention is joint over [text, image] in both. FLUX.2 hands every block of a kind the same modulation;
FLUX.1's blocks own theirs (`own_modulation`). Row orders of the fused weights are the published ones: qkv
[q | k | v], linear1 [q | k | v | MLP], a gated MLP [gate | value].
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flowlab.layers.attention import SMALL, attend
from flowlab.layers.mlp import GeluMLP, SwiGLU
from flowlab.layers.modulation import Modulation, gated, modulate
from flowlab.layers.norms import LayerNorm, QKNorm, rms_norm
from flowlab.layers.rope import turn

__all__ = ["BlockShape", "DoubleBlock", "FinalLayer", "KeyValue", "SingleBlock", "Surroundings"]

KeyValue = tuple[Tensor, Tensor]
"""Keys after RoPE and values, (B, H, M, D) each."""

SMALL_HALF = 320
"""Keys up to which attention in bfloat16 is written out on a CPU.

Forward and backward of 16 x 128 tokens, 4 heads of 64, one thread of Zen 4: torch's fused attention 30 ms,
written out 8.5; of 4 x 320 tokens, 4 heads of 128, 39 and 20. In float32 the fused one wins at both.
"""


@dataclass(frozen=True, kw_only=True)
class BlockShape:
    """What decides the weights of a block."""

    width: int
    """Of the residual stream."""
    heads: int
    """Of attention; width is a multiple."""
    mlp_hidden: int
    """Hidden width of the MLP."""
    gated_mlp: bool
    """SwiGLU (FLUX.2), else GELU in the tanh form (FLUX.1)."""
    bias: bool
    """Of every linear layer."""
    own_modulation: bool
    """Each block has its modulation (FLUX.1), else the model shares one per kind (FLUX.2)."""


@dataclass(frozen=True)
class Surroundings:
    """What attention needs beside the tokens, the same in every block."""

    rope: Tensor
    """`rope_planes` of the tokens of the sequence."""
    mask: Tensor | None = None
    """(B, 1, 1, keys) bool, true at keys that exist; None where all do."""


class DoubleBlock(nn.Module):
    """Text and image attend jointly, then each goes through its MLP; weights of their own."""

    def __init__(self, shape: BlockShape):
        super().__init__()
        self.img_attn = Projections(shape)
        self.img_mlp = _mlp(shape)
        self.txt_attn = Projections(shape)
        self.txt_mlp = _mlp(shape)
        own = shape.own_modulation
        self.img_mod = Modulation(shape.width, 6, bias=shape.bias) if own else None
        self.txt_mod = Modulation(shape.width, 6, bias=shape.bias) if own else None
        self.norm = LayerNorm(shape.width)

    def forward(
        self,
        txt: Tensor,
        img: Tensor,
        txt_mod: Sequence[Tensor],
        img_mod: Sequence[Tensor],
        around: Surroundings,
        cached: KeyValue | None = None,
    ) -> tuple[Tensor, Tensor]:
        """(B, L, width), (B, N, width) => the same; each modulation is six vectors (B, 1, width)."""
        of_text = self.txt_attn.qkv(modulate(self.norm(txt), txt_mod[0], txt_mod[1]))  # (B, L, 3 width)
        of_image = self.img_attn.qkv(modulate(self.norm(img), img_mod[0], img_mod[1]))  # (B, N, 3 width)
        scale = torch.cat(
            [
                _scale(self.txt_attn.norm).expand(txt.shape[1], -1, -1, -1),
                _scale(self.img_attn.norm).expand(img.shape[1], -1, -1, -1),
            ]
        )  # (L + N, 2, 1, D)
        heads = _heads(torch.cat([of_text, of_image], dim=1), scale, around.rope)
        joint = _attend(heads, around, cached)  # (B, L + N, width)
        on_text, on_image = joint[:, : txt.shape[1]], joint[:, txt.shape[1] :]
        txt = _updated(txt, self.txt_attn.proj(on_text), self.txt_mlp, txt_mod, self.norm)
        return txt, _updated(img, self.img_attn.proj(on_image), self.img_mlp, img_mod, self.norm)

    def image_alone(
        self, img: Tensor, img_mod: Sequence[Tensor], around: Surroundings
    ) -> tuple[Tensor, KeyValue]:
        """The image stream without text: references that are cached. Returns keys and values, too."""
        qkv = self.img_attn.qkv(modulate(self.norm(img), img_mod[0], img_mod[1]))
        heads = _heads(qkv, _scale(self.img_attn.norm), around.rope)
        attended = self.img_attn.proj(_attend(heads, around, None))
        return _updated(img, attended, self.img_mlp, img_mod, self.norm), _kept(heads)


class SingleBlock(nn.Module):
    """Attention and MLP side by side on one sequence, fused into two matrices."""

    def __init__(self, shape: BlockShape):
        super().__init__()
        self.gated_mlp = shape.gated_mlp
        self.widths = (3 * shape.width, shape.mlp_hidden * (2 if shape.gated_mlp else 1))
        self.linear1 = nn.Linear(shape.width, sum(self.widths), bias=shape.bias)
        self.linear2 = nn.Linear(shape.width + shape.mlp_hidden, shape.width, bias=shape.bias)
        self.norm = QKNorm(shape.width // shape.heads)
        self.modulation = Modulation(shape.width, 3, bias=shape.bias) if shape.own_modulation else None
        self.pre_norm = LayerNorm(shape.width)

    def forward(
        self, x: Tensor, mod: Sequence[Tensor], around: Surroundings, cached: KeyValue | None = None
    ) -> Tensor:
        """(B, N, width) => the same; the modulation is three vectors (B, 1, width)."""
        heads, mlp = self._projected(x, mod, around.rope)
        return self._merged(x, _attend(heads, around, cached), mlp, mod)

    def with_keys(self, x: Tensor, mod: Sequence[Tensor], around: Surroundings) -> tuple[Tensor, KeyValue]:
        """The same, and the keys and values to cache."""
        heads, mlp = self._projected(x, mod, around.rope)
        return self._merged(x, _attend(heads, around, None), mlp, mod), _kept(heads)

    def _projected(
        self, x: Tensor, mod: Sequence[Tensor], rope: Tensor
    ) -> tuple[tuple[Tensor, Tensor, Tensor], Tensor]:
        shift, scale, _ = mod
        qkv, mlp = self.linear1(modulate(self.pre_norm(x), shift, scale)).split(self.widths, dim=-1)
        return _heads(qkv, _scale(self.norm), rope), mlp

    def _merged(self, x: Tensor, attended: Tensor, mlp: Tensor, mod: Sequence[Tensor]) -> Tensor:
        if self.gated_mlp:
            gate, value = mlp.chunk(2, dim=-1)
            mlp = F.silu(gate) * value
        else:
            mlp = F.gelu(mlp, approximate="tanh")
        return gated(x, mod[2], self.linear2(torch.cat([attended, mlp], dim=-1)))


class FinalLayer(nn.Module):
    """Modulated norm and a linear map to the token's own width; the modulation is [shift | scale]."""

    def __init__(self, width: int, channels: int, bias: bool):
        super().__init__()
        self.norm = LayerNorm(width)
        self.modulation = Modulation(width, 2, bias=bias)
        self.linear = nn.Linear(width, channels, bias=bias)

    def forward(self, x: Tensor, mod: Sequence[Tensor]) -> Tensor:
        return self.linear(modulate(self.norm(x), *mod))


class Projections(nn.Module):
    """Of one stream's attention: the fused matrix in, the norms of queries and keys, the matrix out."""

    def __init__(self, shape: BlockShape):
        super().__init__()
        self.qkv = nn.Linear(shape.width, 3 * shape.width, bias=shape.bias)
        self.norm = QKNorm(shape.width // shape.heads)
        self.proj = nn.Linear(shape.width, shape.width, bias=shape.bias)


# ---- small parts -------------------------------------------------------------------------------------------


def _mlp(shape: BlockShape) -> nn.Module:
    return (SwiGLU if shape.gated_mlp else GeluMLP)(shape.width, shape.mlp_hidden, bias=shape.bias)


def _scale(norm: QKNorm) -> Tensor:
    """(2, 1, D): of queries and of keys."""
    return torch.stack([norm.query_norm.scale, norm.key_norm.scale])[:, None]


def _heads(qkv: Tensor, scale: Tensor, rope: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(B, N, 3 H D) => queries, keys, values (B, H, N, D); queries and keys normalised and turned.

    `scale` is (2, 1, D) or (N, 2, 1, D). Both are done in float32 and in one pass over [q | k] as they lie.
    """
    parts = qkv.unflatten(-1, (3, -1, scale.shape[-1]))  # (B, N, 3, H, D)
    scale = scale.float().expand(*scale.shape[:-2], *parts.shape[3:])  # over heads: its gradient sums faster
    qk = turn(rms_norm(parts[:, :, :2].float()) * scale, rope).to(qkv.dtype)
    q, k, v = qk[:, :, 0], qk[:, :, 1], parts[:, :, 2]
    return q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)


def _attend(heads: tuple[Tensor, Tensor, Tensor], around: Surroundings, cached: KeyValue | None) -> Tensor:
    """(B, H, N, D) each => (B, N, H D); cached keys and values come after the sequence's own."""
    q, k, v = heads
    if cached is not None:
        k, v = torch.cat([k, cached[0]], dim=2), torch.cat([v, cached[1]], dim=2)
    return attend(q, k, v, mask=around.mask, small=SMALL_HALF if q.dtype == torch.bfloat16 else SMALL)


def _kept(heads: tuple[Tensor, Tensor, Tensor]) -> KeyValue:
    """Keys and values in memory of their own: as views they would hold the whole fused projection."""
    _, k, v = heads
    return k.contiguous(), v.contiguous()


def _updated(x: Tensor, attended: Tensor, mlp: nn.Module, mod: Sequence[Tensor], norm: LayerNorm) -> Tensor:
    """Both residual updates of a stream."""
    x = gated(x, mod[2], attended)
    return gated(x, mod[5], mlp(modulate(norm(x), mod[3], mod[4])))
