"""What a study asks of its data is checked before anything is written."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from flowlab.jobs.inputs import check, fitted
from flowlab.study.studies import build

STANDARD = build("quickstart")


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    """Sixteen pictures of two classes for training, six held out."""
    root = tmp_path_factory.mktemp("images")
    for split, num in (("train", 8), ("heldout", 3)):
        for name in ("a", "b"):
            (root / split / name).mkdir(parents=True)
            for i in range(num):
                Image.new("RGB", (32, 32), (20 * i, 0, 0)).save(root / split / name / f"{i}.png")
    return root


def test_embedded_data_keeps_its_counts():
    assert fitted(STANDARD, STANDARD) is STANDARD
    check(STANDARD)


def test_a_folder_gives_what_it_has(images):
    draft = replace(STANDARD, dataset=str(images), draft=True)
    found = fitted(draft, STANDARD)
    assert (found.num_train_images, found.num_reference, found.reconstruction_images) == (16, 6, 6)
    check(found)


def test_a_number_that_was_asked_for_is_strict(images):
    asked = replace(STANDARD, dataset=str(images), draft=True, num_train_images=17)
    with pytest.raises(ValueError, match="num_images=17 of the 16 images in .*train; ask for 1 to 16"):
        check(fitted(asked, STANDARD))
    assert fitted(replace(asked, num_train_images=9), STANDARD).num_train_images == 9


def test_too_few_held_out_images_are_named(images):
    with pytest.raises(ValueError, match="heldout holds 6 images, and a distance needs at least 1000"):
        fitted(replace(STANDARD, dataset=str(images)), STANDARD)


def test_pictures_of_another_size_and_an_absent_split_are_named(images, tmp_path):
    draft = replace(STANDARD, draft=True, num_train_images=1, num_reference=1, reconstruction_images=2)
    for split in ("train", "heldout"):
        (tmp_path / split / "a").mkdir(parents=True)
        for i in range(2):
            Image.new("RGB", (48, 32)).save(tmp_path / split / "a" / f"{i}.png")
    with pytest.raises(ValueError, match=r"train/a/\d.png .*48"):
        check(replace(draft, dataset=str(tmp_path)))
    with pytest.raises(ValueError, match="no split 'train' in"):
        check(replace(draft, dataset=str(images / "train")))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dataset": "nosuch"}, "unknown dataset 'nosuch'"),
        ({"dataset": "scenes"}, "scenes has no classes"),
        ({"backbone": "nosuch"}, "unknown backbone size 'nosuch'"),
        ({"class_dropout": 1.0}, "class_dropout is 1.0"),
    ],
)
def test_a_fault_is_named(changes, message):
    with pytest.raises(ValueError, match=message):
        check(replace(STANDARD, **changes))
