"""RAE's decoder (Zheng et al. 2025, arXiv 2510.11690): MAE's transformer decoder, one patch per token."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from einops import rearrange
from torch import Tensor, nn

from flowlab.core.choices import lookup
from flowlab.layers.attention import SelfAttention
from flowlab.layers.embeddings import sincos_2d
from flowlab.layers.mlp import GeluMLP

__all__ = ["DECODERS", "ViTDecoder", "ViTDecoderSpec", "decoder_spec"]

EPS = 1e-12  # of every norm: MAE's default in transformers, which RAE's weights were trained with


@dataclass(frozen=True, kw_only=True)
class ViTDecoderSpec:
    """The decoder's shape."""

    latent_channels: int = 768
    """Of a token of the latent."""
    width: int = 1152
    """Of the residual stream."""
    depth: int = 28
    """Blocks."""
    heads: int = 16
    mlp: int = 4096
    """Width inside a block's MLP."""
    patch: int = 16
    """Pixels per token side."""
    grid: int = 16
    """Tokens per side; positions are fixed to it."""
    position_span: int | None = None
    """None numbers rows and columns 0 to grid - 1, as MAE. 16 spreads any grid over 0 to 16, as diffusers
    does: the same at a grid of 16, not at the 32 of 512 px."""


# name                     width        depth     heads     mlp        | parameters at 768 channels, patch 16
DECODERS: dict[str, ViTDecoderSpec] = {
    "B":  ViTDecoderSpec(width=768,  depth=12, heads=12, mlp=3072),  # |  86,237,952
    "L":  ViTDecoderSpec(width=1024, depth=24, heads=16, mlp=4096),  # | 303,887,104
    "XL": ViTDecoderSpec(width=1152, depth=28, heads=16, mlp=4096),  # | 415,056,640
}  # fmt: skip


def decoder_spec(size: str, latent_channels: int = 768, grid: int = 16) -> ViTDecoderSpec:
    """The decoder `size` of DECODERS for latents (latent_channels, grid, grid)."""
    return replace(lookup(DECODERS, size, "decoder size"), latent_channels=latent_channels, grid=grid)


class ViTDecoder(nn.Module):
    """Latent (B, latent_channels, grid, grid), unnormalised => standardised pixels (B, 3, grid p, grid p)."""

    positions: Tensor

    def __init__(self, spec: ViTDecoderSpec):
        super().__init__()
        self.spec = spec
        self.latent_in = nn.Linear(spec.latent_channels, spec.width)
        self.class_token = nn.Parameter(torch.zeros(1, 1, spec.width))
        self.register_buffer("positions", _positions(spec), persistent=False)
        self.blocks = nn.ModuleList(ViTBlock(spec) for _ in range(spec.depth))
        self.norm = nn.LayerNorm(spec.width, eps=EPS)
        self.pixels_out = nn.Linear(spec.width, 3 * spec.patch**2)

    def forward(self, z: Tensor) -> Tensor:
        grid, patch = self.spec.grid, self.spec.patch
        if tuple(z.shape[1:]) != (self.spec.latent_channels, grid, grid):
            expected = f"(batch, {self.spec.latent_channels}, {grid}, {grid})"
            raise ValueError(f"the latent has shape {tuple(z.shape)}; this decoder takes {expected}")
        h = self.latent_in(rearrange(z, "b c h w -> b (h w) c"))
        h = torch.cat([self.class_token.expand(len(h), -1, -1), h], dim=1)  # (B, 1 + N, width)
        h = h + self.positions
        for block in self.blocks:
            h = block(h)
        h = self.pixels_out(self.norm(h))[:, 1:]
        return rearrange(h, "b (h w) (p q c) -> b c (h p) (w q)", h=grid, p=patch, q=patch)

    @property
    def last_weight(self) -> Tensor:
        """Where the adaptive weight of the adversarial loss measures gradients."""
        return self.pixels_out.weight


class ViTBlock(nn.Module):
    """Norm, attention, norm, exact GELU MLP; each branch is added to its input."""

    def __init__(self, spec: ViTDecoderSpec):
        super().__init__()
        self.norm1 = nn.LayerNorm(spec.width, eps=EPS)
        self.attention = SelfAttention(spec.width, spec.heads)
        self.norm2 = nn.LayerNorm(spec.width, eps=EPS)
        self.mlp = GeluMLP(spec.width, spec.mlp, approximate="none")

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


def _positions(spec: ViTDecoderSpec) -> Tensor:
    """(1, 1 + grid^2, width): zeros for the class token, then MAE's sines and cosines."""
    step = 1.0 if spec.position_span is None else spec.position_span / spec.grid
    table = sincos_2d(spec.width, spec.grid, spec.grid, step)
    return torch.cat([torch.zeros(1, spec.width), table])[None]
