"""Randomness keyed by (seed, sample index, step, purpose): one independent stream per image.

The noise, time, posterior draw and flip of an image are the same whatever the batch size, micro-batch or
rank count, because each number is a hash of its own address rather than the next output of a shared
generator. The hash is SplitMix64's output function (Steele, Lea and Flood 2014, "Fast splittable
pseudorandom number generators", Fig. 14) over a counter; everything is int64 tensor arithmetic, so it
runs vectorised on any device and never synchronises.
"""

from __future__ import annotations

import math
import zlib

import torch
from torch import Tensor

__all__ = ["Streams", "mix"]


class Streams:
    """One random stream for each image of a batch; every draw advances all of them.

    `keys` is int64 (B,). Two `Streams` with equal keys and an equal history of draws give equal numbers.
    """

    def __init__(self, keys: Tensor, drawn: int = 0):
        assert keys.dtype == torch.int64 and keys.ndim == 1, f"{keys.dtype=} {keys.shape=}"
        self.keys = keys
        self._drawn = drawn

    @classmethod
    def for_samples(cls, seed: int, indices: Tensor, *, step: int = 0, purpose: str) -> Streams:
        """Streams addressed by (seed, indices (B,), step); `purpose` separates noise from time from flips."""
        key = mix(indices.to(torch.int64) + 1)
        for word in (seed, step, zlib.crc32(purpose.encode())):
            key = mix(key ^ mix(torch.tensor(word, dtype=torch.int64, device=key.device)))
        return cls(key)

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, rows: slice) -> Streams:
        return Streams(self.keys[rows], self._drawn)

    def to(self, device: torch.device | str) -> Streams:
        """The same streams on another device."""
        return Streams(self.keys.to(device), self._drawn)

    def uniform(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """(B, *shape) uniform on the open interval (0, 1); float64 has 53 random bits, float32 has 23."""
        bits = 52 if dtype == torch.float64 else 23
        words = _shift_right(self._words(math.prod(shape)), 64 - bits)
        return words.to(dtype).add(0.5).mul(2.0**-bits).view(len(self), *shape)

    def normal(self, *shape: int) -> Tensor:
        """(B, *shape) float32 standard normal by Box and Muller (1958); |z| < 6.8."""
        num = math.prod(shape)
        words = self._words((num + 1) // 2)  # (B, pairs): 32 bits for the radius, 32 for the angle
        radius = _shift_right(words, 32).float().add(0.5).mul(2.0**-32).clamp(max=1 - 2.0**-24)
        angle = (words & 0xFFFFFFFF).float().mul(2.0**-32 * 2 * math.pi)
        radius = radius.log().mul(-2).sqrt()
        both = torch.cat([radius * angle.cos(), radius * angle.sin()], dim=1)  # (B, 2 pairs)
        return both[:, :num].reshape(len(self), *shape)

    def integers(self, high: int, *shape: int) -> Tensor:
        """(B, *shape) int64 uniform on 0..high-1 (bias below high / 2^62)."""
        return (_shift_right(self._words(math.prod(shape)), 2) % high).view(len(self), *shape)

    def _words(self, num: int) -> Tensor:
        """The next `num` 64-bit words of every stream, (B, num) int64."""
        counter = torch.arange(self._drawn + 1, self._drawn + num + 1, device=self.keys.device)
        self._drawn += num
        return mix(self.keys[:, None] + counter * _GOLDEN)


# ---- the hash ----------------------------------------------------------------------------------------------


def _signed(word: int) -> int:
    return word - (1 << 64) if word >= 1 << 63 else word


_GOLDEN = _signed(0x9E3779B97F4A7C15)
_MIX_1 = _signed(0xBF58476D1CE4E5B9)
_MIX_2 = _signed(0x94D049BB133111EB)


def mix(word: Tensor) -> Tensor:
    """SplitMix64's output function, a bijection of 64-bit words (int64, wrapping)."""
    word = (word ^ _shift_right(word, 30)) * _MIX_1
    word = (word ^ _shift_right(word, 27)) * _MIX_2
    return word ^ _shift_right(word, 31)


def _shift_right(word: Tensor, bits: int) -> Tensor:
    """Logical shift: torch's own `>>` copies the sign bit."""
    return (word >> bits) & ((1 << (64 - bits)) - 1)
