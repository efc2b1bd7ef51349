"""Discriminators of autoencoder training, their hinge losses, and the augmentation before them.

Each looks at a whole batch (BatchNorm), so its losses are batch-level.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from flowlab.core.pixels import to_float, to_uint8
from flowlab.core.seeds import Streams

__all__ = [
    "FeatureDiscriminator",
    "PatchDiscriminator",
    "augment",
    "discriminator_loss",
    "generator_loss",
    "rounded",
]


# ---- losses ------------------------------------------------------------------------------------------------


def discriminator_loss(real: Tensor, fake: Tensor) -> Tensor:
    """Hinge: half the mean of relu(1 - d(real)) + relu(1 + d(fake)), a scalar (Lim and Ye 2017)."""
    return 0.5 * (F.relu(1 - real.float()).mean() + F.relu(1 + fake.float()).mean())


def generator_loss(fake: Tensor) -> Tensor:
    """-mean d(fake), a scalar."""
    return -fake.float().mean()


def rounded(pixels: Tensor) -> Tensor:
    """(B, 3, H, W) in [-1, 1] through 8 bits and back, without gradient: fakes as they would be stored."""
    return to_float(to_uint8(pixels)).to(pixels)


# ---- networks ----------------------------------------------------------------------------------------------


class PatchDiscriminator(nn.Module):
    """pix2pix's PatchGAN (Isola et al. 2017, arXiv 1611.07004) as taming-transformers and LDM use it.

    4 x 4 convolutions of stride 2, BatchNorm from the second on, then two of stride 1.
    """

    def __init__(self, channels: int = 64, num_layers: int = 3):
        super().__init__()
        self.smallest = 3 * 2**num_layers  # pixels per side that leave a logit
        widths = [channels * min(2**i, 8) for i in range(num_layers + 1)]
        layers: list[nn.Module] = [nn.Conv2d(3, widths[0], 4, 2, 1), nn.LeakyReLU(0.2)]
        for i, (before, after) in enumerate(pairwise(widths), start=1):
            stride = 2 if i < num_layers else 1
            layers += [nn.Conv2d(before, after, 4, stride, 1, bias=False), nn.BatchNorm2d(after)]
            layers += [nn.LeakyReLU(0.2)]
        self.layers = nn.Sequential(*layers, nn.Conv2d(widths[-1], 1, 4, 1, 1))
        self.apply(_initialise)

    def forward(self, pixels: Tensor) -> Tensor:
        """(B, 3, H, W) in [-1, 1] => logits (B, 1, h, w), a receptive field of 70 pixels at three layers.

        Images too small for one logit are enlarged, so that equivariance may shrink small training images.
        """
        if min(pixels.shape[2:]) < self.smallest:
            size = [max(self.smallest, length) for length in pixels.shape[2:]]
            pixels = F.interpolate(pixels, size=size, mode="bilinear", align_corners=False)
        return self.layers(pixels)


class FeatureDiscriminator(nn.Module):
    """Convolutional heads on the hidden states of a frozen vision transformer (Sauer et al. 2023, arXiv
    2301.09515), which RAE trains its decoder against. The frozen network stays with the caller."""

    def __init__(self, widths: Sequence[int], kernel: int = 9):
        super().__init__()
        self.heads = nn.ModuleList(_head(width, kernel) for width in widths)

    def forward(self, layers: Sequence[Tensor]) -> Tensor:
        """Hidden states (B, N, width), one for each head => logits (B, heads N)."""
        logits = [head(h.transpose(1, 2)) for head, h in zip(self.heads, layers, strict=True)]
        return torch.cat(logits, dim=2).flatten(1)


def _head(width: int, kernel: int) -> nn.Module:
    return nn.Sequential(
        _HeadBlock(width, 1), _Residual(_HeadBlock(width, kernel)), spectral_norm(nn.Conv1d(width, 1, 1))
    )


class _HeadBlock(nn.Module):
    """Spectrally normalised circular 1-D convolution over tokens, local BatchNorm, LeakyReLU."""

    def __init__(self, width: int, kernel: int):
        super().__init__()
        padding = kernel // 2
        conv = nn.Conv1d(width, width, kernel, padding=padding, padding_mode="circular")
        self.conv = spectral_norm(conv)
        self.norm = _LocalBatchNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        return F.leaky_relu(self.norm(self.conv(x)), 0.2)


class _Residual(nn.Module):
    def __init__(self, block: nn.Module):
        super().__init__()
        self.block = block

    def forward(self, x: Tensor) -> Tensor:
        return (self.block(x) + x) * 0.5**0.5


class _LocalBatchNorm(nn.Module):
    """BatchNorm over groups of at most 8 images, without running statistics."""

    def __init__(self, width: int, group: int = 8, eps: float = 1e-5):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))
        self.group, self.eps = group, eps

    def forward(self, x: Tensor) -> Tensor:
        parts = [_normalised(part, self.eps) for part in x.float().split(self.group)]  # (<= 8, width, N) each
        return torch.cat(parts) * self.weight[:, None] + self.bias[:, None]


def _normalised(x: Tensor, eps: float) -> Tensor:
    var, mean = torch.var_mean(x, dim=(0, 2), keepdim=True, correction=0)
    return (x - mean) * torch.rsqrt(var + eps)


def _initialise(module: nn.Module) -> None:
    """pix2pix's: weights N(0, 0.02), BatchNorm's N(1, 0.02) with zero bias."""
    if isinstance(module, nn.Conv2d):
        nn.init.normal_(module.weight, 0.0, 0.02)
    if isinstance(module, nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0, 0.02)
        nn.init.zeros_(module.bias)


# ---- augmentation ------------------------------------------------------------------------------------------


def augment(pixels: Tensor, streams: Streams) -> Tensor:
    """DiffAugment (Zhao et al. 2020, arXiv 2006.10738) without cut-out: colour, then a shift of up to 1/8.

    (B, 3, H, W) in [-1, 1] => the same shape; differentiable, and each image's draw is its own.
    """
    brightness, saturation, contrast = streams.uniform(3, 1, 1, 1).unbind(1)  # (B, 1, 1, 1) each
    x = pixels + (brightness - 0.5)
    grey = x.mean(1, keepdim=True)
    x = grey + (x - grey) * (2 * saturation)
    middle = x.mean((1, 2, 3), keepdim=True)
    x = middle + (x - middle) * (contrast + 0.5)
    return _shifted(x, streams)


def _shifted(x: Tensor, streams: Streams) -> Tensor:
    """Rows and columns moved by whole pixels, zeros coming in from outside."""
    for dim in (2, 3):
        length = x.shape[dim]
        reach = int(length / 8 + 0.5)
        moves = streams.integers(2 * reach + 1, 1)[:, 0] - reach  # (B,)
        places = torch.arange(length, device=x.device) + moves[:, None]  # (B, length)
        inside = (places >= 0) & (places < length)
        shape = (len(x), 1, length, 1) if dim == 2 else (len(x), 1, 1, length)
        index = places.clamp(0, length - 1).view(shape).expand_as(x)
        x = x.gather(dim, index) * inside.view(shape)
    return x
