"""The convolutional KL autoencoder of latent diffusion (Rombach et al. 2022): SD, FLUX.1 and FLUX.2 by
options.

Names of modules follow the official checkpoints. The small models add one option of ours, a linear path
beside the convolutions that starts as the principal components of image patches: a small network trained
for minutes from scratch blurs, and every FID measured behind it means nothing; with the path it starts
from the best linear code.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, zip_longest

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flowlab.autoencoders.base import Autoencoder, LatentSpec, Moments, sample
from flowlab.autoencoders.families import family_of
from flowlab.autoencoders.normalise import NORMALISATIONS, ScaleShift, patchify, unpatchify
from flowlab.core.choices import lookup
from flowlab.core.seeds import Streams

__all__ = ["KLAutoencoder", "KLSpec"]


@dataclass(frozen=True, kw_only=True)
class KLSpec:
    """The options that separate the family's members."""

    latent_channels: int
    """Before patchify."""
    channels: int = 128
    """Width at full resolution."""
    decoder_channels: int | None = None
    """The decoder's, where it differs (FLUX.2's small decoder: 96)."""
    multipliers: tuple[int, ...] = (1, 2, 4, 4)
    """Width of each level over `channels`; each level after the first halves the side."""
    num_res_blocks: int = 2
    """Per encoder level; the decoder has one more."""
    groups: int = 32
    """Of GroupNorm."""
    mid_attention: bool = True
    """Self-attention between the two middle blocks."""
    attention_levels: tuple[int, ...] = ()
    """Levels (0 = full resolution) whose every block is followed by self-attention; VA-VAE: the lowest."""
    quant_conv: bool = True
    """1 x 1 convolutions around the latent (SD and FLUX.2 have them, FLUX.1 has not)."""
    patch: int = 2
    """Side of the patchify that makes tokens."""
    normalisation: str = "scale_shift"
    """A key of NORMALISATIONS."""
    scale: float = 1.0
    """Where that is "scale_shift": its start. A published one keeps it; fit_normalisation replaces it."""
    shift: float = 0.0
    """As `scale`."""
    linear_path: bool = False
    """Add the linear path; needs no other change."""
    resolution: int = 256
    """Pixels per side at training."""

    @property
    def stride(self) -> int:
        """Pixels per token side."""
        return 2 ** (len(self.multipliers) - 1) * self.patch


class KLAutoencoder(Autoencoder):
    """moments = encoder(pixels); latent = normalise(patchify(sample)); pixels = decoder(...)."""

    def __init__(self, spec: KLSpec, name: str = "kl"):
        super().__init__()
        _check(spec)
        tokens = spec.latent_channels * spec.patch**2
        self.options = spec
        self.spec = LatentSpec(
            name=name,
            family="kl" if spec.linear_path else family_of(spec),
            stride=spec.stride,
            channels=tokens,
            resolution=spec.resolution,
            fixed_grid=spec.normalisation == "whitening",
        )
        self.encoder = Encoder(spec)
        self.decoder = Decoder(spec)
        self.normalise = NORMALISATIONS[spec.normalisation](tokens, self.spec.grid)
        if isinstance(self.normalise, ScaleShift):
            self.normalise.scale.fill_(spec.scale)
            self.normalise.shift.fill_(spec.shift)
        self.linear = LinearPath(spec.stride, tokens, spec.patch) if spec.linear_path else None

    def encode(self, pixels: Tensor) -> Moments:
        self.check(pixels)
        pixels = pixels.to(self.encoder.conv_in.weight.dtype)
        mean, logvar = self.encoder(pixels).chunk(2, dim=1)  # (B, c, H / f, W / f) each
        if self.linear is not None:
            mean = mean + self.linear.encode(pixels)
        return Moments(mean, logvar.clamp(-30, 20))

    def to_latent(self, moments: Moments, generators: Streams | None = None) -> Tensor:
        return self.normalise(patchify(sample(moments, generators).float(), self.options.patch))

    def decode(self, latent: Tensor) -> Tensor:
        self.check_latent(latent)
        return self.decode_raw(unpatchify(self.normalise.inverse(latent), self.options.patch)).float()

    def decode_raw(self, z: Tensor) -> Tensor:
        z = z.to(self.decoder.conv_in.weight.dtype)  # the normalisation's statistics stay float32
        pixels = self.decoder(z)
        return pixels if self.linear is None else pixels + self.linear.decode(z)

    def fit_normalisation(self, means: Tensor) -> None:
        self.normalise.fit(patchify(means, self.options.patch))

    @property
    def last_encoder_weight(self) -> Tensor:
        """Where the adaptive weight of the semantic loss measures gradients."""
        return self.encoder.conv_out.weight


