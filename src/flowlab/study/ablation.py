"""The ablation of autoencoder regularisers as plain data: settings, rows, and what the rows say.

An arm is a preset of autoencoder training, run with each seed; then one flow model learns in each latent.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from flowlab.core.choices import lookup
from flowlab.core.config import from_dict
from flowlab.core.files import read_json
from flowlab.metrics.intervals import student_quantile
from flowlab.study import results

__all__ = [
    "ABLATIONS",
    "COLUMNS",
    "MEASURED",
    "Ablation",
    "ae_ablation",
    "balanced",
    "build",
    "collect",
    "effects",
    "load",
    "missing",
]

MEASURED: dict[str, type] = {  # of an autoencoder on held-out images
    "psnr": float,  # dB
    "psnr_se": float,
    "ssim": float,
    "ssim_se": float,
    "perceptual": float,
    "perceptual_se": float,
    "rfid": float,
    "rfid_se": float,
    "effective_rank": float,  # of the latent's channels
    "rotation_error": float,  # relative, of decoding a turned latent; 0 = equivariant
    "scale_error": float,  # the same for a halved latent
}
COLUMNS: dict[str, type] = {
    "arm": str,
    "seed": int,  # of the autoencoder's training
    "flow_seed": int,
    "fid": float,  # of the flow model, never read without `features`
    "fid_se": float,
    "features": str,
    "gate": str,  # passed, warned or off: what judged the autoencoder before the flow model trained
    **MEASURED,
    "ae_seconds": float,
    "flow_seconds": float,
    "ae_config_id": str,
    "flow_config_id": str,
    "identity": str,
    "machine": str,
    "torch": str,
    "flowlab": str,
    "created": str,
}


@dataclass(frozen=True, kw_only=True)
class Ablation:
    """Arms, seeds, and the one flow model that reads every latent."""

    name: str
    """The folder under runs/."""
    arms: tuple[str, ...]
    """Presets of autoencoder training, the one that the others are compared with first."""
    seeds: tuple[int, ...] = (0, 1)
    """Of the autoencoders, shared by all arms so that comparisons are paired."""
    flow_seeds: tuple[int, ...] = (0,)
    """Of the flow models on each autoencoder; more average the generator's own noise away."""
    rehearsal: bool = False
    """The presets' debug forms: seconds long, their numbers mean nothing."""
    backbone: str = "tiny"
    """A size of flowlab.backbones."""
    num_steps: int = 400
    """Updates of a flow model."""
    batch_size: int = 64
    """Images per update of the flow model."""
    learning_rate: float = 4e-3
    """Of the flow model, constant."""
    train_shift: float = 1.78
    """Of logit-normal times; the study's rows prefer it to 1 for 32 channels."""
    sample_shift: float = 1.0
    """Of the sampling grid."""
    num_sample_steps: int = 50
    """Euler updates."""
    num_train_images: int = 16_384
    """Encoded images that the flow model sees."""
    num_samples: int = 1000
    """Generated images behind a FID."""
    num_reference: int = 4000
    """Held-out images behind its reference."""
    reconstruction_images: int = 1000
    """Held-out images behind PSNR and rFID."""


def ae_ablation() -> Ablation:
    """Eight ways to train the 32-channel autoencoder on digits: do the regularisers work?

    Command: `flowlab study ablate ae_ablation`.
    """
    kinds = ("kl", "none", "vf_strong", "kl_raised", "eq", "scale", "repae", "vf")
    return Ablation(name="ae_ablation", arms=tuple(f"ae_ablation_{kind}" for kind in kinds))


ABLATIONS: dict[str, Callable[[], Ablation]] = {"ae_ablation": ae_ablation}


def build(name: str, *, debug: bool = False) -> Ablation:
    """The ablation `name`; `debug` is its rehearsal."""
    found = lookup(ABLATIONS, name, "ablation")()
    return _rehearsal(found) if debug else found


