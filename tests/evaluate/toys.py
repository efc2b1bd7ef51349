"""Autoencoders small enough to know the answer: means of 2 x 2 pixels, and the same with a fault."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flowlab.autoencoders.base import Autoencoder, LatentSpec, Moments
from flowlab.core.seeds import Streams

__all__ = ["Pooled"]


class Pooled(Autoencoder):
    """The latent is the mean of 2 x 2 pixels, decoding repeats it and adds `stamp` (1, 3, H, W)."""

    def __init__(self, resolution: int = 32, stamp: Tensor | float = 0.0, fixed_grid: bool = False):
        super().__init__()
        self.spec = LatentSpec(
            name="pooled", family="kl", stride=2, channels=3, resolution=resolution, fixed_grid=fixed_grid
        )
        self.gain = nn.Parameter(torch.ones(()), requires_grad=False)
        self.stamp = stamp

    def encode(self, pixels: Tensor) -> Moments:
        return Moments(F.avg_pool2d(pixels, 2) * self.gain, None)

    def to_latent(self, moments: Moments, generators: Streams | None = None) -> Tensor:
        return moments.mean

    def decode(self, latent: Tensor) -> Tensor:
        return self.decode_raw(latent)

    def decode_raw(self, z: Tensor) -> Tensor:
        return F.interpolate(z, scale_factor=2, mode="nearest") + self.stamp

    def fit_normalisation(self, means: Tensor) -> None:
        """Nothing to fit."""
