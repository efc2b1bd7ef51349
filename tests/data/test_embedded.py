"""Digits and photos: splits, determinism, attributes against pixels, licences."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flowlab.core.seeds import Streams
from flowlab.data.batch import Dataset
from flowlab.data.embedded import DIGIT_SPLITS, PHOTOS, digits, photos
from flowlab.data.strokes import DigitStyle, ink_fields

TRAIN = digits("train")


def pixels_of(dataset: Dataset, rows: torch.Tensor) -> torch.Tensor:
    """(B, 3, H, W) uint8."""
    pixels = dataset.read(rows).pixels
    assert pixels is not None
    return pixels


# ---- digits ------------------------------------------------------------------------------------------------


def test_splits_share_no_source_digit_and_use_all():
    sources = {
        split: set(digits(split, seed=seed).sources.tolist()) for seed, split in enumerate(DIGIT_SPLITS)
    }
    assert [len(sources[split]) for split in ("train", "judge", "heldout")] == [1000, 400, 397]
    assert len(set.union(*sources.values())) == 1797


def test_read_shows_only_digits_of_its_split():
    for split in DIGIT_SPLITS:
        dataset = digits(split)
        assert set(dataset.attributes(torch.arange(len(dataset)))["source"].tolist()) == set(
            dataset.sources.tolist()
        )


def test_splits_are_stratified():
    _, labels = ink_fields()
    share = labels.bincount() / len(labels)
    for split in DIGIT_SPLITS:
        counts = labels[digits(split).sources].bincount(minlength=10)
        assert (counts - share * counts.sum()).abs().max() <= 1


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 19_999), min_size=1, max_size=70))
def test_image_depends_on_its_index_alone(indices):
    batch = TRAIN.read(torch.tensor(indices))
    alone = torch.cat([pixels_of(digits("train", num_images=20_000), torch.tensor([i])) for i in indices[:5]])
    assert torch.equal(pixels_of(TRAIN, torch.tensor(indices))[:5], alone)
    assert batch.index.tolist() == indices


def test_prefix_is_the_same_for_another_number_of_images():
    rows = torch.arange(50)
    assert torch.equal(pixels_of(digits("train", num_images=50), rows), pixels_of(TRAIN, rows))


def test_seed_and_split_change_the_images():
    rows = torch.arange(8)
    first = TRAIN.attributes(rows)
    assert not torch.equal(first["angle"], digits("train", seed=1).attributes(rows)["angle"])
    assert not torch.equal(first["angle"], digits("judge").attributes(rows)["angle"])
    assert torch.equal(first["source"], digits("train", seed=1).attributes(rows)["source"])


def test_shape_range_and_labels():
    batch = TRAIN.read(torch.arange(1000))
    assert (
        batch.pixels is not None
        and batch.pixels.shape == (1000, 3, 32, 32)
        and batch.pixels.dtype == torch.uint8
    )
    assert batch.label is not None and batch.label.bincount().min() >= 95
    assert torch.equal(batch.label, TRAIN.attributes(torch.arange(1000))["label"])


def test_colours_in_the_attributes_are_the_colours_in_the_pixels():
    rows = torch.arange(500)
    pixels, found = TRAIN.read(rows).pixels, TRAIN.attributes(rows)
    assert pixels is not None
    is_ink = (pixels == found["ink"][:, :, None, None]).all(1).sum((1, 2))
    is_ground = (pixels == found["ground"][:, :, None, None]).all(1).sum((1, 2))
    assert is_ink.min() >= 40 and is_ground.min() >= 300


def test_pose_in_the_attributes_is_the_pose_in_the_pixels():
    still = DigitStyle(max_angle=1e-6, max_shear=1e-6, scale=(1.0, 1.0 + 1e-6))
    moving, fixed = (
        digits("train", style=still),
        digits(
            "train", style=DigitStyle(max_angle=1e-6, max_shear=1e-6, scale=(1.0, 1.0 + 1e-6), max_shift=1e-6)
        ),
    )
    rows = torch.arange(200)
    shift = ink_centre(moving, rows) - ink_centre(fixed, rows)  # (200, 2) right, down
    assert (shift - moving.attributes(rows)["shift"]).abs().mean() < 0.1


def ink_centre(dataset, rows: torch.Tensor) -> torch.Tensor:
    pixels, found = dataset.read(rows).pixels.float(), dataset.attributes(rows)
    away = (pixels - found["ground"].float()[:, :, None, None]).abs().sum(1)  # (B, 32, 32)
    place = torch.arange(32.0)
    return (
        torch.stack([(away.sum(1) * place).sum(1), (away.sum(2) * place).sum(1)], 1)
        / away.sum((1, 2))[:, None]
    )


def test_views_show_the_same_handwriting_in_other_poses():
    rows = torch.arange(16)
    one, two = (TRAIN.views(rows, Streams.for_samples(0, rows, purpose=name)) for name in ("one", "two"))
    again = TRAIN.views(rows, Streams.for_samples(0, rows, purpose="one"))
    assert torch.equal(one, again) and not torch.equal(one, two)


def test_flip_mirrors_the_chosen_images():
    rows, flip = torch.arange(6), torch.tensor([True, False, True, False, False, True])
    plain, mirrored = TRAIN.read(rows).pixels, TRAIN.read(rows, flip)
    assert plain is not None and mirrored.pixels is not None and mirrored.flip is flip
    assert torch.equal(mirrored.pixels[flip], plain[flip].flip(-1)) and torch.equal(
        mirrored.pixels[~flip], plain[~flip]
    )


def test_identity_changes_with_every_setting():
    variants = [
        digits("train"),
        digits("judge"),
        digits("train", seed=1),
        digits("train", num_images=9),
        digits("train", resolution=64),
        digits("train", style=DigitStyle(max_angle=5.0)),
    ]
    assert len({dataset.identity for dataset in variants}) == len(variants)


@pytest.mark.parametrize("wrong", [{"num_images": 0}, {"resolution": 4}])
def test_digits_refuses(wrong):
    with pytest.raises(ValueError, match="ask for at least 1 image"):
        digits("train", **wrong)


def test_unknown_split_lists_the_splits():
    with pytest.raises(ValueError, match="'test'; choose from: train, judge, heldout"):
        digits("test")
    with pytest.raises(ValueError, match="'judge'; choose from: train, heldout"):
        photos("judge")


# ---- photos ------------------------------------------------------------------------------------------------


def test_photo_splits_share_no_photograph():
    used = {
        split: set(photos(split).attributes(torch.arange(100))["source"].tolist())
        for split in ("train", "heldout")
    }
    assert not used["train"] & used["heldout"] and len(used["train"] | used["heldout"]) >= 6


def test_every_photo_is_licensed_and_none_without_a_licence_is_used():
    import inspect

    import skimage.data

    fetch = {"hubble": "hubble_deep_field", "ihc": "immunohistochemistry"}
    for name in PHOTOS:
        text = (inspect.getdoc(getattr(skimage.data, fetch.get(name, name))) or "").lower()
        assert any(word in text for word in ("public domain", "cc0", "no known copyright restrictions")), name
    assert not {"moon.png", "motorcycle_left.png", "lfw_subset.npy"} & {
        file for file, _, _ in PHOTOS.values()
    }


@pytest.mark.parametrize("resolution", [32, 64, 128])
def test_heldout_tiles_do_not_overlap_and_equal_the_photograph(resolution):
    from skimage.data import chelsea

    dataset = photos("heldout", resolution=resolution)
    rows = torch.arange(len(dataset))
    places = torch.stack(list(dataset.attributes(rows).values()), 1)
    same = places[:, None, 0] == places[None, :, 0]
    near = (places[:, None, 1:] - places[None, :, 1:]).abs().amax(-1) < resolution
    assert (same & near).sum() == len(dataset)  # each only with itself
    pixels = dataset.read(rows[:3]).pixels
    assert pixels is not None and pixels.shape[1:] == (3, resolution, resolution)
    picture = torch.from_numpy(chelsea().copy()).permute(2, 0, 1)
    _, top, left = places[2].tolist()
    assert torch.equal(pixels[2], picture[:, top : top + resolution, left : left + resolution])


def test_train_crops_depend_on_the_index_alone_and_cover_photographs_equally():
    dataset = photos("train", num_images=1000)
    rows = torch.tensor([3, 999, 500])
    alone = torch.cat([pixels_of(photos("train", num_images=1000), row[None]) for row in rows])
    assert torch.equal(pixels_of(dataset, rows), alone)
    assert dataset.attributes(torch.arange(1000))["source"].bincount().tolist() == [200] * 5
    places = torch.stack(list(dataset.attributes(torch.arange(1000)).values()), 1)
    assert len(places.unique(dim=0)) > 950


def test_heldout_can_be_thinned_evenly():
    assert len(photos("heldout", num_images=50)) == 50
    assert len(photos("heldout", num_images=50).attributes(torch.arange(50))["source"].unique()) == 2


@pytest.mark.parametrize(
    ("split", "wrong"),
    [
        ("heldout", {"num_images": 10_000}),
        ("train", {"num_images": 0}),
        ("train", {"resolution": 500}),
        ("heldout", {"resolution": 0}),
    ],
)
def test_photos_refuses(split, wrong):
    with pytest.raises(ValueError, match="photos: "):
        photos(split, **wrong)
