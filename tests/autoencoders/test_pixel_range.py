"""Which range pixels are in: told by values and grey levels, never by brightness."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import Tensor

from flowlab.autoencoders.pixel_range import PixelRange
from flowlab.core.pixels import to_float
from flowlab.data.embedded import photos


def fed(pixels: Tensor, batch: int = 16) -> PixelRange:
    judge = PixelRange()
    for part in pixels.split(batch):
        judge.update(part)
    return judge


@pytest.fixture(scope="module")
def pictures() -> Tensor:
    pixels = photos("train", num_images=64, resolution=32).read(torch.arange(64)).pixels
    assert pixels is not None
    return pixels


def sound(pixels: Tensor) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fed(pixels).judge()


def test_photos_in_the_right_range_pass(pictures):
    sound(to_float(pictures))


def test_bright_pictures_pass(pictures):
    """Every pixel above mid-grey, in 64 images: all values are in [0, 1] and still right."""
    bright = pictures // 2 + 128
    assert float(to_float(bright).min()) > 0
    sound(to_float(bright))
    sound(torch.ones(64, 3, 8, 8))  # white paper


@pytest.mark.parametrize("divisor", [255, 510], ids=["photos", "dark photos"])
def test_unit_range_is_refused(pictures, divisor):
    with pytest.raises(
        ValueError, match=r"64 images range from 0.* of \[0, 1\]; expected \[-1, 1\], so give"
    ):
        fed((pictures.float() * 255 / divisor).round() / 255).judge()


def test_bright_pictures_in_unit_range_are_refused(pictures):
    with pytest.raises(ValueError, match="grey levels of"):
        fed((pictures // 2 + 128).float() / 255).judge()


def resampled(pictures: Tensor) -> Tensor:
    """In [0, 1], on no grey level."""
    return torch.nn.functional.interpolate(pictures.float() / 255, 24, mode="bilinear", antialias=True)


def test_resampled_pictures_that_begin_at_black_are_refused(pictures):
    black = resampled(pictures)
    assert 0 <= float(black.min()) < 0.01
    for unit in (black, torch.rand(64, 3, 32, 32)):
        with pytest.raises(ValueError, match=r"none below 0 .* expected \[-1, 1\], so give 2 x - 1"):
            fed(unit).judge()
        sound(2 * unit - 1)


def test_bright_resampled_pictures_leave_doubt_and_that_is_a_warning(pictures):
    """All above mid-grey and on no grey level: [-1, 1] and bright, or [0, 1]. Valid, so it does not fail."""
    bright = 0.05 + 0.9 * resampled(pictures)
    with pytest.warns(UserWarning, match=r"bright pictures, or \[0, 1\] where"):
        fed(bright).judge()


def test_fewer_than_64_images_are_not_judged(pictures):
    sound(pictures[:63].float() / 255)


@pytest.mark.parametrize(("value", "words"), [(255.0, "to 255"), (float("nan"), "nan"), (-3.0, "from -3")])
def test_nonsense_is_refused_at_once(value, words):
    pixels = torch.zeros(1, 3, 8, 8)
    pixels[0, 1, 2, 3] = value
    with pytest.raises(ValueError, match=words):
        fed(pixels).judge()