def _rehearsal(ablation: Ablation) -> Ablation:
    return replace(
        ablation,
        name=f"{ablation.name}_debug",
        arms=ablation.arms[:2],
        seeds=(0,),
        flow_seeds=(0,),
        rehearsal=True,
        num_steps=2,
        batch_size=8,
        num_sample_steps=2,
        num_train_images=64,
        num_samples=96,
        num_reference=96,
        reconstruction_images=16,
    )


# ---- rows --------------------------------------------------------------------------------------------------


def load(folder: Path) -> Ablation:
    """The settings in `ablation.json`."""
    path = folder / "ablation.json"
    if not path.is_file():
        raise ValueError(f"{folder} holds no ablation.json; start it with `flowlab study ablate`")
    return from_dict(Ablation, read_json(path), str(path))


def missing(ablation: Ablation, rows: pd.DataFrame) -> list[tuple[str, str, int]]:
    """(name, arm, seed) of each autoencoder that lacks a flow seed's row: a whole seed before the next."""
    found = set(zip(rows["arm"], rows["seed"], rows["flow_seed"], strict=True))
    return [
        (f"{arm}_s{seed}", arm, seed)
        for seed in ablation.seeds
        for arm in ablation.arms
        if any((arm, seed, flow_seed) not in found for flow_seed in ablation.flow_seeds)
    ]


def collect(folder: Path) -> pd.DataFrame:
    """The rows gathered before and those that jobs have left since; a job's own row replaces an older one."""
    path = folder / "ablation.parquet"
    tables = [results.frame([read_json(file)], COLUMNS) for file in sorted(folder.glob("rows/*.json"))]
    if path.is_file():
        tables.append(results.read_table(path, COLUMNS))
    if not tables:
        return results.empty(COLUMNS)
    key = ["arm", "seed", "flow_seed"]
    rows = pd.concat(tables, ignore_index=True).drop_duplicates(key, keep="first")
    return rows.sort_values(key, kind="stable", ignore_index=True)


# ---- what the rows say -------------------------------------------------------------------------------------


def balanced(rows: pd.DataFrame, arms: tuple[str, ...]) -> pd.DataFrame:
    """The rows of the arms that have any, at the seeds that all of those share: what can be compared."""
    present = [arm for arm in arms if arm in set(rows["arm"])]
    seeds = [set(rows.loc[rows["arm"] == arm, "seed"]) for arm in present]
    shared = set.intersection(*seeds) if seeds else set()
    return rows[rows["arm"].isin(present) & rows["seed"].isin(shared)]


def effects(rows: pd.DataFrame, arms: tuple[str, ...], value: str, level: float = 0.95) -> pd.DataFrame:
    """Each arm of balanced rows against the first: columns arm, mean, difference, low, high.

    Flow seeds are averaged; what is left is an arm x seed table y = arm + seed + error. The error's variance
    is pooled over all arms with (arms - 1)(seeds - 1) degrees of freedom, so that two seeds give an interval
    of use: difference +- t s sqrt(2 / seeds). With one seed the bounds are NaN.
    """
    table = rows.groupby(["arm", "seed"])[value].mean().unstack("seed")
    table = table.reindex([arm for arm in arms if arm in table.index])
    assert not table.isna().any(axis=None), "every arm needs every seed; see `balanced`"
    num_arms, num_seeds = table.shape
    residual = table.sub(table.mean(axis=1), axis=0).sub(table.mean(axis=0), axis=1) + table.to_numpy().mean()
    freedom = (num_arms - 1) * (num_seeds - 1)
    variance = float((residual**2).to_numpy().sum()) / max(freedom, 1)
    half = float("nan")
    if freedom:
        half = student_quantile((1 + level) / 2, freedom) * (2 * variance / num_seeds) ** 0.5
    mean = table.mean(axis=1)
    difference = mean - mean.iloc[0]
    return pd.DataFrame(
        {
            "arm": table.index,
            "mean": mean.to_numpy(),
            "difference": difference.to_numpy(),
            "low": (difference - half).to_numpy(),
            "high": (difference + half).to_numpy(),
        }
    )
