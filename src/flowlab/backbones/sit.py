"""SiT / DiT: a class-conditional transformer over latent tokens with adaLN-Zero.

Ma et al. 2024 (SiT, arXiv 2401.08740) on the architecture of Peebles and Xie 2023 (DiT, arXiv 2212.09748).
The options of the spec are those of LightningDiT (Yao and Wang 2025, arXiv 2501.01423). Time runs from data
(0) to noise (1) and the output is the velocity noise - data; published weights of other conventions are
converted in adapters.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flowlab.backbones.output import Output
from flowlab.backbones.tokens import grid_positions, patchify, unpatchify
from flowlab.core.choices import lookup
from flowlab.layers.attention import SelfAttention
from flowlab.layers.embeddings import TimeEmbedding, sincos_2d
from flowlab.layers.mlp import MLPS
from flowlab.layers.modulation import Modulation, gated, modulate
from flowlab.layers.norms import NORMS
from flowlab.layers.rope import rope_table

__all__ = ["SiT", "SiTSpec", "empty"]


@dataclass(frozen=True, kw_only=True)
class SiTSpec:
    """Everything that decides the shapes of the weights and what they compute."""

    channels: int
    """C of the latent."""
    grid: int
    """h = w of the latent, before this model's own patchify."""
    num_classes: int
    """Labels are 0..num_classes - 1; the label num_classes is the null label of guidance."""
    width: int
    """Of the residual stream, a multiple of 4 and of heads."""
    depth: int
    """Blocks."""
    heads: int
    """Of attention."""
    patch: int = 1
    """Side of the model's own patchify; final latents are patchified already, hence 1."""
    mlp_ratio: float = 4.0
    """Hidden over residual width; SwiGLU takes 2/3 of it, for equal cost."""
    norm: str = "layer"
    """A key of NORMS."""
    mlp: str = "gelu"
    """A key of MLPS."""
    qk_norm: bool = False
    """RMSNorm of queries and keys."""
    rope: bool = False
    """Turn queries and keys by row and column (half of a head each, theta 1e4), beside the position table."""
    time_scale: float = 1.0
    """Factor on t before the sinusoid: 1 in SiT, 1000 in DiT."""

    @property
    def side(self) -> int:
        """Tokens per side."""
        return self.grid // self.patch

    @property
    def mlp_hidden(self) -> int:
        """Hidden width of the MLP."""
        return int(self.mlp_ratio * self.width * (2 / 3 if self.mlp == "swiglu" else 1))


