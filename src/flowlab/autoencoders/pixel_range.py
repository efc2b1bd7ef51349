"""Are these pixels in [-1, 1]? Judged over many images, as one image may be bright all over."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

__all__ = ["PixelRange"]

MIN_IMAGES = 64
"""Below so many nothing but plain nonsense (|value| > 2, NaN) is judged."""
DARK = -0.05
"""A pixel below this is proof of [-1, 1]; resampling [0, 1] pictures undershoots by less."""
BLACK = 0.01
"""The darkest pixel of [0, 1] pictures lies between 0 and this: black, 2.55 grey levels of 255."""
SHARE = 0.25
"""Share of pixels on grey levels that only one of the ranges has, from which the range is told."""
SAMPLE = 65_536
"""Values of a batch whose grey level is looked at."""


class PixelRange:
    """Remembers the range of float pixels that pass by; `judge` raises where they cannot be in [-1, 1].

    uint8 pictures decide it exactly: k / 127.5 - 1 is an odd multiple of 1/255, whereas k / 255 is an even
    one half of the time. So a bright set, with no value below zero, is told from [0, 1] by its grey levels
    and not by its brightness. Where pictures were resampled as floats the levels say nothing; then values
    that begin at 0 and never fall below it are [0, 1], as nothing makes mid-grey the darkest pixel of 64
    pictures in [-1, 1], and a set that begins higher is a warning.
    `update` does not synchronise the device; `judge` does, once.
    """

    def __init__(self) -> None:
        self.num_images = 0
        self._lows: list[Tensor] = []
        self._highs: list[Tensor] = []
        self._shares: list[Tensor] = []

    def update(self, pixels: Tensor) -> None:
        """Add float pixels (B, C, H, W)."""
        assert pixels.is_floating_point(), f"expected float pixels, got {pixels.dtype}"
        values = pixels.detach().float()
        low, high = values.aminmax()
        some = values.flatten()
        levels = some[:: max(1, -(-len(some) // SAMPLE))] * 255
        near = (levels - levels.round()).abs() < 0.02  # float32 rounds by 2e-5 of a level
        even = levels.round().remainder(2) == 0
        self.num_images += len(pixels)
        self._lows.append(low)
        self._highs.append(high)
        self._shares.append(torch.stack([near & even, near & ~even]).float().mean(1))

    def judge(self) -> None:
        """ValueError where a value is not finite, beyond 2, or where 64 images or more are in [0, 1]."""
        if not self.num_images:
            return
        low = float(torch.stack(self._lows).min())
        high = float(torch.stack(self._highs).max())
        if not (abs(low) <= 2 and abs(high) <= 2):  # NaN fails too
            raise ValueError(
                f"pixels range from {low:g} to {high:g}; expected finite floats in [-1, 1], "
                "such as core.pixels.to_float makes of uint8"
            )
        if self.num_images < MIN_IMAGES or low < DARK or high > 1 - DARK:
            return
        even, odd = torch.stack(self._shares).mean(0).tolist()
        found = f"the pixels of {self.num_images} images range from {low:g} to {high:g}"
        if even >= SHARE:
            raise ValueError(
                f"{found} on the grey levels of [0, 1]; expected [-1, 1], so give 2 x - 1 of them"
            )
        if odd >= SHARE:
            return
        if 0 <= low <= BLACK:
            raise ValueError(
                f"{found}, none below 0 and the darkest at 0, as in [0, 1]; "
                "expected [-1, 1], so give 2 x - 1 of them"
            )
        warnings.warn(f"{found}; bright pictures, or [0, 1] where [-1, 1] is expected?", stacklevel=2)
