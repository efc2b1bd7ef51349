"""The three ways in which published autoencoders bring a latent to unit scale, and the 2 x 2 patchify."""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor, nn

__all__ = ["NORMALISATIONS", "BatchStatistics", "ScaleShift", "Whitening", "patchify", "unpatchify"]


def patchify(z: Tensor, patch: int) -> Tensor:
    """(B, c, h p, w p) => (B, c p p, h, w), channels in (c, row, column) order as FLUX.2."""
    return rearrange(z, "b c (h p) (w q) -> b (c p q) h w", p=patch, q=patch)


def unpatchify(z: Tensor, patch: int) -> Tensor:
    """The inverse of `patchify`."""
    return rearrange(z, "b (c p q) h w -> b c (h p) (w q)", p=patch, q=patch)


class ScaleShift(nn.Module):
    """(z - shift) scale for the whole latent (SD: 0.18215 and 0; FLUX.1: 0.3611 and 0.1159)."""

    scale: Tensor
    shift: Tensor

    def __init__(self, channels: int, grid: int):
        super().__init__()
        self.register_buffer("scale", torch.ones(()))
        self.register_buffer("shift", torch.zeros(()))

    def forward(self, z: Tensor) -> Tensor:
        return (z - self.shift) * self.scale

    def inverse(self, z: Tensor) -> Tensor:
        return z / self.scale + self.shift

    def fit(self, z: Tensor) -> None:
        self.scale.copy_(1 / z.std())
        self.shift.copy_(z.mean())


class BatchStatistics(nn.Module):
    """Mean and variance per channel, as FLUX.2's BatchNorm2d in eval mode (no affine, eps 1e-4 both ways)."""

    running_mean: Tensor
    running_var: Tensor
    eps = 1e-4

    def __init__(self, channels: int, grid: int):
        super().__init__()
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, z: Tensor) -> Tensor:
        return (z - self.running_mean[:, None, None]) / self._std()

    def inverse(self, z: Tensor) -> Tensor:
        return z * self._std() + self.running_mean[:, None, None]

    def fit(self, z: Tensor) -> None:
        """Less eps, which is added again: a channel of raw deviation down to 0.01 gets exactly 1, too."""
        self.running_mean.copy_(z.mean(dim=(0, 2, 3)))
        self.running_var.copy_((z.var(dim=(0, 2, 3)) - self.eps).clamp_min(0))

    def _std(self) -> Tensor:
        return (self.running_var + self.eps).sqrt()[:, None, None]


class Whitening(nn.Module):
    """Mean and variance per channel and position, as RAE (eps 1e-5 under the root); fixed to one grid."""

    mean: Tensor
    var: Tensor
    eps = 1e-5

    def __init__(self, channels: int, grid: int):
        super().__init__()
        self.register_buffer("mean", torch.zeros(channels, grid, grid))
        self.register_buffer("var", torch.ones(channels, grid, grid))

    def forward(self, z: Tensor) -> Tensor:
        return (z - self.mean) / (self.var + self.eps).sqrt()

    def inverse(self, z: Tensor) -> Tensor:
        return z * (self.var + self.eps).sqrt() + self.mean

    def fit(self, z: Tensor) -> None:
        self.mean.copy_(z.mean(dim=0))
        self.var.copy_(z.var(dim=0))


NORMALISATIONS = {"scale_shift": ScaleShift, "batchnorm": BatchStatistics, "whitening": Whitening}