class SiT(nn.Module):
    """model(x_t, t, labels, keep) -> Output. The velocity of a fresh model is exactly 0."""

    def __init__(self, spec: SiTSpec):
        super().__init__()
        validate(spec)
        self.spec = spec
        token_width = spec.channels * spec.patch**2
        self.patch_in = nn.Linear(token_width, spec.width)
        self.position = nn.Parameter(sincos_2d(spec.width, spec.side, spec.side), requires_grad=False)
        self.time_in = TimeEmbedding(spec.width, spec.time_scale)
        self.label_in = nn.Embedding(spec.num_classes + 1, spec.width)
        self.blocks = nn.ModuleList(Block(spec) for _ in range(spec.depth))
        self.final = FinalLayer(spec, token_width)
        self.initialise()

    def forward(self, x_t: Tensor, t: Tensor, condition: Tensor, keep: Collection[int] = ()) -> Output:
        """Velocity at x_t (B, C, h, w), times t (B,) or per token (B, N), labels (B,) int64.

        `keep` names blocks, 1..depth, whose outputs come back in `hidden`. Computes in the precision of the
        weights and answers in that of x_t.
        """
        self._check(x_t, keep)
        tokens = patchify(x_t, self.spec.patch).to(self.patch_in.weight.dtype)  # (B, N, C p p)
        h = self.patch_in(tokens) + self.position  # (B, N, width)
        c = F.silu(self._embed_time(t) + self.label_in(condition)[:, None])  # (B, 1 or N, width)
        rope = self._rope(h.device) if self.spec.rope else None
        hidden = {}
        for number, block in enumerate(self.blocks, start=1):
            h = block(h, c, rope)
            if number in keep:
                hidden[number] = h
        out = self.final(h, c)  # (B, N, C p p)
        return Output(unpatchify(out, self.spec.side, self.spec.side, self.spec.patch).to(x_t.dtype), hidden)

    def initialise(self) -> None:
        """DiT's: Xavier-uniform, zero bias; N(0, 0.02) for labels and time; zero modulations and output."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        for table in (self.label_in, self.time_in.in_layer, self.time_in.out_layer):
            nn.init.normal_(table.weight, std=0.02)
        silent = [module.lin for module in self.modules() if isinstance(module, Modulation)]
        for layer in (*silent, self.final.linear):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def _embed_time(self, t: Tensor) -> Tensor:
        """(B,) => (B, 1, width), (B, N) => (B, N, width); a time expanded over the batch is embedded once."""
        if t.ndim == 1 and t.stride(0) == 0:
            t = t[:1]
        return self.time_in(t[:, None] if t.ndim == 1 else t)

    def _rope(self, device: torch.device) -> Tensor:
        """Row and column own half of each head; made anew because a buffer would be cast with the weights."""
        half_head = self.spec.width // self.spec.heads // 2
        return rope_table(grid_positions(self.spec.side, self.spec.side, device), (half_head, half_head), 1e4)

    def _check(self, x_t: Tensor, keep: Collection[int]) -> None:
        spec = self.spec
        if x_t.shape[1:] != (spec.channels, spec.grid, spec.grid):
            wanted = f"(batch, {spec.channels}, {spec.grid}, {spec.grid})"
            raise ValueError(f"latent is {tuple(x_t.shape)}; this model takes {wanted}")
        if not all(1 <= number <= spec.depth for number in keep):
            raise ValueError(f"cannot keep blocks {tuple(keep)}; this model has 1 to {spec.depth}")


class Block(nn.Module):
    """h + gate attention(modulated norm(h)), then the same with the MLP."""

    def __init__(self, spec: SiTSpec):
        super().__init__()
        self.norm1 = NORMS[spec.norm](spec.width)
        self.attention = SelfAttention(spec.width, spec.heads, qk_norm=spec.qk_norm)
        self.norm2 = NORMS[spec.norm](spec.width)
        self.mlp = MLPS[spec.mlp](spec.width, spec.mlp_hidden)
        self.modulation = Modulation(spec.width, 6)

    def forward(self, h: Tensor, c: Tensor, rope: Tensor | None) -> Tensor:
        shift1, scale1, gate1, shift2, scale2, gate2 = self.modulation(c)
        h = gated(h, gate1, self.attention(modulate(self.norm1(h), shift1, scale1), rope))
        return gated(h, gate2, self.mlp(modulate(self.norm2(h), shift2, scale2)))


class FinalLayer(nn.Module):
    """Modulated norm and a linear map to the token's own width."""

    def __init__(self, spec: SiTSpec, token_width: int):
        super().__init__()
        self.norm = NORMS[spec.norm](spec.width)
        self.modulation = Modulation(spec.width, 2)
        self.linear = nn.Linear(spec.width, token_width)

    def forward(self, h: Tensor, c: Tensor) -> Tensor:
        shift, scale = self.modulation(c)
        return self.linear(modulate(self.norm(h), shift, scale))


def empty(spec: SiTSpec) -> SiT:
    """A SiT whose weights are not initialised: load every one of them next."""
    with torch.device("meta"):
        model = SiT(spec)
    return model.to_empty(device="cpu")


def validate(spec: SiTSpec) -> None:
    """Refuse names and sizes that do not fit together, before anything is built."""
    lookup(NORMS, spec.norm, "norm")
    lookup(MLPS, spec.mlp, "MLP")
    for name in ("channels", "grid", "num_classes", "width", "depth", "heads", "patch"):
        if getattr(spec, name) < 1:
            raise ValueError(f"{name} of a SiT is {getattr(spec, name)}; it must be at least 1")
    if spec.grid % spec.patch:
        raise ValueError(f"a latent of side {spec.grid} cannot be cut into patches of {spec.patch}")
    multiple = 4 * spec.heads if spec.rope else spec.heads
    if spec.width % multiple:
        raise ValueError(f"width {spec.width} is not a multiple of {multiple}; {spec.heads} heads need that")
