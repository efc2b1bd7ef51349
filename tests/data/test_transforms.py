"""The ADM crop against an independent resampler, the policies, PIL to tensors and back."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch
from PIL import Image

from flowlab.data.transforms import RESIZE, adm_center_crop, flipped, from_pil, resized, to_pil


def picture(width: int, height: int) -> Image.Image:
    """A smooth pattern with edges, the same everywhere (no random generator, no decoder)."""
    down, right = np.mgrid[0:height, 0:width]
    red, green = (right * 255 // width), (down * 255 // height)
    blue = 255 * (((right // 7) + (down // 5)) % 2)
    return Image.fromarray(np.stack([red, green, blue], -1).astype(np.uint8))


# ---- an independent resampler, written from the definition -------------------------------------------------


def box(x: np.ndarray) -> np.ndarray:
    return ((x > -0.5) & (x <= 0.5)).astype(float)


def cubic(x: np.ndarray) -> np.ndarray:
    """Keys (1981) with a = -0.5."""
    x = np.abs(x)
    return np.where(
        x < 1, 1.5 * x**3 - 2.5 * x**2 + 1, np.where(x < 2, -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2, 0.0)
    )


def resample_rows(values: np.ndarray, size: int, kernel, support: float) -> np.ndarray:
    """Antialiased resize of axis 0 to `size`: weights normalised over the samples inside, result rounded."""
    ratio = len(values) / size
    stretch = max(ratio, 1.0)
    centres = (np.arange(size) + 0.5) * ratio
    offsets = (np.arange(len(values)) + 0.5)[None] - centres[:, None]
    weights = kernel(offsets / stretch) * (np.abs(offsets) <= support * stretch + 1)
    weights /= weights.sum(1, keepdims=True)
    return np.clip(np.floor(np.tensordot(weights, values, 1) + 0.5), 0, 255)


def resample(values: np.ndarray, width: int, height: int, kernel, support: float) -> np.ndarray:
    across = resample_rows(values.transpose(1, 0, 2), width, kernel, support).transpose(1, 0, 2)
    return resample_rows(across, height, kernel, support)


def reference_crop(image: Image.Image, size: int) -> np.ndarray:
    values = np.array(image).astype(float)
    while min(values.shape[:2]) >= 2 * size:
        values = resample(values, values.shape[1] // 2, values.shape[0] // 2, box, 0.5)
    scale = size / min(values.shape[:2])
    values = resample(values, round(values.shape[1] * scale), round(values.shape[0] * scale), cubic, 2.0)
    top, left = (values.shape[0] - size) // 2, (values.shape[1] - size) // 2
    return values[top : top + size, left : left + size]


@pytest.mark.parametrize("shape", [(300, 200), (97, 131), (64, 64), (40, 50), (32, 32), (512, 256), (20, 24)])
def test_adm_crop_equals_the_independent_one(shape):
    ours = np.array(adm_center_crop(picture(*shape), 32)).astype(float)
    assert ours.shape == (32, 32, 3)
    difference = np.abs(ours - reference_crop(picture(*shape), 32))
    assert (
        difference.max() <= 1 and difference.mean() < 0.05
    )  # fixed-point weights round differently now and then


def test_adm_crop_golden():
    """Frozen bytes: what guided-diffusion's own function gave for this picture with this Pillow."""
    cut = np.array(adm_center_crop(picture(300, 200), 32))
    assert hashlib.sha256(cut.tobytes()).hexdigest()[:16] == "a773cfb7def74a56"


def test_exact_policy_names_both_sizes():
    image = picture(32, 32)
    assert resized(image, 32, "exact") is image
    with pytest.raises(ValueError, match="is 40x32, expected 32x32"):
        resized(picture(40, 32), 32, "exact")


def test_unknown_policy_lists_the_policies():
    with pytest.raises(ValueError, match="unknown resize policy 'stretch'; choose from: exact, adm"):
        resized(picture(32, 32), 32, "stretch")


@pytest.mark.parametrize("policy", RESIZE)
def test_every_policy_gives_the_size_asked(policy):
    assert resized(picture(32, 32), 32, policy).size == (32, 32)


def test_pil_round_trip():
    image = torch.arange(3 * 5 * 7).view(3, 5, 7).to(torch.uint8)
    assert to_pil(image).size == (7, 5) and torch.equal(from_pil(to_pil(image)), image)


def test_flip_twice_is_nothing():
    images = torch.randint(
        0, 256, (4, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    flip = torch.tensor([True, False, True, True])
    once = flipped(images, flip)
    assert torch.equal(once[1], images[1]) and torch.equal(once[0], images[0].flip(-1))
    assert torch.equal(flipped(once, flip), images) and flipped(images, None) is images
