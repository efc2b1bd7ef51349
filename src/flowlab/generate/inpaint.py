"""Sampling that starts from an image: by strength, and inside a mask.

A mask is a picture as large as the image, white where it is to be repainted. In the latent a token is
repainted if any of its pixels is; at every step the others are set to the image's own latent with the noise
of that time, so that the new part grows into its surroundings. In the end the pixels outside are the image's.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from PIL import Image
from torch import Tensor

from flowlab.autoencoders.base import Autoencoder
from flowlab.core.pixels import to_float
from flowlab.flow.path import interpolate
from flowlab.flow.samplers import OnStep
from flowlab.generate.references import Given, Source, open_image, shrunk

__all__ = [
    "fill_channels",
    "keep_outside",
    "latent_mask",
    "open_mask",
    "paste",
    "remaining_times",
    "started",
    "weights_of",
]


def remaining_times(times: Tensor, strength: float) -> Tensor:
    """The end of a grid of N steps: its last round(strength N) steps; at strength 0 its end point alone."""
    if not 0 <= strength <= 1:
        raise ValueError(
            f"strength is {strength}; give 0 (the image itself) to 1 (nothing of it but the mask)"
        )
    num_steps = len(times) - 1
    return times[num_steps - round(strength * num_steps) :]


def started(latent: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    """The state at time t of the path from the image's latent to this noise: exactly the noise at t = 1."""
    return interpolate(latent.expand_as(noise), noise, t.to(noise.device, noise.dtype).expand(len(noise)))


# ---- masks -------------------------------------------------------------------------------------------------


def open_mask(source: Source, original_size: tuple[int, int], stride: int, cap: int) -> Given:
    """A mask, grey, with the changes of size that its image went through; another size is a ValueError."""
    mask = open_image(source, "the mask")
    if mask.image.size != original_size:
        raise ValueError(
            f"the mask is {mask.image.width} x {mask.image.height}, the image {original_size[0]} x"
            f" {original_size[1]}; give a mask of the image's size"
        )
    mask = shrunk(mask.changed(mask.image.convert("L"), "read as grey"), stride, cap)
    if mask.image.getbbox() is None:
        raise ValueError("the mask is black everywhere; paint white what is to be repainted")
    return mask


def weights_of(mask: Image.Image) -> Tensor:
    """A grey image => (1, 1, H, W) in [0, 1]: 1 is to be repainted."""
    return torch.from_numpy(np.array(mask)).float().div(255)[None, None]


def latent_mask(mask: Tensor, stride: int) -> Tensor:
    """(1, 1, H, W) => (1, 1, h, w): 1 at tokens of which any pixel is repainted."""
    return (F.max_pool2d(mask, stride) > 0).float()


def keep_outside(latent: Tensor, noise: Tensor, mask: Tensor) -> OnStep:
    """A step that sets x (B, C, h, w) to the noised image where mask (1, 1, h, w) is 0."""

    def on_step(i: int, t: Tensor, x: Tensor) -> Tensor:
        return torch.where(mask > 0, x, started(latent, noise, t))

    return on_step


def paste(pixels: Tensor, original: Tensor, mask: Tensor) -> Tensor:
    """uint8 (B, 3, H, W): `pixels` where the mask is white, `original` (3, H, W) where it is black, and mixed
    between.
    """
    mixed = original + (pixels.float() - original.float()) * mask
    return mixed.round().to(torch.uint8)


@torch.no_grad()
def fill_channels(autoencoder: Autoencoder, image: Tensor, mask: Tensor) -> Tensor:
    """(1, 320, h, w): what FLUX.1 Fill takes beside the noise: the masked image's latent 64, the mask 256.

    image uint8 (3, H, W) becomes mid-grey where the mask (1, 1, H, W), cut at one half, is 1. The mask is
    folded 8 x 8 pixels to a latent position, then 2 x 2 positions to a token, as FLUX.1 packs its latent.
    """
    hole = (mask > 0.5).float().to(image.device)
    latent = autoencoder.latents(to_float(image)[None] * (1 - hole)).float()
    folded = rearrange(hole, "b 1 (h r) (w c) -> b (r c) h w", r=8, c=8)  # (1, 64, H / 8, W / 8)
    packed = rearrange(folded, "b n (h r) (w c) -> b (n r c) h w", r=2, c=2)  # (1, 256, h, w)
    return torch.cat([latent, packed], dim=1)
