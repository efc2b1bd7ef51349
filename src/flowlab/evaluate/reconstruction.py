"""An autoencoder => one row of the reconstruction table (Table 1), every number with its standard error."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

import torch
from torch import Tensor

from flowlab import __version__
from flowlab.autoencoders.base import Autoencoder
from flowlab.core.devices import device_of
from flowlab.core.pixels import to_float, to_uint8
from flowlab.data.batch import Dataset, in_order
from flowlab.evaluate.reference import JUDGE_SIDE, features_of, resized, seen_at
from flowlab.features.embedded import Judge, Teacher
from flowlab.features.vgg import VGG16
from flowlab.metrics.frechet import frechet_distance, frechet_paired_bootstrap, statistics
from flowlab.metrics.paired import feature_distance, mean_and_error, psnr, ssim

__all__ = ["RoundTrip", "default_batch_size", "evaluate", "reconstruct", "round_trips"]


class RoundTrip(NamedTuple):
    """One batch on its way: B images before and after, and the latent between."""

    index: Tensor
    """(B,) positions in the data set."""
    originals: Tensor
    """(B, 3, H, W) uint8, on the CPU."""
    outputs: Tensor
    """(B, 3, H, W) uint8, on the CPU."""
    pixels: Tensor
    """(B, 3, H, W) in [-1, 1], what was encoded."""
    mean: Tensor
    """(B, c, h, w): the posterior mean."""
    latent: Tensor
    """(B, C, h', w'): the final latent."""
    decoded: Tensor
    """(B, 3, H, W): `outputs` before clamping and rounding."""


def evaluate(
    autoencoder: Autoencoder,
    dataset: Dataset,
    *,
    judge: Judge | None,
    judge_name: str,
    teacher: Teacher | None,
    teacher_name: str,
    dataset_name: str,
    split: str = "heldout",
    vgg: VGG16 | None = None,
    batch_size: int | None = None,
    watch: Sequence[Callable[[RoundTrip], None]] = (),
) -> dict[str, Any]:
    """PSNR, SSIM, perceptual distance and rFID over every image of `dataset`, against the same images.

    The perceptual distance is in the teacher's features and is not LPIPS; rFID is in the judge's. Images of
    another size than these networks know are resized for them, and the features' name says so. Without a
    judge or teacher their numbers are NaN. `vgg` adds the columns `psim_vgg16` and, with heads, `lpips_vgg`.
    Of each image its few numbers and its features are kept, never its pixels; `watch` is called with
    every batch.
    """
    values: dict[str, list[Tensor]] = {}
    features: tuple[list[Tensor], list[Tensor]] = ([], [])
    for trip in round_trips(autoencoder, dataset, batch_size):
        for name, numbers in _paired(trip, teacher, vgg).items():
            values.setdefault(name, []).append(numbers)
        for side, images in zip(features, (trip.originals, trip.outputs), strict=True):
            if judge is not None:
                side.append(features_of(judge, resized(images, JUDGE_SIDE)))
        for see in watch:
            see(trip)
    row: dict[str, Any] = {"ae": autoencoder.spec.name, "dataset": dataset_name, "split": split}
    row |= {"num_images": len(dataset)} | _summary(values)
    row["perceptual_features"] = seen_at(
        teacher_name, dataset.resolution, teacher and teacher.spec.resolution
    )
    row |= _rfid(*features) if judge is not None else {"rfid": math.nan, "rfid_se": math.nan}
    row["features"] = seen_at(judge_name, dataset.resolution, judge and JUDGE_SIDE)
    return row | ({"vgg": vgg.name} if vgg is not None else {}) | _about(autoencoder, dataset.resolution)


def reconstruct(
    autoencoder: Autoencoder, dataset: Dataset, batch_size: int | None = None
) -> tuple[Tensor, Tensor]:
    """(originals, reconstructions), both uint8 (n, 3, H, W): for few images, all are held."""
    trips = [(trip.originals, trip.outputs) for trip in round_trips(autoencoder, dataset, batch_size)]
    originals, outputs = zip(*trips, strict=True)
    return torch.cat(originals), torch.cat(outputs)


@torch.no_grad()
def round_trips(
    autoencoder: Autoencoder, dataset: Dataset, batch_size: int | None = None
) -> Iterator[RoundTrip]:
    """Every image encoded to the posterior mean and decoded, batch by batch in order.

    A reconstruction that is not finite is a ValueError that names the image.
    """
    device = device_of(autoencoder)
    for batch in in_order(dataset, batch_size=batch_size or default_batch_size(dataset.resolution)):
        assert batch.pixels is not None, "reconstruction needs pixels"
        pixels = to_float(batch.pixels.to(device))
        autoencoder.check(pixels)
        moments = autoencoder.encode(pixels)
        latent = autoencoder.to_latent(moments)
        outputs = autoencoder.decode(latent)
        finite = outputs.isfinite().flatten(1).all(dim=1).cpu()
        if not bool(finite.all()):
            image = int(batch.index[finite.logical_not()][0])
            raise ValueError(
                f"{autoencoder.spec.name} decodes image {image} to pixels that are not finite; "
                "look at its weights for NaN"
            )
        yield RoundTrip(
            batch.index, batch.pixels, to_uint8(outputs).cpu(), pixels, moments.mean, latent, outputs
        )


# ---- the numbers -------------------------------------------------------------------------------------------


@torch.no_grad()
def _paired(trip: RoundTrip, teacher: Teacher | None, vgg: VGG16 | None) -> dict[str, Tensor]:
    """One number (B,) for each image and distance; all of them on rounded pixels."""
    ours, theirs = trip.outputs, trip.originals
    found = {"psnr": psnr(ours, theirs), "ssim": ssim(ours, theirs)}
    if teacher is not None:
        device, side = device_of(teacher), teacher.spec.resolution
        found["perceptual"] = feature_distance(
            *(teacher.layers(to_float(resized(images, side).to(device))) for images in (ours, theirs))
        ).cpu()
    if vgg is not None:
        device = device_of(vgg)
        distances = vgg.distances(*(to_float(images.to(device)) for images in (ours, theirs)))
        found |= {name: numbers.double().cpu() for name, numbers in distances.items()}
    return found


def _summary(values: dict[str, list[Tensor]]) -> dict[str, float]:
    row = {"perceptual": math.nan, "perceptual_se": math.nan} if "perceptual" not in values else {}
    for name, parts in values.items():
        summary = mean_and_error(torch.cat(parts))
        row |= {name: summary.mean, f"{name}_se": summary.standard_error}
    return row


def _rfid(originals: list[Tensor], outputs: list[Tensor]) -> dict[str, float]:
    before, after = torch.cat(originals), torch.cat(outputs)
    return {
        "rfid": frechet_distance(statistics(before), statistics(after)),
        "rfid_se": frechet_paired_bootstrap(after, before),
    }


def _about(autoencoder: Autoencoder, resolution: int) -> dict[str, Any]:
    spec = autoencoder.spec
    return {
        "channels": spec.channels,
        "num_tokens": (resolution // spec.stride) ** 2,  # of these images, not of the trained size
        "stride": spec.stride,
        "bits_per_pixel": spec.bits_per_pixel,
        "parameters": sum(parameter.numel() for parameter in autoencoder.parameters()),
        "identity": autoencoder.identity,
        "flowlab": __version__,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }


# ---- sizes -------------------------------------------------------------------------------------------------


def default_batch_size(resolution: int) -> int:
    """Images at once: about half a million pixels: 250 images of 32 pixels per side, 8 of 256."""
    return max(1, min(250, 2**19 // resolution**2))
