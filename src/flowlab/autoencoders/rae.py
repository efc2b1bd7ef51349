"""Representation autoencoder (Zheng et al. 2025, arXiv 2510.11690): a frozen feature network encodes, a
ViT decodes.

Two sizes of one thing: RAESpec is the small one that ships with flowlab (the teacher encodes),
PublishedRAESpec the full-size one (DINOv2, SigLIP2 or MAE encodes). Only their parts differ.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from einops import rearrange
from torch import Tensor, nn

from flowlab.autoencoders.base import Autoencoder, LatentSpec, Moments
from flowlab.autoencoders.normalise import Whitening
from flowlab.autoencoders.vit_decoder import ViTDecoder, ViTDecoderSpec
from flowlab.core.choices import lookup
from flowlab.core.pixels import to_float, to_uint8
from flowlab.core.seeds import Streams
from flowlab.features.embedded import Teacher, TeacherSpec, transformer_block
from flowlab.features.vision import VisionEncoder, VisionSpec

__all__ = ["STATISTICS", "PublishedRAESpec", "RAESpec", "RepresentationAutoencoder", "StoredWhitening"]


@dataclass(frozen=True, kw_only=True)
class RAESpec:
    """The frozen encoder's shape and the trained decoder's."""

    encoder: TeacherSpec = field(default_factory=TeacherSpec)
    width: int = 160
    """Of the decoder."""
    depth: int = 4
    """Decoder blocks."""
    heads: int = 4


@dataclass(frozen=True, kw_only=True)
class PublishedRAESpec:
    """A published vision transformer, the decoder trained on it, and the statistics between them."""

    encoder: VisionSpec = field(default_factory=VisionSpec)
    decoder: ViTDecoderSpec = field(default_factory=ViTDecoderSpec)
    statistics: str = "position"
    """What the latent's mean and std are kept for: a key of STATISTICS."""
    eps: float = 1e-5
    """Added to the stored std: 1e-5 as diffusers, whose files hold sqrt(var + 1e-5), so that it enters twice.
    RAE's own code has it once; 0 is that."""
    scale: float = 1.0
    """On the normalised latent."""
    noise_tau: float = 0.0
    """The strength of the latent noise that the decoder was trained with. A record; training has its own."""


class RepresentationAutoencoder(Autoencoder):
    """Tokens of the frozen encoder, whitened per channel and position, are the latent."""

    encoder: Teacher | VisionEncoder
    normalise: Whitening | StoredWhitening
    decoder: TokenDecoder | ViTDecoder

    def __init__(self, spec: RAESpec | PublishedRAESpec, name: str = "rae"):
        super().__init__()
        self.options = spec
        published = isinstance(spec, PublishedRAESpec)
        self.spec = _latent_of_published(spec, name) if published else _latent_of_embedded(spec, name)
        if published:
            self.encoder = VisionEncoder(spec.encoder)
            self.normalise = StoredWhitening(spec)
            self.decoder = ViTDecoder(spec.decoder)
        else:
            self.encoder = Teacher(spec.encoder).eval().requires_grad_(False)
            self.normalise = Whitening(spec.encoder.channels, spec.encoder.grid)
            self.decoder = TokenDecoder(spec)

    def encode(self, pixels: Tensor) -> Moments:
        self.check(pixels)
        if isinstance(self.encoder, VisionEncoder):
            return Moments(self.encoder(pixels), None)
        tokens = self.encoder.tokens(to_float(to_uint8(pixels)).to(pixels))
        return Moments(rearrange(tokens, "b (h w) c -> b c h w", h=self.spec.grid), None)

    def to_latent(self, moments: Moments, generators: Streams | None = None) -> Tensor:
        return self.normalise(moments.mean)

    def decode(self, latent: Tensor) -> Tensor:
        self.check_latent(latent)
        return self.decode_raw(self.normalise.inverse(latent))

    def decode_raw(self, z: Tensor) -> Tensor:
        pixels = self.decoder(z)
        return self.encoder.unstandardise(pixels) if isinstance(self.encoder, VisionEncoder) else pixels

    def fit_normalisation(self, means: Tensor) -> None:
        self.normalise.fit(means)


def _latent_of_embedded(spec: RAESpec, name: str) -> LatentSpec:
    teacher = spec.encoder
    return LatentSpec(
        name=name,
        family="rae",
        stride=teacher.patch,
        channels=teacher.channels,
        resolution=teacher.resolution,
        fixed_grid=True,
    )


def _latent_of_published(spec: PublishedRAESpec, name: str) -> LatentSpec:
    """The decoder sets the size: DINOv2 sees 256 px shrunk to 224, and 16 x 16 tokens become 256 px again."""
    encoder, decoder = spec.encoder, spec.decoder
    if (encoder.width, encoder.grid) != (decoder.latent_channels, decoder.grid):
        raise ValueError(
            f"the encoder gives {encoder.width} channels on a grid of {encoder.grid}, the decoder takes"
            f" {decoder.latent_channels} on {decoder.grid}; make the decoder's equal to them"
        )
    return LatentSpec(
        name=name,
        family="rae",
        stride=decoder.patch,
        channels=encoder.width,
        resolution=decoder.patch * decoder.grid,
        fixed_grid=True,
    )


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


# ---- statistics --------------------------------------------------------------------------------------------

STATISTICS = {  # the axes over which they are taken, of means (n, C, g, g)
    "position": (0,),  #       (C, g, g): one per channel and position, RAE's
    "channel": (0, 2, 3),  #   (C, 1, 1)
    "none": (),  #             (1,), mean 0 and std 1: files from before statistics were taken
}


class StoredWhitening(nn.Module):
    """(z - mean) / (std + eps) scale, with mean and std as files of diffusers' AutoencoderRAE hold them."""

    mean: Tensor
    std: Tensor

    def __init__(self, spec: PublishedRAESpec):
        super().__init__()
        lookup(STATISTICS, spec.statistics, "kind of latent statistics")
        channels, grid = spec.encoder.width, spec.encoder.grid
        shapes = {"position": (channels, grid, grid), "channel": (channels, 1, 1), "none": (1,)}
        self.statistics, self.eps, self.scale = spec.statistics, spec.eps, spec.scale
        self.register_buffer("mean", torch.zeros(shapes[spec.statistics]))
        self.register_buffer("std", torch.ones(shapes[spec.statistics]))

    def forward(self, z: Tensor) -> Tensor:
        return (z - self.mean) / (self.std + self.eps) * self.scale

    def inverse(self, z: Tensor) -> Tensor:
        return z / self.scale * (self.std + self.eps) + self.mean

    def fit(self, z: Tensor) -> None:
        """From features (n, C, g, g); std is sqrt(var + 1e-5), as in the published files."""
        axes = STATISTICS[self.statistics]
        if not axes:
            raise ValueError(
                "this autoencoder keeps no latent statistics; build it with statistics='position'"
            )
        whole = self.mean.shape
        self.mean.copy_(z.mean(dim=axes).reshape(whole))
        self.std.copy_((z.var(dim=axes) + 1e-5).sqrt().reshape(whole))