def _check(spec: KLSpec) -> None:
    lookup(NORMALISATIONS, spec.normalisation, "latent normalisation")
    for field in ("latent_channels", "channels", "multipliers", "num_res_blocks", "groups", "scale"):
        if not getattr(spec, field):
            raise ValueError(f"{field} is {getattr(spec, field)!r}; give more than nothing")
    for width in [c * m for c in (spec.channels, spec.decoder_channels or 0) for m in spec.multipliers]:
        if width % spec.groups:
            raise ValueError(f"{width} channels cannot form {spec.groups} groups; set groups to a divisor")
    levels = range(len(spec.multipliers))
    if not set(spec.attention_levels) <= set(levels):
        raise ValueError(f"attention_levels is {spec.attention_levels}; the levels are 0 to {levels[-1]}")
    if (spec.scale, spec.shift) != (1, 0) and spec.normalisation != "scale_shift":
        raise ValueError(
            f"scale={spec.scale}, shift={spec.shift} belong to scale_shift, not {spec.normalisation}"
        )


class Encoder(nn.Module):
    """Pixels => mean and log-variance, stacked over channels."""

    def __init__(self, spec: KLSpec):
        super().__init__()
        widths = [spec.channels * m for m in spec.multipliers]
        self.conv_in = conv3(3, widths[0])
        self.down = nn.ModuleList()
        before, last = widths[0], len(widths) - 1
        for level, width in enumerate(widths):
            attend = level in spec.attention_levels
            stage = Level(before, width, spec.num_res_blocks, spec.groups, attend, downsample=level < last)
            self.down.append(stage)
            before = width
        self.mid = Middle(before, spec)
        self.norm_out = nn.GroupNorm(spec.groups, before, eps=1e-6)
        self.conv_out = conv3(before, 2 * spec.latent_channels)
        self.quant_conv = (
            nn.Conv2d(2 * spec.latent_channels, 2 * spec.latent_channels, 1) if spec.quant_conv else None
        )

    def forward(self, pixels: Tensor) -> Tensor:
        h = self.conv_in(pixels)
        for layer in chain.from_iterable(self.down):  # pyright: ignore
            h = layer(h)
        h = self.conv_out(activated(self.norm_out, self.mid(h)))
        return h if self.quant_conv is None else self.quant_conv(h)


class Decoder(nn.Module):
    """Unnormalised latent => pixels."""

    def __init__(self, spec: KLSpec):
        super().__init__()
        widths = [(spec.decoder_channels or spec.channels) * m for m in spec.multipliers]
        before = widths[-1]
        self.post_quant_conv = (
            nn.Conv2d(spec.latent_channels, spec.latent_channels, 1) if spec.quant_conv else None
        )
        self.conv_in = conv3(spec.latent_channels, before)
        self.mid = Middle(before, spec)
        stages = []
        for level, width in reversed(list(enumerate(widths))):
            attend = level in spec.attention_levels
            stage = Level(before, width, spec.num_res_blocks + 1, spec.groups, attend, upsample=level > 0)
            stages.append(stage)
            before = width
        self.up = nn.ModuleList(reversed(stages))  # numbered by resolution level, as the official files
        self.norm_out = nn.GroupNorm(spec.groups, before, eps=1e-6)
        self.conv_out = conv3(before, 3)

    def forward(self, z: Tensor) -> Tensor:
        h = z if self.post_quant_conv is None else self.post_quant_conv(z)
        h = self.mid(self.conv_in(h))
        for layer in chain.from_iterable(reversed(self.up)):  # pyright: ignore
            h = layer(h)
        h = activated(self.norm_out, h)
        return self.conv_out(h)


# ---- blocks ------------------------------------------------------------------------------------------------


def conv3(before: int, after: int) -> nn.Conv2d:
    """3 x 3 convolution that keeps the size."""
    return nn.Conv2d(before, after, 3, padding=1)


def activated(norm: nn.GroupNorm, x: Tensor) -> Tensor:
    """silu(norm(x)), in place of the normalised map where no gradient will ask for it."""
    h = norm(x)
    return F.silu(h, inplace=not h.requires_grad)


class Level(nn.Module):
    """Residual blocks at one resolution, each followed by attention if it has it, then the change of size.

    A sequence of layers and not one itself: who called a whole level would hold its input to its end.
    """

    def __init__(
        self,
        before: int,
        width: int,
        num_blocks: int,
        groups: int,
        attend: bool,
        downsample: bool = False,
        upsample: bool = False,
    ):
        super().__init__()
        self.block = nn.ModuleList(
            ResBlock(before if i == 0 else width, width, groups) for i in range(num_blocks)
        )
        self.attn = nn.ModuleList(SpatialAttention(width, groups) for _ in range(num_blocks if attend else 0))
        self.downsample = Downsample(width) if downsample else None
        self.upsample = Upsample(width) if upsample else None

    def __iter__(self) -> Iterator[nn.Module]:
        pairs = chain.from_iterable(zip_longest(self.block, self.attn))
        return (layer for layer in (*pairs, self.downsample, self.upsample) if layer is not None)


