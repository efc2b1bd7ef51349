"""PSNR at known values, SSIM against scikit-image, the feature distance, and means with errors."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter
from skimage.metrics import structural_similarity

from flowlab.core.pixels import to_float
from flowlab.metrics.paired import PADDINGS, feature_distance, mean_and_error, psnr, ssim


def images(n: int, size: int, seed: int = 0) -> torch.Tensor:
    """Smooth random pictures, uint8 (n, 3, size, size)."""
    noise = torch.rand(n, 3, size // 4 + 1, size // 4 + 1, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.interpolate(noise, (size, size), mode="bilinear").mul(255).round().byte()


def degraded(pictures: torch.Tensor, seed: int = 1) -> torch.Tensor:
    noise = torch.randn(pictures.shape, generator=torch.Generator().manual_seed(seed)) * 12
    return (pictures.float() + noise).round().clamp(0, 255).byte()


# ---- PSNR --------------------------------------------------------------------------------------------------


def test_psnr_known_values():
    black = torch.zeros(3, 3, 8, 8, dtype=torch.uint8)
    other = black.clone()
    other[1] += 1
    other[2] += 255
    expected = torch.tensor([100.0, 20 * math.log10(255), 0.0], dtype=torch.float64)
    torch.testing.assert_close(psnr(black, other), expected)


def test_psnr_is_one_number_for_each_image():
    a, b = images(4, 16), degraded(images(4, 16))
    torch.testing.assert_close(psnr(a, b)[2:3], psnr(a[2:3], b[2:3]))
    assert psnr(a, b).dtype == torch.float64


@pytest.mark.parametrize("metric", [psnr, ssim])
def test_floats_are_clamped_and_rounded_as_a_png_would_be(metric):
    a, b = images(3, 16), degraded(images(3, 16))
    wobble = (torch.rand(b.shape, generator=torch.Generator().manual_seed(3)) - 0.5) * 0.9 / 127.5
    as_float = to_float(b) + wobble
    as_float[b == 255] += 1  # above the range
    as_float[b == 0] -= 1
    torch.testing.assert_close(metric(to_float(a), as_float), metric(a, b), rtol=0, atol=0)


@pytest.mark.parametrize("metric", [psnr, ssim])
def test_numpy_images_are_images_too(metric):
    a, b = images(3, 16), degraded(images(3, 16))
    assert torch.equal(metric(a.numpy(), b.numpy()), metric(a, b))
    assert torch.equal(metric(to_float(a).numpy(), b), metric(a, b))
    with pytest.raises(ValueError, match="images are torch.int64; expected uint8"):
        metric(a.numpy().astype(int), b)


# ---- SSIM --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [11, 16, 32, 65])
def test_ssim_equals_scikit_image_on_the_valid_region(size):
    a, b = images(3, size), degraded(images(3, size))
    for own, x, y in zip(ssim(a, b), a, b, strict=True):
        result = structural_similarity(
            x.numpy() / 255,
            y.numpy() / 255,
            channel_axis=0,
            data_range=1.0,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
            full=True,
        )
        full = np.asarray(result[1])
        assert float(own) == pytest.approx(full[:, 5 : size - 5, 5 : size - 5].mean(), abs=1e-12)


@pytest.mark.parametrize("size", [11, 32])
def test_ssim_with_mirrored_borders_equals_scipy(size):
    """As torchmetrics computes it; scikit-image repeats the border pixel and so differs."""

    def blur(x: np.ndarray) -> np.ndarray:
        return gaussian_filter(x, 1.5, mode="mirror", truncate=3.5, axes=(1, 2))

    a, b = images(3, size), degraded(images(3, size))
    for own, x, y in zip(ssim(a, b, padding="reflect"), a.numpy() / 255, b.numpy() / 255, strict=True):
        mean_x, mean_y = blur(x), blur(y)
        var_x, var_y = blur(x * x) - mean_x**2, blur(y * y) - mean_y**2
        light = (2 * mean_x * mean_y + 1e-4) / (mean_x**2 + mean_y**2 + 1e-4)
        shape = (2 * (blur(x * y) - mean_x * mean_y) + 9e-4) / (var_x + var_y + 9e-4)
        assert float(own) == pytest.approx((light * shape).mean(), abs=1e-12)
    assert torch.equal(ssim(a, b, padding="valid"), ssim(a, b))


def test_an_unknown_padding_lists_the_known_ones():
    with pytest.raises(ValueError, match="unknown padding of SSIM 'same'; choose from: valid, reflect"):
        ssim(images(1, 16), images(1, 16), padding="same")


@pytest.mark.parametrize("padding", PADDINGS)
def test_ssim_of_rectangles_and_blocks(monkeypatch, padding):
    a, b = images(5, 32)[..., :20], degraded(images(5, 32))[..., :20]
    whole = ssim(a, b, padding=padding)
    monkeypatch.setattr("flowlab.metrics.paired._BLOCK", 1)
    torch.testing.assert_close(ssim(a, b, padding=padding), whole)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_ssim_is_symmetric_bounded_and_one_on_itself(seed):
    a, b = images(2, 16, seed), degraded(images(2, 16, seed), seed + 1)
    torch.testing.assert_close(ssim(a, b), ssim(b, a))
    torch.testing.assert_close(ssim(a, a), torch.ones(2, dtype=torch.float64))
    assert bool((ssim(a, b) < 1).all())


# ---- features ----------------------------------------------------------------------------------------------


def test_feature_distance_by_hand():
    a = torch.tensor([[[2.0, 0], [0, 3]]])  # (1, 2 tokens, 2 channels)
    b = torch.tensor([[[0.0, 5], [0, 1]]])
    torch.testing.assert_close(
        feature_distance([a], [b]), torch.tensor([1.0], dtype=torch.float64)
    )  # (2 + 0) / 2
    torch.testing.assert_close(feature_distance([a, a], [b, b]), torch.tensor([2.0], dtype=torch.float64))


def test_feature_distance_of_a_map_equals_its_tokens_and_ignores_length():
    a = torch.randn(3, 8, 4, 4, generator=torch.Generator().manual_seed(0))
    b = torch.randn(3, 8, 4, 4, generator=torch.Generator().manual_seed(1))
    as_map = feature_distance([a], [b])
    torch.testing.assert_close(as_map, feature_distance([a.flatten(2).mT], [b.flatten(2).mT]))
    torch.testing.assert_close(as_map, feature_distance([7 * a], [0.1 * b]), rtol=1e-6, atol=0)
    cosine = torch.nn.functional.cosine_similarity(a.double(), b.double(), dim=1).mean(dim=(1, 2))
    torch.testing.assert_close(as_map, 2 - 2 * cosine)
    assert feature_distance([a], [a]).max() == 0
    assert feature_distance([torch.zeros_like(a)], [a]).isfinite().all()


# ---- means -------------------------------------------------------------------------------------------------


def test_mean_and_error():
    values = torch.tensor([1.0, 2, 4, 9])
    result = mean_and_error(values)
    assert result.mean == 4 and result.n == 4
    assert result.sd == pytest.approx(float(np.std([1, 2, 4, 9], ddof=1)))
    assert result.standard_error == pytest.approx(result.sd / 2)
    assert math.isnan(mean_and_error(values[:1]).standard_error)


# ---- faults ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ssim(images(1, 10), images(1, 10)), "11 pixels wide, images are 10x10"),
        (lambda: psnr(images(2, 16), images(1, 16)), r"\(2, 3, 16, 16\) against \(1, 3, 16, 16\)"),
        (lambda: psnr(images(2, 16)[0], images(2, 16)[0]), "expected two equal shapes"),
        (lambda: psnr(images(1, 16).int(), images(1, 16).int()), "images are torch.int32"),
        (
            lambda: psnr(to_float(images(2, 16)), to_float(images(2, 16)).fill_(torch.nan)),
            "pixels of image 0 are not finite",
        ),
        (lambda: feature_distance([], []), "0 layers"),
        (lambda: feature_distance([torch.zeros(1, 4, 2)], []), "1 layers of features against 0"),
        (lambda: feature_distance([torch.zeros(1, 4, 2)], [torch.zeros(1, 4, 3)]), r"features \(1, 4, 2\)"),
        (lambda: mean_and_error(torch.zeros(0)), "zero images"),
        (lambda: mean_and_error(torch.tensor([1.0, torch.nan])), "value of image 1 is nan"),
    ],
)
def test_bad_input_is_one_line(call, message):
    with pytest.raises(ValueError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)
