"""The contract of every autoencoder: pixels => moments => final latent => pixels."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from flowlab.core.seeds import Streams
from flowlab.core.weights import tensors_id

__all__ = ["Autoencoder", "LatentSpec", "Moments"]


class Moments(NamedTuple):
    """What an encoder emits before sampling; both (B, c, H / s, W / s), before patchify and normalisation."""

    mean: Tensor
    logvar: Tensor | None
    """None where the encoder is deterministic."""


@dataclass(frozen=True, kw_only=True)
class LatentSpec:
    """The shape of a final latent, and the family that it belongs to."""

    name: str
    family: str
    """"kl" or "rae"."""
    stride: int
    """Pixels per token side: the final latent of H x W pixels is (channels, H / stride, W / stride)."""
    channels: int
    """Per token, after patchify."""
    resolution: int
    """Pixels per side that it was trained at."""
    fixed_grid: bool = False
    """Whether only that size works (positions or a whitening per position)."""

    @property
    def grid(self) -> int:
        """Tokens per side at the training resolution."""
        return self.resolution // self.stride

    @property
    def num_tokens(self) -> int:
        """Tokens per image at the training resolution."""
        return self.grid**2

    @property
    def bits_per_pixel(self) -> float:
        """Size of a bfloat16 latent over the number of pixels."""
        return 16 * self.channels / self.stride**2


class Autoencoder(nn.Module, ABC):
    """Pixels are float32 NCHW in [-1, 1]; a final latent is (B, channels, h, w) of about unit scale."""

    spec: LatentSpec

    @abstractmethod
    def encode(self, pixels: Tensor) -> Moments:
        """(B, 3, H, W) in [-1, 1] => moments."""

    @abstractmethod
    def to_latent(self, moments: Moments, generators: Streams | None = None) -> Tensor:
        """Moments => final latent, sampled where `generators` are given, at the mean otherwise."""

    @abstractmethod
    def decode(self, latent: Tensor) -> Tensor:
        """Final latent => (B, 3, H, W), about [-1, 1] and not clamped."""

    @abstractmethod
    def decode_raw(self, z: Tensor) -> Tensor:
        """A raw latent, shaped as the moments' mean => pixels; training works on it, before normalisation."""

    @abstractmethod
    def fit_normalisation(self, means: Tensor) -> None:
        """Set the normalisation's statistics from posterior means (n, c, h, w) of training images."""

    def latents(self, pixels: Tensor) -> Tensor:
        """Pixels => final latent at the posterior mean."""
        self.check(pixels)
        return self.to_latent(self.encode(pixels))

    def check(self, pixels: Tensor) -> None:
        """One clear line for the shapes that cannot work."""
        if pixels.ndim != 4 or pixels.shape[1] != 3:
            raise ValueError(f"pixels have shape {tuple(pixels.shape)}; expected (batch, 3, height, width)")
        if not pixels.is_floating_point():
            raise ValueError(
                f"pixels are {pixels.dtype}; expected float in [-1, 1] (core.pixels.to_float converts)"
            )
        height, width = pixels.shape[2:]
        if height % self.spec.stride or width % self.spec.stride:
            raise ValueError(
                f"{height} x {width} pixels; {self.spec.name} takes multiples of {self.spec.stride}"
            )
        if self.spec.fixed_grid and (height, width) != (self.spec.resolution, self.spec.resolution):
            side = self.spec.resolution
            raise ValueError(f"{height} x {width} pixels; {self.spec.name} takes {side} x {side} only")

    @property
    def identity(self) -> str:
        """Twelve hex digits of the weights: names the encoder in caches and result rows."""
        return tensors_id(self.state_dict())


def sample(moments: Moments, generators: Streams | None) -> Tensor:
    """mean + std * noise, or the mean without generators or variance."""
    if generators is None or moments.logvar is None:
        return moments.mean
    noise = generators.normal(*moments.mean.shape[1:]).to(moments.mean)
    return moments.mean + torch.exp(0.5 * moments.logvar) * noise