class ResBlock(nn.Module):
    """GroupNorm, SiLU, 3 x 3, twice, plus the input (through 1 x 1 where the width changes)."""

    def __init__(self, before: int, after: int, groups: int):
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, before, eps=1e-6)
        self.conv1 = conv3(before, after)
        self.norm2 = nn.GroupNorm(groups, after, eps=1e-6)
        self.conv2 = conv3(after, after)
        self.nin_shortcut = nn.Conv2d(before, after, 1) if before != after else None

    def forward(self, x: Tensor) -> Tensor:
        h = activated(self.norm1, x)  # a line each: nested, every map would live until the last is done
        h = self.conv1(h)
        h = activated(self.norm2, h)
        h = self.conv2(h)
        return h + (x if self.nin_shortcut is None else self.nin_shortcut(x))


class Middle(nn.Module):
    """Block, attention (optional), block at the lowest resolution."""

    def __init__(self, width: int, spec: KLSpec):
        super().__init__()
        self.block_1 = ResBlock(width, width, spec.groups)
        self.attn_1 = SpatialAttention(width, spec.groups) if spec.mid_attention else None
        self.block_2 = ResBlock(width, width, spec.groups)

    def forward(self, x: Tensor) -> Tensor:
        x = self.block_1(x)
        x = x if self.attn_1 is None else self.attn_1(x)
        return self.block_2(x)


class SpatialAttention(nn.Module):
    """Single-head self-attention over positions with 1 x 1 convolutions."""

    def __init__(self, width: int, groups: int):
        super().__init__()
        self.norm = nn.GroupNorm(groups, width, eps=1e-6)
        self.q = nn.Conv2d(width, width, 1)
        self.k = nn.Conv2d(width, width, 1)
        self.v = nn.Conv2d(width, width, 1)
        self.proj_out = nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(x)
        # (B, 1, h w, c), channels side by side: no flash kernel takes another form, and without it the logits
        # of 2048 pixels are 17 GB
        q, k, v = (layer(h).flatten(2).mT[:, None].contiguous() for layer in (self.q, self.k, self.v))
        h = F.scaled_dot_product_attention(q, k, v).mT.reshape(x.shape)  # (B, 1, h w, c) => (B, c, h, w)
        return x + self.proj_out(h)


class Downsample(nn.Module):
    """Pad right and bottom by one, 3 x 3 with stride 2."""

    def __init__(self, width: int):
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class Upsample(nn.Module):
    """Nearest neighbour twice the size, then 3 x 3."""

    def __init__(self, width: int):
        super().__init__()
        self.conv = conv3(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class LinearPath(nn.Module):
    """A linear map of each stride x stride patch to its token and back."""

    def __init__(self, stride: int, token_channels: int, patch: int):
        super().__init__()
        self.patch = patch
        self.analysis = nn.Conv2d(3, token_channels, stride, stride)
        self.synthesis = nn.ConvTranspose2d(token_channels, 3, stride, stride)

    def encode(self, pixels: Tensor) -> Tensor:
        """(B, 3, H, W) => (B, c, H / f, W / f)."""
        return unpatchify(self.analysis(pixels), self.patch)

    def decode(self, z: Tensor) -> Tensor:
        """(B, c, H / f, W / f) => (B, 3, H, W)."""
        return self.synthesis(patchify(z, self.patch))

    @torch.no_grad()
    def fit(self, pixels: Tensor) -> None:
        """Start as whitened principal components of the patches of `pixels` (n, 3, H, W)."""
        stride = self.analysis.stride[0]
        rows = (
            F.unfold(pixels.double(), stride, stride=stride).transpose(1, 2).flatten(0, 1)
        )  # (n tokens, 3 s s)
        mean = rows.mean(0)
        values, vectors = torch.linalg.eigh((rows - mean).T @ (rows - mean) / len(rows))
        num = self.analysis.out_channels
        basis = vectors[:, -num:].flip(1)  # (3 s s, token_channels), largest variance first
        std = values[-num:].flip(0).clamp(min=1e-8).sqrt()
        shape = self.analysis.weight.shape
        self.analysis.weight.copy_((basis / std).T.reshape(shape))
        self.analysis.bias.copy_(-(mean @ (basis / std)))  # pyright: ignore
        self.synthesis.weight.copy_((basis * std).T.reshape(shape))
        self.synthesis.bias.copy_(rows.reshape(-1, 3, stride * stride).mean((0, 2)))  # pyright: ignore
