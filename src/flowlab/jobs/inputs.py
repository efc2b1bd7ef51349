"""What a study will read, checked before its folder is written."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from flowlab.data import datasets
from flowlab.data.batch import Dataset
from flowlab.jobs.cell import flow_config
from flowlab.study.grid import MIN_SAMPLES, Study, cells
from flowlab.train.run import validate

__all__ = ["check", "fitted"]

COUNTS = {"num_train_images": "train", "num_reference": "heldout", "reconstruction_images": "heldout"}
"""Fields of a study that count images, and the split each counts."""
RESOLUTION = 32
"""Pixels per side of the autoencoders that a study compares."""


def fitted(study: Study, standard: Study) -> Study:
    """`study` with the counts that are still those of `standard` cut to what its folder of images holds.

    Any other count was asked for, and a folder that holds fewer is an error. Embedded data sets stay as they
    are.
    """
    if study.dataset in datasets.DATASETS:
        return study
    held = {split: len(_images(study, split)) for split in dict.fromkeys(COUNTS.values())}
    asked = {field: getattr(study, field) for field in COUNTS}
    kept = [field for field, count in asked.items() if count == getattr(standard, field)]
    cut = replace(study, **{field: min(asked[field], held[COUNTS[field]]) for field in kept})
    if cut.num_reference < min(study.num_reference, MIN_SAMPLES) and not study.draft:
        raise ValueError(
            f"{study.dataset}/heldout holds {cut.num_reference} images, and a distance needs at least "
            f"{MIN_SAMPLES}; add some, or rehearse with --draft"
        )
    return cut


def check(study: Study) -> None:
    """Refuse names that nothing answers to, splits that are not there and images of another size."""
    validate(flow_config(study, cells(study)[0], Path()))
    for split in dict.fromkeys(COUNTS.values()):
        count = max(getattr(study, field) for field in COUNTS if COUNTS[field] == split)
        images = _images(study, split, count)
        if not images.num_classes:
            raise ValueError(f"{study.dataset} has no classes; give --dataset one that has, such as digits")
        if study.dataset not in datasets.DATASETS:  # an embedded one has the size it is asked for
            images.read(torch.arange(1))


def _images(study: Study, split: str, count: int | None = None) -> Dataset:
    return datasets.load(study.dataset, split, num_images=count, resolution=RESOLUTION)
