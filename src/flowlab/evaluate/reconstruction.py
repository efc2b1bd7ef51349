"""An autoencoder => one row of the reconstruction table (Table 1), every number with its standard error."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import torch
from torch import Tensor

from flowlab import __version__
from flowlab.autoencoders.base import Autoencoder
from flowlab.core.devices import device_of
from flowlab.core.pixels import to_float, to_uint8
from flowlab.data.batch import Dataset, in_order
from flowlab.evaluate.reference import features_of
from flowlab.features.embedded import Judge, Teacher
from flowlab.metrics.frechet import frechet_distance, frechet_paired_bootstrap, statistics
from flowlab.metrics.paired import feature_distance, mean_and_error, psnr, ssim

__all__ = ["evaluate", "reconstruct"]


def evaluate(
    autoencoder: Autoencoder,
    dataset: Dataset,
    *,
    judge: Judge,
    judge_name: str,
    teacher: Teacher,
    teacher_name: str,
    dataset_name: str,
    split: str = "heldout",
) -> dict[str, Any]:
    """PSNR, SSIM, perceptual distance and rFID over every image of `dataset`, against the same images.

    The perceptual distance is in the teacher's features and is not LPIPS; rFID is in the judge's.
    """
    originals, outputs = reconstruct(autoencoder, dataset)
    paired = {
        "psnr": psnr(outputs, originals),
        "ssim": ssim(outputs, originals),
        "perceptual": _perceptual(teacher, outputs, originals),
    }
    row: dict[str, Any] = {"ae": autoencoder.spec.name, "dataset": dataset_name, "split": split}
    row["num_images"] = len(originals)
    for name, values in paired.items():
        summary = mean_and_error(values)
        row |= {name: summary.mean, f"{name}_se": summary.standard_error}
    originals_features, features = features_of(judge, originals), features_of(judge, outputs)
    return row | {
        "perceptual_features": teacher_name,
        "rfid": frechet_distance(statistics(originals_features), statistics(features)),
        "rfid_se": frechet_paired_bootstrap(features, originals_features),
        "features": judge_name,
        "channels": autoencoder.spec.channels,
        "num_tokens": autoencoder.spec.num_tokens,
        "stride": autoencoder.spec.stride,
        "bits_per_pixel": autoencoder.spec.bits_per_pixel,
        "parameters": sum(parameter.numel() for parameter in autoencoder.parameters()),
        "identity": autoencoder.identity,
        "flowlab": __version__,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }


@torch.no_grad()
def reconstruct(autoencoder: Autoencoder, dataset: Dataset, batch_size: int = 250) -> tuple[Tensor, Tensor]:
    """(originals, reconstructions), both uint8 (n, 3, H, W)."""
    originals, outputs = [], []
    for batch in in_order(dataset, batch_size=batch_size):
        assert batch.pixels is not None, "reconstruction needs pixels"
        originals.append(batch.pixels)
        pixels = to_float(batch.pixels.to(device_of(autoencoder)))
        outputs.append(to_uint8(autoencoder.decode(autoencoder.latents(pixels))).cpu())
    return torch.cat(originals), torch.cat(outputs)


@torch.no_grad()
def _perceptual(teacher: Teacher, ours: Tensor, theirs: Tensor) -> Tensor:
    device = device_of(teacher)
    parts = [
        feature_distance(teacher.layers(to_float(a.to(device))), teacher.layers(to_float(b.to(device))))
        for a, b in zip(ours.split(250), theirs.split(250), strict=True)
    ]
    return torch.cat(parts).cpu()
