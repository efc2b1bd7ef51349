"""What no autoencoder takes is said in one line, with the sizes that work."""

from __future__ import annotations

import pytest
import torch

from flowlab.autoencoders.base import sizes_near
from flowlab.autoencoders.sizes import build


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ((1, 1, 32, 32), r"shape \(1, 1, 32, 32\); expected \(batch, 3, height, width\): RGB, no alpha"),
        ((1, 4, 32, 32), r"shape \(1, 4, 32, 32\); expected"),
        ((3, 32, 32), r"shape \(3, 32, 32\); expected"),
        (
            (1, 3, 33, 40),
            "33 x 40 pixels; flux2 takes multiples of 8, nearest 32 x 40 or 40 x 40: crop or resize",
        ),
        ((1, 3, 40, 63), "multiples of 8, nearest 40 x 56 or 40 x 64"),
        ((1, 3, 5, 40), "multiples of 8, nearest 8 x 40: "),
        ((1, 3, 0, 8), "0 x 8 pixels; flux2 takes multiples of 8, nearest 8 x 8"),
    ],
)
def test_shapes_that_cannot_work(shape, words):
    with pytest.raises(ValueError, match=words) as fault:
        build("flux2").latents(torch.zeros(shape))
    assert "\n" not in str(fault.value)


def test_uint8_pixels_name_the_converter():
    with pytest.raises(ValueError, match=r"pixels are torch.uint8; expected float in .*core.pixels.to_float"):
        build("flux2").latents(torch.zeros(1, 3, 32, 32, dtype=torch.uint8))


def test_a_fixed_grid_says_its_one_size():
    for side in (33, 64):
        with pytest.raises(ValueError, match=rf"{side} x {side} pixels; rae takes 32 x 32 only: crop or"):
            build("rae").latents(torch.zeros(1, 3, side, side))


@pytest.mark.parametrize(
    ("name", "shape", "takes"),
    [
        ("flux2", (1, 1, 4, 4), "32, height, width"),  # one channel fits by broadcasting: a grey patch of all
        ("flux2", (1, 16, 4, 4), "32, height, width"),
        ("sd", (4, 4, 4), "4, height, width"),
        ("rae", (1, 1, 4, 4), "64, 4, 4"),
        ("rae", (1, 64, 5, 4), "64, 4, 4"),
    ],
)
def test_latents_of_another_shape_are_named(name, shape, takes):
    with pytest.raises(ValueError, match="the latent has shape") as fault:
        build(name).decode(torch.zeros(shape))
    assert str(fault.value) == f"the latent has shape {shape}; {name} decodes (batch, {takes})"


@pytest.mark.parametrize("stride", [1, 8, 16])
def test_the_sizes_named_are_the_nearest_that_work(stride):
    """None lies strictly between the one below and the one above."""
    for side in range(1, 50):
        sizes = [int(size.split(" ")[0]) for size in sizes_near(side, side, stride)]
        assert all(size % stride == 0 and abs(size - side) < stride for size in sizes)
        assert sizes[-1] >= side and (len(sizes) == 1 or sizes[0] <= side)


def test_multiples_of_the_stride_keep_their_size():
    model = build("sd").eval()
    for height, width in ((8, 24), (40, 16)):
        with torch.no_grad():
            z = model.latents(torch.zeros(1, 3, height, width))
            assert z.shape == (1, 4, height // 8, width // 8) and model.decode(z).shape[2:] == (height, width)
