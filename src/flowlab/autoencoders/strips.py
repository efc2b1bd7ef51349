"""Large images through the convolutional autoencoder in strips of rows, exactly.

Overlapping tiles with blended seams change the picture: each tile has its own GroupNorm statistics. Here
every layer runs over the whole picture, a strip at a time with the neighbouring rows that its kernel needs,
and the statistics are merged over all strips before any of them is normalised. The result is that of the
model itself up to float rounding, without seams.

What is kept is chosen for memory. A residual block holds two maps, its input and the half-done one, and adds
its second convolution to the input in place. The map behind an upsampling is not kept where the next block
narrows it: its rows are computed when asked for, twice. The middle, at an eighth of the side, runs whole.
The largest moment is at full resolution: two maps of the lowest width and the source of the upsampling,
5.4 GB for 2048 x 2048 pixels of FLUX.2's decoder in float32.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import zip_longest
from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flowlab.autoencoders.base import Autoencoder, Moments
from flowlab.autoencoders.kl import Decoder, Downsample, Encoder, KLAutoencoder, Level, ResBlock
from flowlab.autoencoders.normalise import unpatchify
from flowlab.core.seeds import Streams

__all__ = ["ROWS", "InStrips", "decode_in_strips", "encode_in_strips"]

Rows = Callable[[int, int], Tensor]

ROWS = 64
"""Height of a strip at every resolution; half of it saves 0.2 GB at 2048 pixels."""


class InStrips(Autoencoder):
    """`model` behind the same contract, its layers run in strips; the weights are shared, not copied."""

    def __init__(self, model: KLAutoencoder, rows: int = ROWS):
        super().__init__()
        if rows < 1:
            raise ValueError(f"strips of {rows} rows; give 1 or more, such as {ROWS}")
        self.spec, self.options, self.rows = model.spec, model.options, rows
        self.encoder, self.decoder = model.encoder, model.decoder  # under the same names: the same identity
        self.normalise, self.linear = model.normalise, model.linear
        self._whole = (model,)  # in a tuple, so that it is not a second path to the same weights

    def encode(self, pixels: Tensor) -> Moments:
        return encode_in_strips(self._whole[0], pixels, self.rows)

    def to_latent(self, moments: Moments, generators: Streams | None = None) -> Tensor:
        return self._whole[0].to_latent(moments, generators)

    def decode(self, latent: Tensor) -> Tensor:
        return decode_in_strips(self._whole[0], latent, self.rows)

    def decode_raw(self, z: Tensor) -> Tensor:
        return _decode_raw(self._whole[0], z, self.rows)

    def fit_normalisation(self, means: Tensor) -> None:
        self._whole[0].fit_normalisation(means)


@torch.no_grad()
def encode_in_strips(model: KLAutoencoder, pixels: Tensor, rows: int = ROWS) -> Moments:
    """As `model.encode`, for pixels (B, 3, H, W) in [-1, 1] of any multiple of the stride; no gradients."""
    model.check(pixels)
    pixels = pixels.to(model.encoder.conv_in.weight.dtype)
    mean, logvar = _encoder(model.encoder, pixels, rows).chunk(2, dim=1)
    if model.linear is not None:
        mean = mean + model.linear.encode(pixels)
    return Moments(mean, logvar.clamp(-30, 20))


@torch.no_grad()
def decode_in_strips(model: KLAutoencoder, latent: Tensor, rows: int = ROWS) -> Tensor:
    """As `model.decode`: final latent (B, c, h, w) => pixels (B, 3, H, W); no gradients."""
    model.check_latent(latent)
    return _decode_raw(model, unpatchify(model.normalise.inverse(latent), model.options.patch), rows)


@torch.no_grad()
def _decode_raw(model: KLAutoencoder, z: Tensor, rows: int) -> Tensor:
    z = z.to(model.decoder.conv_in.weight.dtype)
    pixels = _decoder(model.decoder, z, rows)
    return pixels if model.linear is None else pixels + model.linear.decode(z)


# ---- the two networks --------------------------------------------------------------------------------------


def _encoder(net: Encoder, pixels: Tensor, rows: int) -> Tensor:
    """Encoder.forward in strips."""
    image = Held(pixels)
    h = _filled(image.height, rows, lambda a, b: _conv(net.conv_in, image.rows, image.height, a, b))
    for level in net.down:
        assert isinstance(level, Level)
        h = _level(level, Held(h), rows)
        h = h if level.downsample is None else _downsampled(level.downsample, h, rows)
    h = net.conv_out(F.silu(net.norm_out(net.mid(h)), inplace=True))
    return h if net.quant_conv is None else net.quant_conv(h)


def _decoder(net: Decoder, z: Tensor, rows: int) -> Tensor:
    """Decoder.forward in strips."""
    h = z if net.post_quant_conv is None else net.post_quant_conv(z)
    source: Source = Held(net.mid(net.conv_in(h)))
    for level in reversed(net.up):
        assert isinstance(level, Level)
        h = _level(level, source, rows)
        source = Held(h) if level.upsample is None else Upsampled(h, level.upsample.conv)
    norm = Statistics(net.norm_out)
    for a, b in _strips(source.height, rows):
        norm.add(source.rows(a, b))
    return _filled(source.height, rows, _normalised_conv(net.conv_out, source, norm))


def _level(level: Level, source: Source, rows: int) -> Tensor:
    """The blocks of Level.forward in strips, without the change of size; attention runs whole."""
    for block, attention in zip_longest(level.block, level.attn):
        assert isinstance(block, ResBlock)
        h = _block(block, source, rows)
        source = Held(h if attention is None else attention(h))
    assert isinstance(source, Held), "a level has blocks"
    return source.tensor


def _block(block: ResBlock, source: Source, rows: int) -> Tensor:
    """ResBlock.forward in strips; overwrites the map that `source` holds where the width stays."""
    norm1, norm2 = Statistics(block.norm1), Statistics(block.norm2)
    shortcut = block.nin_shortcut

    def first(a: int, b: int) -> Tensor:
        part = norm1.add(source.rows(a, b))
        return part if shortcut is None else shortcut(part)

    out = _filled(
        source.height, rows, first, source.tensor if shortcut is None and isinstance(source, Held) else None
    )
    before = source if shortcut is not None else Held(out)  # an upsampled map that is kept is not made again
    conv1 = _normalised_conv(block.conv1, before, norm1)
    half = _filled(source.height, rows, lambda a, b: norm2.add(conv1(a, b)))
    conv2 = _normalised_conv(block.conv2, Held(half), norm2)
    for a, b in _strips(source.height, rows):
        out[:, :, a:b] += conv2(a, b)
    return out


def _downsampled(layer: Downsample, x: Tensor, rows: int) -> Tensor:
    """Downsample.forward in strips: rows a to b of the output see rows 2 a to 2 b + 1."""
    conv, height = layer.conv, x.shape[2]

    def strip(a: int, b: int) -> Tensor:
        part = x[:, :, 2 * a : 2 * b + 1]
        return conv(F.pad(part, (0, 1, 0, 2 * b + 1 - min(2 * b + 1, height))))

    parts = [strip(a, b) for a, b in _strips(height // 2, rows)]
    return torch.cat(parts, dim=2)


# ---- maps by rows ------------------------------------------------------------------------------------------


class Source(Protocol):
    """A map (B, channels, height, width) that gives rows."""

    @property
    def height(self) -> int: ...

    def rows(self, start: int, stop: int) -> Tensor:
        """(B, channels, stop - start, width); both within 0 to height."""
        ...


class Held:
    """A map in memory."""

    def __init__(self, tensor: Tensor):
        self.tensor, self.height = tensor, tensor.shape[2]

    def rows(self, start: int, stop: int) -> Tensor:
        """A view."""
        return self.tensor[:, :, start:stop]


class Upsampled:
    """`conv` of `tensor` at twice the size by nearest neighbour, computed where it is asked for."""

    def __init__(self, tensor: Tensor, conv: nn.Conv2d):
        self.tensor, self.conv, self.height = tensor, conv, 2 * tensor.shape[2]

    def rows(self, start: int, stop: int) -> Tensor:
        """New each time."""
        return _conv(self.conv, self._doubled, self.height, start, stop)

    def _doubled(self, start: int, stop: int) -> Tensor:
        """Rows of what the convolution sees."""
        first = start // 2
        doubled = F.interpolate(self.tensor[:, :, first : -(-stop // 2)], scale_factor=2.0, mode="nearest")
        return doubled[:, :, start - 2 * first : stop - 2 * first]


def _strips(height: int, rows: int) -> Iterator[tuple[int, int]]:
    return ((start, min(start + rows, height)) for start in range(0, height, rows))


def _filled(height: int, rows: int, make: Rows, out: Tensor | None = None) -> Tensor:
    """A map made strip by strip; with `out` given, only what making has as a side effect."""
    keep = out is None
    for a, b in _strips(height, rows):
        strip = make(a, b)
        if out is None:
            out = strip.new_empty(*strip.shape[:2], height, strip.shape[3])
        if keep:
            out[:, :, a:b] = strip
    assert out is not None, "a map has rows"
    return out


def _conv(conv: nn.Conv2d, rows: Rows, height: int, start: int, stop: int) -> Tensor:
    """Rows `start` to `stop` of a 3 x 3 convolution; beyond the map's `height` it sees zeros."""
    low, high = max(start - 1, 0), min(stop + 1, height)
    h = rows(low, high)
    if low == start or high == stop:
        h = F.pad(h, (0, 0, low - start + 1, stop + 1 - high))
    return F.conv2d(h, conv.weight, conv.bias, padding=(0, 1))


