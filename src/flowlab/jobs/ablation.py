"""One arm and seed of an ablation: train the autoencoder, measure it, train flow models in its latent.

`python -m flowlab.jobs.ablation FOLDER ARM SEED`. Started again it goes on from its checkpoints.
"""

from __future__ import annotations

import argparse
import shutil
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from flowlab import __version__, autoencoders
from flowlab.autoencoders.base import Autoencoder
from flowlab.core.config import config_id
from flowlab.core.devices import default_device, machine
from flowlab.core.files import write_json
from flowlab.data import datasets
from flowlab.evaluate import generation, reconstruction
from flowlab.evaluate.latents import LatentStatistics
from flowlab.evaluate.reference import yardstick
from flowlab.features.embedded import load_judge, load_teacher
from flowlab.generate.sampling import SamplingConfig
from flowlab.jobs.cell import JUDGE, Clock
from flowlab.jobs.files import reporting
from flowlab.presets import PRESETS
from flowlab.study.ablation import MEASURED, Ablation, load
from flowlab.train.autoencoder import AutoencoderConfig
from flowlab.train.flow import FlowConfig, TimesConfig
from flowlab.train.loop import LoopConfig
from flowlab.train.optim import OptimiserConfig
from flowlab.train.run import recipe_of, start
from flowlab.train.state import TrainState

__all__ = ["ae_config", "flow_config", "main", "run_arm"]


def run_arm(ablation: Ablation, arm: str, seed: int, folder: Path) -> None:
    """Leave `rows/<arm>_s<seed>_f<flow seed>.json` for each flow seed; those that are there stay."""
    runs = folder / "runs" / f"{arm}_s{seed}"
    config = ae_config(ablation, arm, seed)
    ae_file, _, ae_seconds = _trained(config, runs / "autoencoder")
    model = autoencoders.load(ae_file).to(default_device())
    shared = _reconstruction(ablation, model, config.dataset) | {
        "arm": arm,
        "seed": seed,
        "ae_config_id": config_id(config),
        "ae_seconds": ae_seconds,
        "identity": model.identity,
    }
    for flow_seed in ablation.flow_seeds:
        path = folder / "rows" / f"{arm}_s{seed}_f{flow_seed}.json"
        if not path.is_file():
            write_json(path, shared | _learnability(ablation, config.dataset, ae_file, runs, flow_seed))
    shutil.rmtree(runs / "cache", ignore_errors=True)  # encoded images that no other run reads


def _learnability(ablation: Ablation, dataset: str, ae_file: Path, runs: Path, seed: int) -> dict[str, Any]:
    """A fixed flow model's FID in the latent of `ae_file`."""
    config = flow_config(ablation, dataset, ae_file, runs / "cache", seed)
    _, state, seconds = _trained(config, runs / f"flow_s{seed}")
    ruler = yardstick(dataset, 32, ablation.num_reference, JUDGE, runs.parents[1] / "cache")
    sampling = SamplingConfig(
        num_steps=ablation.num_sample_steps, shift=ablation.sample_shift, precision="bfloat16"
    )
    model, ae = state.emas["model"].module, state.fixed.autoencoder
    (result,) = generation.evaluate(model, ae, ruler, [sampling], num_samples=ablation.num_samples)
    numbers = {name: result.numbers[name] for name in ("fid", "fid_se", "features")}
    return numbers | {
        "gate": state.fixed.gate,
        "flow_seed": seed,
        "flow_seconds": seconds,
        "flow_config_id": config_id(replace(config, cache="", autoencoder="")),
        "machine": machine(state.device),
        "torch": torch.__version__,
        "flowlab": __version__,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _reconstruction(ablation: Ablation, model: Autoencoder, dataset: str) -> dict[str, Any]:
    """Quality on held-out images, and the statistics of their latents."""
    device = default_device()
    latents = LatentStatistics()
    row = reconstruction.evaluate(
        model,
        datasets.load(dataset, "heldout", num_images=ablation.reconstruction_images),
        judge=load_judge(JUDGE).to(device),
        judge_name=JUDGE,
        teacher=load_teacher("teacher").to(device),
        teacher_name="digits teacher",
        dataset_name=dataset,
        watch=[lambda trip: latents.update(model, trip.pixels, trip.mean, trip.latent, trip.decoded)],
    )
    both = row | latents.row()
    return {name: both[name] for name in MEASURED}


def _trained(config: Any, folder: Path) -> tuple[Path, TrainState, float]:
    """Train or resume; the exported file, the state, and the seconds of all its updates."""
    state, records = start(config, folder)
    clock = Clock(folder)
    for record in records:
        clock.note(record)
    return recipe_of(config).export(state, folder), state, clock.seconds


# ---- an ablation's settings as configurations --------------------------------------------------------------


def ae_config(ablation: Ablation, arm: str, seed: int) -> AutoencoderConfig:
    """The autoencoder that `arm` trains."""
    config = PRESETS[arm](debug=ablation.rehearsal)
    return replace(config, loop=replace(config.loop, seed=seed))


def flow_config(ablation: Ablation, dataset: str, ae_file: Path, cache: Path, seed: int) -> FlowConfig:
    """The flow model that reads every arm's latent."""
    return FlowConfig(
        autoencoder=str(ae_file),
        dataset=dataset,
        num_images=ablation.num_train_images,
        cache=str(cache),
        gate=False,  # the floor is of trained autoencoders; here quality stands in the same row
        backbone=ablation.backbone,
        times=TimesConfig(distribution="ln", alpha=ablation.train_shift),
        optimiser=OptimiserConfig(learning_rate=ablation.learning_rate),
        loop=LoopConfig(seed=seed, batch_size=ablation.batch_size, num_steps=ablation.num_steps),
    )


def main() -> None:
    """Command line of the job."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("arm")
    parser.add_argument("seed", type=int)
    options = parser.parse_args()
    with reporting():
        run_arm(load(options.folder), options.arm, options.seed, options.folder)


if __name__ == "__main__":
    main()
