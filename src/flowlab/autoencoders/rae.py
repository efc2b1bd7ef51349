"""Representation autoencoder (Zheng et al. 2025, arXiv 2510.11690): a frozen feature network encodes, a
ViT decodes.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from einops import rearrange
from torch import Tensor, nn

from flowlab.autoencoders.base import Autoencoder, LatentSpec, Moments
from flowlab.autoencoders.normalise import Whitening
from flowlab.core.pixels import to_float, to_uint8
from flowlab.core.seeds import Streams
from flowlab.features.embedded import Teacher, TeacherSpec, transformer_block

__all__ = ["RAESpec", "RepresentationAutoencoder"]


@dataclass(frozen=True, kw_only=True)
class RAESpec:
    """The frozen encoder's shape and the trained decoder's."""

    encoder: TeacherSpec = field(default_factory=TeacherSpec)
    width: int = 160
    """Of the decoder."""
    depth: int = 4
    """Decoder blocks."""
    heads: int = 4


class RepresentationAutoencoder(Autoencoder):
    """Tokens of the frozen encoder, whitened per channel and position, are the latent."""

    def __init__(self, spec: RAESpec, name: str = "rae"):
        super().__init__()
        self.options = spec
        teacher = spec.encoder
        self.spec = LatentSpec(
            name=name,
            family="rae",
            stride=teacher.patch,
            channels=teacher.channels,
            resolution=teacher.resolution,
            fixed_grid=True,
        )
        self.encoder = Teacher(teacher).eval().requires_grad_(False)
        self.normalise = Whitening(teacher.channels, teacher.grid)
        self.decoder = TokenDecoder(spec)

    def encode(self, pixels: Tensor) -> Moments:
        tokens = self.encoder.tokens(to_float(to_uint8(pixels)).to(pixels))
        return Moments(rearrange(tokens, "b (h w) c -> b c h w", h=self.spec.grid), None)

    def to_latent(self, moments: Moments, generators: Streams | None = None) -> Tensor:
        return self.normalise(moments.mean)

    def decode(self, latent: Tensor) -> Tensor:
        return self.decode_raw(self.normalise.inverse(latent))

    def decode_raw(self, z: Tensor) -> Tensor:
        return self.decoder(z)

    def fit_normalisation(self, means: Tensor) -> None:
        self.normalise.fit(means)


class TokenDecoder(nn.Module):
    """Tokens => pre-norm transformer => one patch of pixels per token."""

    def __init__(self, spec: RAESpec):
        super().__init__()
        self.patch = spec.encoder.patch
        self.token_in = nn.Linear(spec.encoder.channels, spec.width)
        self.position = nn.Parameter(torch.randn(1, spec.encoder.grid**2, spec.width) * 0.02)
        self.blocks = nn.ModuleList(transformer_block(spec.width, spec.heads) for _ in range(spec.depth))
        self.norm = nn.LayerNorm(spec.width)
        self.pixels_out = nn.Linear(spec.width, 3 * self.patch**2)

    def forward(self, z: Tensor) -> Tensor:
        height = z.shape[2]
        h = self.token_in(rearrange(z, "b c h w -> b (h w) c")) + self.position
        for block in self.blocks:
            h = block(h)
        h = self.pixels_out(self.norm(h))
        return rearrange(h, "b (h w) (c p q) -> b c (h p) (w q)", h=height, p=self.patch, q=self.patch)
