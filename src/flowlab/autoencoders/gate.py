"""The gate: a round trip and the latent's statistics, judged before a cache is written or a model trained.

One check catches half of the field's silent errors: a scale that is missing or applied twice, pixels in the
wrong range, a patch order that is not the weights'. None of them raises by itself; each costs a training.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from flowlab.autoencoders.base import Autoencoder, LatentSpec
from flowlab.autoencoders.families import FAMILIES
from flowlab.autoencoders.normalise import BatchStatistics, Whitening
from flowlab.autoencoders.pixel_range import PixelRange
from flowlab.autoencoders.rae import StoredWhitening
from flowlab.core.pixels import to_float, to_uint8

__all__ = ["NUM_LATENTS", "NUM_ROUND_TRIPS", "GateReport", "Row", "check", "floor_of"]

NUM_LATENTS = 2000
"""Images whose latents are measured."""
NUM_ROUND_TRIPS = 256
"""Images that are decoded again, the first of those: decoding is the dear half."""

FLOOR_DB = {  # PSNR on real pictures. Ours: on `digits` (autoencoders/sizes.py) less 10 dB, as other data
    "sd": 17.0,  #              27.3    and other loss weights lower it (KL 5e-4: 34.3 => 27.7), while the
    "flux1": 22.0,  #           32.8    faults of tests/autoencoders/test_gate.py that spoil it fall below 15
    "flux1_semantic": 21.0,  #  31.7
    "flux2_plain": 24.0,  #     34.3
    "flux2": 24.0,  #           34.3
    "rae": 15.0,  #             24.2
    "flux2_photos": 26.0,  #    36.1 on `photos`
    "flux2_scenes": 21.0,  #    31.1 on `scenes`
    "sd_f8c4": 20.0,  #         25.05 on ImageNet at 256 px, as the next ones (FLUX.2's own report, seed 001)
    "sdxl_f8c4": 20.0,  #       as SD
    "flux1_f8c16": 25.0,  #     31.13
    "flux2_f8c32": 25.0,  #     31.46
    "flux2_small_decoder": 25.0,  # as FLUX.2
}
FAMILY_FLOOR_DB = {  # for any other name
    **dict.fromkeys(("kl", *FAMILIES), 20.0),  # SD's, the worst of them
    "rae": 15.0,  # 18.83 for DINOv2-B
}
ANY_FLOOR_DB = 15.0
"""Of an adapted family that is in neither table: what only a broken round trip misses."""

CAUSES = "a scale that is missing or applied twice, pixels in [0, 1] instead of [-1, 1], another patch order"


class Limits(NamedTuple):
    """|mean| at most `mean`, std from `low` to `high`."""

    mean: float
    low: float
    high: float


PER_CHANNEL = Limits(0.1, 0.9, 1.1)
ONE_SCALE = Limits(0.3, 0.7, 1.4)
GROSS = Limits(0.5, 0.6, 1.6)
ENOUGH_LATENTS = 64
"""From so many images on the limits hold to the letter."""
STANDARD_ERRORS = 3.0
"""Of fewer images a limit is broken only by more than so many. Chance alone moves the channels of a sound
autoencoder by 0.1 at 64 images and by far more below, so few pictures convict nobody; at 64 and more it can
still warn, which the errors in the table tell, but is nowhere near the gross limits (measured: |mean| 0.18,
std 0.88 to 1.21 on the shipped ones' own data)."""


class Row(NamedTuple):
    """The statistics of one channel, or of all where the normalisation is one scale."""

    channel: int | None
    mean: float
    std: float
    mean_error: float
    """Standard error over images; infinite for a single one."""
    std_error: float

    def within(self, limits: Limits, num_images: int) -> bool:
        """False too where a number is not finite."""
        slack = std_slack = 0.0
        if num_images < ENOUGH_LATENTS:
            slack, std_slack = STANDARD_ERRORS * self.mean_error, STANDARD_ERRORS * self.std_error
        centred = abs(self.mean) <= limits.mean + slack
        return centred and limits.low - std_slack <= self.std <= limits.high + std_slack

    @property
    def badness(self) -> float:
        """Orders rows, worst last: distance of the mean from 0 and, on a log scale, of the std from 1."""
        if not (math.isfinite(self.mean) and math.isfinite(self.std) and self.std > 0):
            return math.inf
        return max(abs(self.mean) / GROSS.mean, abs(math.log(self.std)) / -math.log(GROSS.low))

    @property
    def line(self) -> str:
        """Of the table."""
        mean = f"mean {self.mean:+8.3f} ±{self.mean_error:.3f}"
        return f"{self.name:<14}{mean}   std {self.std:7.3f} ±{self.std_error:.3f}"

    @property
    def name(self) -> str:
        """What the row is about."""
        return "the latent" if self.channel is None else f"channel {self.channel}"


@dataclass(frozen=True, kw_only=True)
class GateReport:
    """What the gate found."""

    outcome: str
    """"passed"; "warned": beyond the usual limits, not grossly; "failed": grossly; "off": not looked at."""
    name: str
    """The autoencoder's."""
    floor: float
    """PSNR in dB that its family must reach."""
    psnr: float | None = None
    """Mean over images in dB; None where the gate was off."""
    num_images: int = 0
    """Whose latents were measured."""
    rows: tuple[Row, ...] = ()
    """A row per channel, or one for the whole latent; none where the gate was off."""

    def table(self, most: int = 8) -> str:
        """The worst rows in words, for a person; after ± the standard error over images."""
        limits = _limits(self.rows)
        quality = f"{self.name}: PSNR {self.psnr:.2f} dB (floor {self.floor:g})"
        want = f"expected mean 0 +- {limits.mean:g}, std {limits.low:g} to {limits.high:g}"
        worst = sorted(self.rows, key=lambda row: row.badness, reverse=True)
        lines = [row.line for row in worst[:most]]
        more = [f"and {len(worst) - most} more channels, nearer"] if len(worst) > most else []
        return "\n  ".join([f"{quality}; latents of {self.num_images} images, {want}", *lines, *more])


@torch.no_grad()
def check(
    autoencoder: Autoencoder, batches: Iterable[Tensor], *, enabled: bool = True, stop: bool = True
) -> GateReport:
    """Judge `autoencoder` on real pictures: the first 2,000 of `batches`, on the model's device.

    A batch is uint8 (B, 3, H, W), or float in [-1, 1], whose range is judged then too. Beyond the usual
    limits the table is a warning, as a user's pictures may differ; a gross fault is a ValueError, or, not to
    `stop`, a warning too. Not `enabled`: nothing is read, the outcome is "off".
    """
    spec = autoencoder.spec
    floor = floor_of(spec)
    if not enabled:
        return GateReport(outcome="off", name=spec.name, floor=floor)
    means, squares, psnr = _measure(autoencoder, batches)
    rows = _rows(means, squares, per_channel(autoencoder))
    limits = _limits(rows)
    grossly = not psnr >= floor or not all(row.within(GROSS, len(means)) for row in rows)
    usual = all(row.within(limits, len(means)) for row in rows)
    report = GateReport(
        outcome="failed" if grossly else "passed" if usual else "warned",
        name=spec.name,
        floor=floor,
        psnr=psnr,
        num_images=len(means),
        rows=rows,
    )
    if grossly and stop:
        raise ValueError(_sentence(report, max(rows, key=lambda row: row.badness), limits))
    if report.outcome != "passed":
        warnings.warn(f"the gate finds unusual latents\n  {report.table()}", stacklevel=2)
    return report


def floor_of(spec: LatentSpec) -> float:
    """PSNR in dB below which a round trip of that autoencoder is broken: by its name, else by its family."""
    return FLOOR_DB.get(spec.name, FAMILY_FLOOR_DB.get(spec.family, ANY_FLOOR_DB))


def per_channel(autoencoder: Autoencoder) -> bool:
    """Whether the normalisation promises unit scale in each channel; told by its type, not by a name, or by
    constants of zoo.py that differ between channels (Wan, Qwen-Image, LTX)."""
    std = dict(autoencoder.named_buffers(recurse=False)).get("std")
    if std is not None and std.numel() > 1 and bool((std != std.flatten()[0]).any()):
        return True
    return any(
        isinstance(module, (BatchStatistics, Whitening))
        or (isinstance(module, StoredWhitening) and module.statistics != "none")
        for module in autoencoder.modules()
    )


# ---- measuring ---------------------------------------------------------------------------------------------


def _measure(autoencoder: Autoencoder, batches: Iterable[Tensor]) -> tuple[Tensor, Tensor, float]:
    """Mean and mean square of each image's channels, (n, C) float64 each, and the mean PSNR in dB."""
    like = next(autoencoder.parameters())
    pixel_range = PixelRange()
    means, squares, psnrs, seen = [], [], [], 0
    for batch in batches:
        batch = batch[: NUM_LATENTS - seen]
        if batch.is_floating_point():
            pixel_range.update(batch)
        pixels = batch if batch.is_floating_point() else to_float(batch)
        z = autoencoder.latents(pixels.to(like.device, like.dtype)).float()
        means.append(z.mean((2, 3)).double().cpu())
        squares.append(z.square().mean((2, 3)).double().cpu())
        if some := max(0, NUM_ROUND_TRIPS - seen):  # no empty batch: not every model decodes one
            psnrs += [
                _psnr(autoencoder.decode(part.to(like.dtype)), real)
                for part, real in zip(z[:some].split(16), pixels[:some].split(16), strict=True)
            ]
        seen += len(batch)
        if seen >= NUM_LATENTS:
            break
    if not seen:
        raise ValueError(f"the gate of {autoencoder.spec.name} got no pictures; give some or turn it off")
    pixel_range.judge()
    return torch.cat(means), torch.cat(squares), float(torch.cat(psnrs).mean())


def _psnr(output: Tensor, pixels: Tensor) -> Tensor:
    """(B,) dB on rounded pixels, as metrics.paired; an output that is not finite gives NaN."""
    finite = output.isfinite().flatten(1).all(1).cpu()
    output = to_uint8(output.nan_to_num()).cpu().double()
    mse = (output - to_uint8(pixels).cpu().double()).div(255).square().flatten(1).mean(1)
    return torch.where(finite, -10 * mse.clamp_min(1e-10).log10(), float("nan"))


def _rows(means: Tensor, squares: Tensor, by_channel: bool) -> tuple[Row, ...]:
    """Statistics over all images and positions, with standard errors from the spread between images."""
    if not by_channel:
        means, squares = means.mean(1, keepdim=True), squares.mean(1, keepdim=True)  # (n, 1)
    mean = means.mean(0)  # (C,)
    std = (squares.mean(0) - mean.square()).clamp_min(0).sqrt()
    spread = squares - 2 * mean * means  # to first order, std moves by the mean of this over 2 std
    errors = _error(means), _error(spread) / (2 * std)
    columns = [column.tolist() for column in (mean, std, *errors)]
    numbers = range(len(mean)) if by_channel else [None]
    return tuple(Row(*row) for row in zip(numbers, *columns, strict=True))


def _error(values: Tensor) -> Tensor:
    """Standard error (C,) of the mean over images (n, C)."""
    if len(values) < 2:
        return torch.full(values.shape[1:], math.inf, dtype=torch.float64)
    return values.std(0) / len(values) ** 0.5


def _limits(rows: tuple[Row, ...]) -> Limits:
    return ONE_SCALE if not rows or rows[0].channel is None else PER_CHANNEL


def _sentence(report: GateReport, worst: Row, limits: Limits) -> str:
    """One line: what is wrong, the worst channel, the likely causes, the way past."""
    want = f"(expected 0 +- {limits.mean:g} and {limits.low:g} to {limits.high:g})"
    return (
        f"{report.name} fails the gate: PSNR {report.psnr:.2f} dB (floor {report.floor:g}), {worst.name} has "
        f"mean {worst.mean:.3f} and std {worst.std:.3f} {want} over {report.num_images} images; "
        f"likely causes: {CAUSES}; --no-gate passes it"
    )
