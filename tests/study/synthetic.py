"""Made-up rows and pictures in the study's exact schema, for tests of what reads them. Nothing was measured.

write_run(folder)                    a whole run folder, two seeds, with a sampling sweep and pictures
rows(aes=("sd",), seeds=(0,))        a part of it
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image, ImageFilter
from sklearn.datasets import load_digits

from flowlab.core.config import to_dict
from flowlab.core.files import write_json
from flowlab.study import results
from flowlab.study.grid import Study

__all__ = ["ALL_AES", "reconstruction", "rows", "study", "sweep_rows", "write_pictures", "write_run"]

SHIFTS = (1.0, 1.78, 2.95, 4.63, 6.93)
STEPS = (200, 400, 600, 800)
PAPER_AES = ("sd", "flux1", "flux2", "rae")
ALL_AES = ("sd", "flux1", "flux1_semantic", "flux2_plain", "flux2", "rae")

# ln FID at its best, ln of the best training shift, curvature of the training and of the sampling shift
_LAWS = {
    "sd":             (2.35, 0.30, 0.10, 0.01),
    "flux1":          (2.70, 0.75, 0.22, 0.02),
    "flux1_semantic": (2.40, 0.70, 0.20, 0.03),
    "flux2_plain":    (3.20, 1.20, 0.25, 0.05),
    "flux2":          (2.45, 1.00, 0.25, 0.07),
    "rae":            (2.30, 0.80, 0.45, 0.08),
}  # fmt: skip
_FAMILIES = {"ts": 0.14, "ln": 0.02, "pln": 0.0}
_CHANNELS = {"sd": 4, "flux1": 16, "flux1_semantic": 16, "flux2_plain": 32, "flux2": 32, "rae": 64}
# PSNR, SSIM, perceptual, rFID
_FIDELITY = {
    "sd":             (25.1, 0.889, 0.181, 1.42),
    "flux1":          (29.7, 0.951, 0.072, 0.32),
    "flux1_semantic": (28.0, 0.921, 0.088, 0.41),
    "flux2_plain":    (32.7, 0.972, 0.048, 0.11),
    "flux2":          (29.8, 0.944, 0.063, 0.23),
    "rae":            (23.8, 0.783, 0.244, 1.15),
}  # fmt: skip


# ---- rows --------------------------------------------------------------------------------------------------


def rows(
    *,
    aes: Sequence[str] = PAPER_AES,
    seeds: Iterable[int] = (0, 1),
    families: Iterable[str] = ("ts", "ln", "pln"),
    shifts: Sequence[float] = SHIFTS,
    repas: Iterable[str] = ("none", "teacher"),
    steps: Iterable[int] = STEPS,
) -> pd.DataFrame:
    """Result rows of a whole grid under a known law with noise: seeds differ by a few percent."""
    noise = np.random.default_rng(7)
    table = []
    for seed in seeds:
        for ae in aes:
            for repa in repas:
                for family in families:
                    for trainshift in shifts:
                        run = noise.normal(0, 0.06)
                        for step in steps:
                            for sampleshift in shifts:
                                value = _law(ae, repa, family, trainshift, sampleshift, step, 50, 1)
                                value += run + noise.normal(0, 0.015)
                                table.append(
                                    _row(ae, repa, family, trainshift, sampleshift, step, seed, value)
                                )
    return results.frame(table)


def sweep_rows(aes: Sequence[str] = PAPER_AES, seed: int = 0) -> pd.DataFrame:
    """Rows of a sampling sweep on the last checkpoint of the ln runs at two training shifts, without REPA."""
    noise = np.random.default_rng(8)
    table = []
    for ae in aes:
        for trainshift in (1.0, 2.95):
            for sampler, order in (("euler", 1), ("heun", 2)):
                for num_steps in (10, 25, 50, 100):
                    for sampleshift in SHIFTS:
                        value = _law(ae, "none", "ln", trainshift, sampleshift, STEPS[-1], num_steps, order)
                        row = _row(
                            ae,
                            "none",
                            "ln",
                            trainshift,
                            sampleshift,
                            STEPS[-1],
                            seed,
                            value + noise.normal(0, 0.01),
                        )
                        table.append(row | {"sampler": sampler, "num_steps": num_steps})
    return results.frame(table)


def _law(
    ae: str,
    repa: str,
    family: str,
    trainshift: float,
    sampleshift: float,
    step: int,
    num_steps: int,
    order: int,
) -> float:
    base, best, bend, sample_bend = _LAWS[ae]
    late = 1.6 * math.exp(-step / 260)
    gain = -0.25 if repa == "teacher" else 0.0
    train = bend * (math.log(trainshift) - best) ** 2
    sample = sample_bend * (math.log(sampleshift) - best - 0.3 + 2.0 / num_steps) ** 2
    coarse = (8.0 if order == 1 else 4.0) / num_steps**1.5 * (1 + math.log(sampleshift))
    return base + late + gain + train + sample + coarse + _FAMILIES[family]


def _row(
    ae: str, repa: str, family: str, trainshift: float, sampleshift: float, step: int, seed: int, lnfid: float
) -> dict[str, Any]:
    fid = math.exp(lnfid)
    run = f"{ae}_{repa}_{family}_{trainshift}_s{seed}"
    return {
        "step": step, "ae": ae, "repa": repa, "trainp": family, "trainshift": trainshift,
        "sampleshift": sampleshift, "fid": fid, "features": "digits judge", "fid_se": 0.03 * fid,
        "num_samples": 1000, "num_reference": 4000, "kid": fid / 900, "sampler": "euler", "num_steps": 50,
        "guidance": 1.0, "labels": "random", "images_seen": step * 64, "loss": 0.9 + 30 / step, "seed": seed,
        "run_id": run, "config_id": "0a1b2c3d4e5f", "dataset": "digits", "backbone": "tiny",
        "optimiser": "adamw", "train_seconds": step * 0.05, "sample_seconds": 8.0,
        "machine": "2 cores of a synthetic CPU", "torch": "2.13.0", "flowlab": "0.1.0",
        "created": "2026-01-01T00:00:00+00:00", "gate": "passed", "kid_se": fid / 30_000,
    }  # fmt: skip


def reconstruction(aes: Sequence[str] = ALL_AES) -> pd.DataFrame:
    """Reconstruction rows, one per autoencoder."""
    table = []
    for ae in aes:
        (psnr, ssim, perceptual, rfid), channels = _FIDELITY[ae], _CHANNELS[ae]
        table.append(
            {
                "ae": ae, "dataset": "digits", "split": "heldout", "num_images": 1000, "psnr": psnr,
                "psnr_se": 0.08, "ssim": ssim, "ssim_se": 0.0013, "perceptual": perceptual,
                "perceptual_se": 0.0017, "perceptual_features": "digits teacher", "rfid": rfid,
                "rfid_se": 0.02, "features": "digits judge", "channels": channels, "num_tokens": 16,
                "stride": 8, "bits_per_pixel": channels / 4, "parameters": 1_420_000,
                "identity": f"{ae}-0123456789ab", "flowlab": "0.1.0", "created": "2026-01-01T00:00:00+00:00",
            }
        )  # fmt: skip
    return results.frame(table, results.RECONSTRUCTION_COLUMNS)


# ---- pictures ----------------------------------------------------------------------------------------------


def write_pictures(folder: Path, aes: Sequence[str] = PAPER_AES, *, num_images: int = 12) -> None:
    """samples/ as the runner writes it: reconstruction_<ae>.png, grid_<run_id>.png and manifest.json."""
    folder.mkdir(parents=True, exist_ok=True)
    entries = []
    for ae in aes:
        originals = [_digit(i) for i in range(num_images)]
        blurred = [image.filter(ImageFilter.GaussianBlur(12 / _FIDELITY[ae][0])) for image in originals]
        _tile([originals, blurred]).save(folder / f"reconstruction_{ae}.png")
        entries.append(
            {"kind": "reconstruction", "ae": ae, "run_id": "", "file": f"reconstruction_{ae}.png",
             "caption": f"{ae}: originals above, reconstructions below", "box": [10, 8, 12, 12]}
        )  # fmt: skip
        for repa in ("none", "teacher"):
            run = f"{ae}_{repa}_ln_2.95_s0"
            digits = [_digit(100 + i).filter(ImageFilter.GaussianBlur(0.8)) for i in range(36)]
            _tile([digits[i : i + 12] for i in range(0, 36, 12)]).save(folder / f"grid_{run}.png")
            entries.append(
                {"kind": "samples", "ae": ae, "run_id": run, "file": f"grid_{run}.png",
                 "caption": f"{run}, step 800, sampling shift 2.95, FID 12.3"}
            )  # fmt: skip
    (folder / "manifest.json").write_text(json.dumps(entries, indent=2))


@lru_cache
def _digits() -> np.ndarray:
    return load_digits().images  # (1797, 8, 8), 0 to 16


def _digit(index: int) -> Image.Image:
    ink = np.random.default_rng(index).integers(80, 256, 3)
    small = Image.fromarray((_digits()[index] * 15.9).astype("uint8"))
    grey = np.asarray(small.resize((32, 32), Image.Resampling.BICUBIC)) / 255
    return Image.fromarray((12 + grey[..., None] * (ink - 12)).astype("uint8"))


def _tile(grid: list[list[Image.Image]]) -> Image.Image:
    sheet = Image.new("RGB", (34 * len(grid[0]) + 2, 34 * len(grid) + 2), "white")
    for y, line in enumerate(grid):
        for x, image in enumerate(line):
            sheet.paste(image, (34 * x + 2, 34 * y + 2))
    return sheet


# ---- a run folder ------------------------------------------------------------------------------------------


def study(
    aes: Sequence[str] = PAPER_AES, seeds: Sequence[int] = (0, 1), shifts: Sequence[float] = SHIFTS
) -> Study:
    """The settings that `rows` fulfil."""
    return Study(
        name="made_up",
        autoencoders=tuple(aes),
        seeds=tuple(seeds),
        train_shifts=tuple(shifts),
        sample_shifts=tuple(shifts),
        num_steps=STEPS[-1],
        checkpoints=STEPS,
    )


def write_run(
    folder: Path,
    *,
    aes: Sequence[str] = PAPER_AES,
    seeds: Sequence[int] = (0, 1),
    shifts: Sequence[float] = SHIFTS,
    sweep: bool = True,
) -> Path:
    """A finished run folder of made-up numbers."""
    folder.mkdir(parents=True, exist_ok=True)
    parts = [rows(aes=aes, seeds=seeds, shifts=shifts)] + ([sweep_rows(aes)] if sweep else [])
    results.write_results(folder / "results.parquet", pd.concat(parts, ignore_index=True))
    results.write_reconstruction(folder / "reconstruction.parquet", reconstruction(aes))
    write_json(folder / "study.json", to_dict(study(aes, seeds, shifts)))
    write_pictures(folder / "samples", aes)
    return folder