def _normalised_conv(conv: nn.Conv2d, source: Source, norm: Statistics) -> Rows:
    """conv(silu(norm(source))) by rows, once `norm` has seen all of them."""
    affine = norm.affine()

    def rows(start: int, stop: int) -> Tensor:
        strip = source.rows(start, stop)
        return F.silu(torch.addcmul(affine.shift, strip.float(), affine.scale), inplace=True).to(strip.dtype)

    return lambda start, stop: _conv(conv, rows, source.height, start, stop)


# ---- GroupNorm over all strips -----------------------------------------------------------------------------


class Affine(NamedTuple):
    """x * scale + shift, both (B, C, 1, 1) float32."""

    scale: Tensor
    shift: Tensor


class Statistics:
    """Mean and variance of each group of channels, gathered strip by strip.

    Strips are merged as Chan, Golub and LeVeque (1979, "Updating formulae", eq. 2.1) in float64: the variance
    as a difference of large sums would not survive float32.
    """

    def __init__(self, norm: nn.GroupNorm):
        self.norm = norm
        self._count = 0
        self._mean = self._squares = torch.zeros((), dtype=torch.float64)

    def add(self, strip: Tensor) -> Tensor:
        """Count rows (B, C, rows, W) in and hand them back."""
        groups = strip.unflatten(1, (self.norm.num_groups, -1)).float()  # (B, G, c, rows, W)
        var, mean = (v.cpu().double() for v in torch.var_mean(groups, dim=(2, 3, 4), correction=0))
        num = groups[0, 0].numel()
        total = self._count + num
        delta = mean - self._mean
        self._squares = self._squares + var * num + delta.square() * (self._count * num / total)
        self._mean = self._mean + delta * (num / total)
        self._count = total
        return strip

    def affine(self) -> Affine:
        """GroupNorm with these statistics as one scale and shift for each channel."""
        norm = self.norm
        inverse = (self._squares / self._count + norm.eps).rsqrt()  # (B, G)
        each = norm.num_channels // norm.num_groups
        scale = inverse.repeat_interleave(each, dim=1) * norm.weight.cpu().double()  # (B, C)
        shift = norm.bias.cpu().double() - self._mean.repeat_interleave(each, dim=1) * scale
        return Affine(*(v[:, :, None, None].float().to(norm.weight.device) for v in (scale, shift)))
