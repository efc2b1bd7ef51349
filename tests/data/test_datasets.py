"""Datasets by name: every entry is built, folders are found, unknown names list the known ones."""

from __future__ import annotations

import pytest
import torch

from flowlab.core.counts import AtMost
from flowlab.data.batch import Dataset
from flowlab.data.datasets import DATASETS, load
from flowlab.data.embedded import digits
from flowlab.data.transforms import to_pil


@pytest.mark.parametrize("name", DATASETS)
def test_every_entry_reads(name):
    for split in ("train", "heldout"):
        dataset: Dataset = load(name, split, num_images=20, resolution=32)
        batch = dataset.read(torch.arange(20))
        assert len(dataset) == 20 and batch.pixels is not None and batch.pixels.shape == (20, 3, 32, 32)
        assert (batch.label is None) == (dataset.num_classes == 0) and dataset.resolution == 32


def test_at_most_takes_what_there_is_and_a_number_stays_strict(tmp_path):
    for i in range(3):
        (tmp_path / str(i)).mkdir()
        to_pil(torch.zeros(3, 32, 32, dtype=torch.uint8)).save(tmp_path / str(i) / "a.png")
    sizes = [len(load(str(tmp_path), "all", num_images=AtMost(n))) for n in (2, 3, 4)]
    assert sizes == [2, 3, 3]
    assert len(load("photos", "heldout", num_images=AtMost(1000))) == 342
    endless = load("digits", "heldout", num_images=AtMost(5000))
    assert endless.identity == load("digits", "heldout", num_images=5000).identity, "drawn at random"
    with pytest.raises(ValueError, match="num_images=4 of the 3 images"):
        load(str(tmp_path), "all", num_images=4)
    with pytest.raises(ValueError, match="unknown dataset 'nosuch'"):
        load("nosuch", "all", num_images=AtMost(4))


def test_folder_with_and_without_splits(tmp_path):
    pixels = digits("train").read(torch.arange(2)).pixels
    assert pixels is not None
    for i in range(2):
        (tmp_path / "train" / str(i)).mkdir(parents=True)
        to_pil(pixels[i]).save(tmp_path / "train" / str(i) / "a.png")
    inside, whole = load(str(tmp_path), "train"), load(str(tmp_path / "train"), "all")
    assert inside.identity == whole.identity and len(inside) == 2
    again = inside.read(torch.arange(2))
    assert again.pixels is not None and again.label is not None
    assert torch.equal(again.pixels, pixels[again.label])
    with pytest.raises(ValueError, match=r"no split 'heldout' .*it holds: train"):
        load(str(tmp_path), "heldout")


def test_unknown_name_lists_the_names():
    with pytest.raises(
        ValueError, match="unknown dataset 'mnist'; choose from: digits, photos, scenes, or give"
    ):
        load("mnist", "train")
