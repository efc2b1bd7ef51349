"""Rows of evaluation: complete, repeatable, and right about images that are perfect or ruined."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from tests.evaluate.toys import Pooled

from flowlab.autoencoders import load
from flowlab.backbones import build
from flowlab.core.pixels import to_float
from flowlab.data.batch import Batch
from flowlab.data.embedded import digits, photos
from flowlab.evaluate import reconstruction
from flowlab.evaluate.generation import at_shifts, evaluate
from flowlab.evaluate.reference import features_of, yardstick
from flowlab.features import vgg
from flowlab.features.embedded import load_judge, load_teacher
from flowlab.generate.sampling import SamplingConfig
from flowlab.metrics.kernel import kernel_distance
from flowlab.study.results import RECONSTRUCTION_COLUMNS, check_row


@pytest.fixture(scope="module")
def ruler(tmp_path_factory):
    return yardstick("digits", 32, 300, "digits judge", tmp_path_factory.mktemp("cache"))


def test_real_held_out_digits_are_near_and_noise_is_far(ruler):
    real = digits("heldout", num_images=300, seed=5).read(torch.arange(300)).pixels
    noise = torch.randint(0, 256, (300, 3, 32, 32), dtype=torch.uint8)
    near, far = ruler.distances(real), ruler.distances(noise)
    assert near["fid"] < 1 < 10 < far["fid"] and near["fid_se"] > 0 and near["kid"] < far["kid"]
    for found in (near, far):
        assert 0 < found["kid_se"] < max(abs(found["kid"]), 0.01)


def test_kid_and_its_error_are_those_of_one_subset(ruler):
    images = digits("heldout", num_images=100, seed=5).read(torch.arange(100)).pixels
    assert images is not None
    features = features_of(ruler.judge, images)
    expected = kernel_distance(features, ruler.features, num_subsets=1, subset_size=100)
    found = ruler.distances(images)
    assert (found["kid"], found["kid_se"]) == (expected.distance, expected.standard_error)


def test_the_yardstick_is_cached_by_what_made_it(tmp_path):
    first = yardstick("digits", 32, 50, "digits judge", tmp_path)
    again = yardstick("digits", 32, 50, "digits judge", tmp_path)
    assert torch.equal(first.features, again.features) and len(list(tmp_path.iterdir())) == 1
    yardstick("digits", 32, 60, "digits judge", tmp_path)
    assert len(list(tmp_path.iterdir())) == 2


def test_shifts_share_noise_and_labels(ruler):
    torch.manual_seed(0)
    model = build("tiny", channels=4, grid=4, num_classes=10).eval().requires_grad_(False)
    for parameter in model.parameters():
        parameter += 0.02 * torch.randn_like(parameter)  # a fresh model's velocity is zero
    configs = at_shifts(SamplingConfig(num_steps=2), [1.0, 1.0, 6.93])
    results = list(evaluate(model, load("sd"), ruler, configs, num_samples=70))
    assert torch.equal(results[0].images, results[1].images)
    assert results[0].numbers["fid"] == results[1].numbers["fid"]
    assert not torch.equal(results[0].images, results[2].images)
    assert [result.numbers["sampleshift"] for result in results] == [1.0, 1.0, 6.93]
    assert results[0].numbers["features"] == "digits judge" and results[0].images.shape == (70, 3, 32, 32)


def test_no_samples_is_an_error(ruler):
    with pytest.raises(ValueError, match="num_samples=0"):
        next(
            evaluate(build("tiny", channels=4, grid=4, num_classes=10), load("sd"), ruler, [], num_samples=0)
        )


def test_a_reconstruction_row_fits_the_schema():
    dataset = digits("heldout", num_images=80)
    row = reconstruction.evaluate(
        load("flux2"),
        dataset,
        judge=load_judge("digits judge"),
        judge_name="digits judge",
        teacher=load_teacher("teacher"),
        teacher_name="digits teacher",
        dataset_name="digits",
    )
    checked = check_row(row, "test", RECONSTRUCTION_COLUMNS)
    assert list(checked) == list(RECONSTRUCTION_COLUMNS)
    assert row["psnr"] > 27 and 0 < row["ssim_se"] < 0.05 and row["bits_per_pixel"] == 16 * 32 / 64


def row_of(autoencoder, dataset, **options: Any):
    """A row without the networks that a test does not need."""
    nothing: dict[str, Any] = {"judge": None, "judge_name": "none", "teacher": None, "teacher_name": "none"}
    return reconstruction.evaluate(autoencoder, dataset, **{**nothing, "dataset_name": "x", **options})


def test_a_row_does_not_depend_on_the_batch():
    dataset = digits("heldout", num_images=30)
    options: dict[str, Any] = {"judge": load_judge("digits judge"), "judge_name": "digits judge"}
    options |= {"teacher": load_teacher("teacher"), "teacher_name": "teacher"}
    first, again = (row_of(load("sd"), dataset, batch_size=size, **options) for size in (30, 7))
    for name in ("psnr", "psnr_se", "ssim", "perceptual", "rfid", "rfid_se"):
        assert first[name] == pytest.approx(again[name], rel=2e-3), name  # a grey level may round otherwise


def test_without_networks_their_numbers_are_missing_and_vgg_adds_its_own():
    dataset = digits("heldout", num_images=6)
    plain, seen = row_of(load("sd"), dataset), row_of(load("sd"), dataset, vgg=vgg.random(0, width=8))
    assert all(math.isnan(plain[name]) for name in ("rfid", "rfid_se", "perceptual", "perceptual_se"))
    assert seen.keys() - plain.keys() == {"lpips_vgg", "lpips_vgg_se", "psim_vgg16", "psim_vgg16_se", "vgg"}
    originals, outputs = reconstruction.reconstruct(load("sd"), dataset)
    expected = vgg.random(0, width=8).distances(to_float(outputs), to_float(originals))
    assert seen["psim_vgg16"] == pytest.approx(float(expected["psim_vgg16"].mean()), rel=1e-5)
    assert seen["lpips_vgg_se"] == pytest.approx(float(expected["lpips_vgg"].std()) / 6**0.5, rel=1e-4)


def test_a_heads_free_vgg_never_fills_the_lpips_column():
    row = row_of(load("sd"), digits("heldout", num_images=3), vgg=vgg.random(0, width=8, heads=False))
    assert "psim_vgg16" in row and "lpips_vgg" not in row


def test_larger_images_are_shrunk_for_the_embedded_networks_and_the_name_says_so():
    dataset = photos("heldout", num_images=70, resolution=64)
    options: dict[str, Any] = {"judge": load_judge("digits judge"), "judge_name": "digits judge"}
    options |= {"teacher": load_teacher("teacher"), "teacher_name": "teacher"}
    row = row_of(Pooled(), dataset, **options)
    assert (row["features"], row["perceptual_features"]) == ("digits judge at 32 px", "teacher at 32 px")
    assert row["rfid"] > 0 and row["perceptual"] > 0
    assert row["num_tokens"] == (64 // 2) ** 2, "of the images, not of the size that Pooled was made for"


def test_what_an_exact_round_trip_gives():
    """Images that are constant on 2 x 2 pixels survive means of 2 x 2."""
    row = row_of(Pooled(), Blocks(), vgg=vgg.random(0, width=8))
    assert row["psnr"] == 100 and row["ssim"] == pytest.approx(1) and row["psim_vgg16"] == 0


def test_a_row_of_pixels_that_are_not_finite_names_the_image():
    stamp = torch.zeros(1, 3, 32, 32)
    stamp[..., 3] = float("nan")
    with pytest.raises(ValueError, match="pooled decodes image 0 to pixels that are not finite"):
        row_of(Pooled(stamp=stamp), Blocks())


class Blocks:
    """Five images, constant on 2 x 2 pixels."""

    identity, num_classes, resolution = "blocks", 0, 32

    def __len__(self) -> int:
        return 5

    def read(self, indices, flip=None):
        small = torch.randint(
            0, 256, (5, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
        )
        pixels = small[indices].repeat_interleave(2, 2).repeat_interleave(2, 3)
        return Batch(index=indices, pixels=pixels)


def test_features_do_not_depend_on_the_batch():
    images = digits("heldout", num_images=20).read(torch.arange(20)).pixels
    judge = load_judge("digits judge")
    assert images is not None
    torch.testing.assert_close(features_of(judge, images, 7), features_of(judge, images, 20))
