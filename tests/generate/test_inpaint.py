"""Masks in the latent, and the channels of FLUX.1 Fill."""

from __future__ import annotations

import pytest
import torch
from PIL import Image

from flowlab.generate.inpaint import fill_channels, latent_mask, paste, remaining_times, started, weights_of


def test_a_token_is_repainted_if_any_of_its_pixels_is() -> None:
    mask = torch.zeros(1, 1, 32, 32)
    mask[..., 15, 15], mask[..., 16, 31] = 0.2, 1.0
    assert latent_mask(mask, 16)[0, 0].tolist() == [[1, 0], [0, 1]]


def test_strength_counts_steps_from_the_end() -> None:
    times = torch.linspace(1, 0, 11)
    assert torch.equal(remaining_times(times, 1.0), times)
    assert remaining_times(times, 0.0).tolist() == [0.0]
    assert len(remaining_times(times, 0.5)) == 6
    with pytest.raises(ValueError, match="strength is -0.1"):
        remaining_times(times, -0.1)


def test_the_start_is_exactly_noise_or_image() -> None:
    latent, noise = torch.randn(1, 4, 2, 2), torch.randn(3, 4, 2, 2)
    assert torch.equal(started(latent, noise, torch.tensor(1.0, dtype=torch.float64)), noise)
    assert torch.equal(started(latent, noise, torch.tensor(0.0)), latent.expand_as(noise))


def test_pasting_follows_the_mask() -> None:
    mask = Image.new("L", (4, 4))
    mask.putpixel((1, 0), 255)
    mask.putpixel((2, 0), 128)
    weights = weights_of(mask)
    made, original = torch.full((1, 3, 4, 4), 200, dtype=torch.uint8), torch.zeros(3, 4, 4, dtype=torch.uint8)
    assert paste(made, original, weights)[0, 0, 0].tolist() == [0, 200, 100, 0]
    assert paste(made, original, weights)[0, 0, 1:].max() == 0


def test_fill_sees_the_hole_as_grey_and_the_mask_pixel_by_pixel() -> None:
    class Identity(torch.nn.Module):
        def latents(self, pixels: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.avg_pool2d(pixels, 16).repeat(1, 64, 1, 1)[:, :64]

    image = torch.full((3, 32, 48), 255, dtype=torch.uint8)
    mask = torch.zeros(1, 1, 32, 48)
    mask[..., 3, 21] = 1  # token (0, 1); its latent position (0, 0) of 2 x 2; pixel (3, 5) of 8 x 8
    mask[..., 30, 2] = 1  # token (1, 0); its latent position (1, 0); pixel (6, 2)
    channels = fill_channels(Identity(), image, mask)  # pyright: ignore
    assert channels.shape == (1, 320, 2, 3)
    folded = channels[0, 64:]
    assert (
        folded.sum() == 2
        and folded[(3 * 8 + 5) * 4 + 0, 0, 1] == 1
        and folded[(6 * 8 + 2) * 4 + 2, 1, 0] == 1
    )
    assert channels[0, :64, 0, 0].allclose(torch.ones(64))
    assert channels[0, 0, 0, 1] == pytest.approx(255 / 256), "one pixel of 256 is grey, 0"
