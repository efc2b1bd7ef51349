"""What all runs on one autoencoder share: encoded training data, its reconstruction row and pictures.

`python -m flowlab.jobs.prepare STUDY_FOLDER AUTOENCODER`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from flowlab import autoencoders
from flowlab.core.devices import default_device
from flowlab.core.files import atomic_path, write_json
from flowlab.core.pixels import contact_sheet
from flowlab.data import datasets
from flowlab.data.transforms import to_pil
from flowlab.evaluate import reconstruction
from flowlab.features.embedded import load_teacher
from flowlab.jobs.cell import JUDGE, flow_config, neediest_cell, study_yardstick
from flowlab.jobs.files import load_study, reporting
from flowlab.study.grid import Study
from flowlab.train.flow import ensure_latents

__all__ = ["main", "prepare"]

NUM_PICTURES = 12


def prepare(study: Study, ae: str, study_folder: Path) -> None:
    """Leave `reconstruction/<ae>.json` and `.png`, the latent cache and the reference features."""
    ruler = study_yardstick(study, study_folder)
    ensure_latents(flow_config(study, neediest_cell(study, ae), study_folder))
    device = default_device()
    autoencoder, teacher = autoencoders.load(ae).to(device), load_teacher("teacher").to(device)
    num = study.reconstruction_images
    held_out = datasets.load(study.dataset, "heldout", num_images=num, resolution=autoencoder.spec.resolution)
    row = reconstruction.evaluate(
        autoencoder,
        held_out,
        judge=ruler.judge,
        judge_name=JUDGE,
        teacher=teacher,
        teacher_name="digits teacher",
        dataset_name=study.dataset,
    )
    folder = study_folder / "reconstruction"
    folder.mkdir(exist_ok=True)
    few = min(NUM_PICTURES, num)
    pictures = datasets.load(study.dataset, "heldout", num_images=few, resolution=autoencoder.spec.resolution)
    originals, outputs = reconstruction.reconstruct(autoencoder, pictures)
    with atomic_path(folder / f"{ae}.png") as draft:
        to_pil(contact_sheet(torch.cat([originals, outputs]), columns=few)).save(draft, format="PNG")
    write_json(folder / f"{ae}.json", row)


def main() -> None:
    """Command line of the job."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("study_folder", type=Path)
    parser.add_argument("autoencoder")
    options = parser.parse_args()
    with reporting():
        prepare(load_study(options.study_folder), options.autoencoder, options.study_folder)


if __name__ == "__main__":
    main()
