"""Rows of evaluation: complete, repeatable, and right about images that are perfect or ruined."""

from __future__ import annotations

import pytest
import torch

from flowlab.autoencoders import load
from flowlab.backbones import build
from flowlab.data.embedded import digits
from flowlab.evaluate import reconstruction
from flowlab.evaluate.generation import at_shifts, evaluate
from flowlab.evaluate.reference import features_of, yardstick
from flowlab.features.embedded import load_judge, load_teacher
from flowlab.generate.sampling import SamplingConfig
from flowlab.study.results import RECONSTRUCTION_COLUMNS, check_row


@pytest.fixture(scope="module")
def ruler(tmp_path_factory):
    return yardstick("digits", 32, 300, "digits judge", tmp_path_factory.mktemp("cache"))


def test_real_held_out_digits_are_near_and_noise_is_far(ruler):
    real = digits("heldout", num_images=300, seed=5).read(torch.arange(300)).pixels
    noise = torch.randint(0, 256, (300, 3, 32, 32), dtype=torch.uint8)
    near, far = ruler.distances(real), ruler.distances(noise)
    assert near["fid"] < 1 < 10 < far["fid"] and near["fid_se"] > 0 and near["kid"] < far["kid"]


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


def test_features_do_not_depend_on_the_batch():
    images = digits("heldout", num_images=20).read(torch.arange(20)).pixels
    judge = load_judge("digits judge")
    assert images is not None
    torch.testing.assert_close(features_of(judge, images, 7), features_of(judge, images, 20))
