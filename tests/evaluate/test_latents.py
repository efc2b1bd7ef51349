"""Latent statistics: against answers known beforehand, and the identities of the cosine transform."""

from __future__ import annotations

import math

import pytest
import torch
from tests.evaluate.toys import Pooled
from torch import Tensor

from flowlab.evaluate.latents import (
    TRANSFORMS,
    LatentStatistics,
    _cosines,
    effective_rank,
    equivariance,
    fits,
    radial_power,
    spectrum_slope,
)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def blocks(num: int = 3, side: int = 32, block: int = 4) -> Tensor:
    """Images in [-1, 1] that are constant on block x block pixels."""
    small = noise(num, 3, side // block, side // block).clamp(-1, 1)
    return small.repeat_interleave(block, 2).repeat_interleave(block, 3)


# ---- rank and spectrum -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("eigenvalues", "rank"),
    [([1, 1, 1, 1], 4), ([5, 0, 0, 0], 1), ([3, 3, 0, 0], 2), ([0.5, 0.25, 0.25], 2**1.5)],
)
def test_effective_rank_of_known_spectra(eigenvalues, rank):
    turn = torch.linalg.qr(noise(len(eigenvalues), len(eigenvalues)).double()).Q
    covariance = turn @ torch.diag(torch.tensor(eigenvalues, dtype=torch.float64)) @ turn.T
    assert effective_rank(covariance) == pytest.approx(rank, rel=1e-9)


def test_the_cosine_transform_keeps_lengths():
    matrix = _cosines(9)
    torch.testing.assert_close(matrix @ matrix.T, torch.eye(9, dtype=torch.float64))


def test_one_wave_fills_one_bin():
    places = (torch.arange(16) + 0.5) * math.pi / 16
    wave = (3 * places).cos().expand(1, 2, 16, 16)
    power = radial_power(wave, 15)
    assert power.shape == (1, 15) and float(power[0, 2]) > 1
    assert float(power[0, :2].sum() + power[0, 3:].sum()) < 1e-10


@pytest.mark.parametrize("exponent", [-2.0, 0.0, 1.0])
def test_a_power_law_gives_its_exponent(exponent):
    """Coefficients of (rounded radius)^(exponent / 2) with random signs."""
    side = 32
    down, right = torch.arange(side).double(), torch.arange(side).double()
    radius = (down[:, None].square() + right.square()).sqrt().round().clamp_min(1)
    signs = noise(20, 1, side, side).sign().double()
    matrix = _cosines(side)
    maps = matrix.T @ (radius.pow(exponent / 2) * signs) @ matrix
    assert spectrum_slope(radial_power(maps, side - 1).mean(0)) == pytest.approx(exponent, abs=1e-6)


def test_a_repeated_image_keeps_its_low_frequencies():
    """Bins count half cycles per image, so that a latent and its image are compared in the same band."""
    low = radial_power(blocks(4, 32, 1), 31)
    up = radial_power(blocks(4, 32, 1).repeat_interleave(4, 2).repeat_interleave(4, 3), 31)
    torch.testing.assert_close(up[:, :3] / 16, low[:, :3], rtol=0.05, atol=0)


@pytest.mark.parametrize("power", [[1.0], [1.0, 0.0]])
def test_no_slope_without_two_filled_bins(power):
    assert math.isnan(spectrum_slope(torch.tensor(power)))


# ---- equivariance ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TRANSFORMS)
def test_repeated_means_commute_with_both(name):
    mean = Pooled().encode(blocks()).mean
    decoded = Pooled().decode_raw(mean)
    error, decibel = equivariance(Pooled(), mean, decoded, TRANSFORMS[name][0])
    assert bool((error < 1e-6).all()) and bool((decibel == 100).all())


def test_a_stamp_that_does_not_turn_is_the_error():
    """D(T z) - T(D z) = stamp - T(stamp) for a decoder that adds a stamp."""
    stamp = noise(1, 3, 32, 32, seed=4) * 0.1
    model, mean = Pooled(stamp=stamp), Pooled().encode(blocks(1)).mean
    decoded = model.decode_raw(mean)
    expected = (stamp - torch.rot90(stamp, 1, (2, 3))).norm() / (decoded - decoded.mean()).norm()
    error, decibel = equivariance(model, mean, decoded, TRANSFORMS["rotation"][0])
    assert float(error) == pytest.approx(float(expected), rel=1e-5) and float(decibel) < 30


def test_which_sizes_fit():
    assert fits(Pooled(), blocks(1), 2) and not fits(Pooled(fixed_grid=True), blocks(1), 2)
    assert fits(Pooled(fixed_grid=True), blocks(1), 1)
    assert not fits(Pooled(), blocks(1, 20, 2)[:, :, :, :18], 1)
    assert not fits(Pooled(), torch.zeros(1, 3, 6, 6), 2)


# ---- the collector -----------------------------------------------------------------------------------------


def collector(images: Tensor, batch: int, **options: int) -> LatentStatistics:
    model, found = Pooled(), LatentStatistics(**options)
    for part in images.split(batch):
        mean = model.encode(part).mean
        found.update(model, part, mean, 2 * mean + 1, model.decode_raw(mean))
    return found


def collected(images: Tensor, batch: int, **options: int) -> dict[str, float]:
    return collector(images, batch, **options).row()


def test_the_row_does_not_depend_on_the_batch_and_knows_scale_and_shift():
    images = noise(12, 3, 32, 32).clamp(-1, 1)
    row, other = collected(images, 12), collected(images, 5)
    assert row == pytest.approx(other, rel=1e-6, abs=1e-9)
    latent = 2 * torch.nn.functional.avg_pool2d(images, 2) + 1
    assert row["latent_mean_max"] == pytest.approx(float(latent.mean((0, 2, 3)).abs().max()), rel=1e-5)
    assert row["latent_std_min"] == pytest.approx(float(latent.std((0, 2, 3)).min()), rel=1e-3)
    assert row["latent_std_min"] <= row["latent_std_max"] and 2.9 < row["effective_rank"] <= 3


def test_the_curves_are_what_the_columns_sum_up():
    images = noise(12, 3, 32, 32).clamp(-1, 1)
    curves, row = collector(images, 5).curves(), collected(images, 12)
    latent = 2 * torch.nn.functional.avg_pool2d(images, 2) + 1
    assert curves["latent_mean"] == pytest.approx(latent.mean((0, 2, 3)).tolist(), rel=1e-5)
    assert curves["latent_std"] == pytest.approx(latent.std((0, 2, 3)).tolist(), rel=1e-3)
    assert curves["spectrum_image"] == pytest.approx(radial_power(images, 15).mean(0).tolist(), rel=1e-6)
    slope = spectrum_slope(torch.tensor(curves["spectrum"]))
    assert len(curves["spectrum"]) == 15 and slope == pytest.approx(row["spectrum_slope"], rel=1e-5)


def test_only_the_first_images_are_turned():
    images = noise(12, 3, 32, 32).clamp(-1, 1)
    assert collected(images, 5, num_turned=7)["scale_error"] == pytest.approx(
        collected(images[:7], 7)["scale_error"], rel=1e-6
    )


def test_what_does_not_fit_is_not_a_number():
    found = LatentStatistics()
    model, images = Pooled(fixed_grid=True), blocks()
    mean = model.encode(images).mean
    found.update(model, images, mean, mean, model.decode_raw(mean))
    row = found.row()
    assert math.isnan(row["scale_error"]) and math.isnan(row["scale_psnr_se"])
    assert row["rotation_error"] < 1e-6
