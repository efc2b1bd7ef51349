"""A flow model => FID at several sampling shifts, from shared noise and labels so that comparisons are
paired.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from flowlab.autoencoders.base import Autoencoder
from flowlab.core.devices import autocast, device_of
from flowlab.core.pixels import to_uint8
from flowlab.evaluate.reference import Yardstick
from flowlab.generate.sampling import SamplingConfig, random_labels, sample_latents

__all__ = ["Generated", "at_shifts", "decode", "evaluate"]


@dataclass(frozen=True)
class Generated:
    """One evaluation: the numbers and the images behind them."""

    numbers: dict[str, Any]
    images: Tensor
    """uint8 (n, 3, H, W), on the CPU."""


def evaluate(
    model: nn.Module,
    autoencoder: Autoencoder,
    yardstick: Yardstick,
    configs: Sequence[SamplingConfig],
    *,
    num_samples: int,
    seed: int = 0,
) -> Iterator[Generated]:
    """Yield one result per sampling configuration, all from the same noise and labels."""
    if num_samples < 2:
        raise ValueError(f"{num_samples=}; a distance needs at least 2 samples, and 1,000 to mean something")
    spec = autoencoder.spec
    indices = torch.arange(num_samples, device=device_of(model))
    labels = random_labels(model.spec.num_classes, indices, seed)  # pyright: ignore
    for config in configs:
        start = time.perf_counter()
        latents = sample_latents(model, (spec.channels, spec.grid, spec.grid), labels, indices, seed, config)
        images = decode(autoencoder, latents, config.precision)
        numbers = yardstick.distances(images) | {
            "sampleshift": config.shift,
            "sampler": config.sampler,
            "num_steps": config.num_steps,
            "guidance": config.guidance,
            "labels": "random",
            "num_samples": num_samples,
            "num_reference": yardstick.reference.statistics.n,
            "features": yardstick.features_name,
        }
        yield Generated(numbers | {"sample_seconds": time.perf_counter() - start}, images)


@torch.no_grad()
def decode(
    autoencoder: Autoencoder, latents: Tensor, precision: str = "float32", batch_size: int = 250
) -> Tensor:
    """Final latents => uint8 images on the CPU."""
    parts = []
    for part in latents.split(batch_size):
        with autocast(part.device, precision):
            parts.append(to_uint8(autoencoder.decode(part).float()).cpu())
    return torch.cat(parts)


def at_shifts(config: SamplingConfig, shifts: Sequence[float]) -> list[SamplingConfig]:
    """The same sampling at each shift."""
    return [replace(config, shift=shift) for shift in shifts]
