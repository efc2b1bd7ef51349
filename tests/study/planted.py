"""Synthetic result rows with planted effects."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import product

import numpy as np
import pandas as pd

from flowlab.study.grid import PAPER_AUTOENCODERS, SHIFTS

# best FID, ln alpha of the best training shift and of the best sampling shift, curvature of the latter
PUBLISHED_LIKE: dict[str, tuple[float, float, float, float]] = {
    "rae": (2.0, math.log(4.63), math.log(6.0), 0.25),
    "flux2": (4.0, math.log(2.95), math.log(4.63), 0.25),
    "sd": (7.0, math.log(1.3), math.log(2.4), 0.01),
    "flux1": (11.0, math.log(1.5), math.log(2.6), 0.01),
}
FAMILY: dict[str, float] = {"ts": 1.35, "ln": 1.0, "pln": 1.02}


def plant(
    *,
    seeds: tuple[int, ...] = (0, 1),
    steps: tuple[int, ...] = (100, 200),
    shifts: tuple[float, ...] = SHIFTS,
    aes: Mapping[str, tuple[float, float, float, float]] | None = None,
    family: Mapping[str, float] | None = None,
    repa: float = 0.8,
    noise: float = 0.01,
    curve: float = 0.8,
    dataset: str = "digits",
) -> pd.DataFrame:
    """Rows whose ln FID is a sum: ae, two parabolas in ln alpha, family, REPA, training, noise per run."""
    aes, family = aes or PUBLISHED_LIKE, family or FAMILY
    random, rows = np.random.default_rng(0), []
    for ae, (trainp, factor), trainshift, with_repa, seed in product(
        aes, family.items(), shifts, ("none", "teacher"), seeds
    ):
        base, train_peak, sample_peak, curvature = aes[ae]
        run = math.log(base) + math.log(factor) + curve * (math.log(trainshift) - train_peak) ** 2
        run += math.log(repa) * (with_repa == "teacher") + random.normal(0, noise)
        for step, sampleshift in product(steps, shifts):
            value = run + curvature * (math.log(sampleshift) - sample_peak) ** 2 + math.log(steps[-1] / step)
            rows.append(
                {
                    "step": step,
                    "ae": ae,
                    "repa": with_repa,
                    "trainp": trainp,
                    "trainshift": trainshift,
                    "sampleshift": sampleshift,
                    "fid": math.exp(value),
                    "features": "digits judge",
                    "fid_se": 0.02 * math.exp(value),
                    "num_samples": 1000,
                    "num_reference": 4000,
                    "kid": math.exp(value) / 100,
                    "sampler": "euler",
                    "num_steps": 50,
                    "guidance": 1.0,
                    "labels": "random",
                    "images_seen": step * 64,
                    "loss": 1.0,
                    "seed": seed,
                    "run_id": f"{ae}_{with_repa}_{trainp}_{float(trainshift)}_s{seed}",
                    "config_id": "0123456789ab",
                    "dataset": dataset,
                    "backbone": "tiny",
                    "optimiser": "adamw",
                    "train_seconds": 10.0,
                    "sample_seconds": 2.0,
                    "machine": "test",
                    "torch": "2.13.0",
                    "flowlab": "0.1.0",
                    "created": "2026-01-01T00:00:00+00:00",
                    "gate": "passed",
                    "kid_se": math.exp(value) / 5000,
                }
            )
    return pd.DataFrame(rows)


def plant_reconstruction(perceptual: dict[str, float] | None = None) -> pd.DataFrame:
    """One reconstruction row per autoencoder."""
    perceptual = perceptual or {"flux2": 0.25, "flux1": 0.35, "sd": 0.9, "rae": 1.6}
    return pd.DataFrame(
        [
            {
                "ae": ae,
                "dataset": "digits",
                "split": "reference",
                "num_images": 1000,
                "psnr": 30.0,
                "psnr_se": 0.1,
                "ssim": 0.9,
                "ssim_se": 0.001,
                "perceptual": perceptual[ae],
                "perceptual_se": 0.005,
                "perceptual_features": "digits teacher",
                "rfid": 0.1,
                "rfid_se": 0.01,
                "features": "digits judge",
                "channels": 16,
                "num_tokens": 16,
                "stride": 8,
                "bits_per_pixel": 1.0,
                "parameters": 1_000_000,
                "identity": "abc",
                "flowlab": "0.1.0",
                "created": "2026-01-01T00:00:00+00:00",
            }
            for ae in PAPER_AUTOENCODERS
        ]
    )
