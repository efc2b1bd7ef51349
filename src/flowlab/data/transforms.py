"""PIL images to tensors and back, the centre crop of ADM, and flips."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from einops import rearrange
from PIL import Image
from torch import Tensor

from flowlab.core.choices import lookup

__all__ = ["RESIZE", "adm_center_crop", "flipped", "from_pil", "resized", "to_pil"]


def adm_center_crop(image: Image.Image, size: int) -> Image.Image:
    """The centre size x size square as ADM cuts it: halve while twice too large, then bicubic, then crop.

    guided-diffusion (Dhariwal and Nichol 2021), `image_datasets.center_crop_arr`: box filter for the
    halvings, bicubic for the rest. The usual ImageNet references were made so; other resizes shift the FID.
    """
    while min(image.size) >= 2 * size:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    scale = size / min(image.size)
    image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
    left, top = (image.width - size) // 2, (image.height - size) // 2
    return image.crop((left, top, left + size, top + size))


def exact(image: Image.Image, size: int) -> Image.Image:
    """The image itself; any other size than size x size is a ValueError."""
    if image.size != (size, size):
        raise ValueError(
            f"is {image.width}x{image.height}, expected {size}x{size}; resize it or choose resize='adm'"
        )
    return image


RESIZE: dict[str, Callable[[Image.Image, int], Image.Image]] = {
    "exact": exact,  #           no resampling at all: the files must have the size already
    "adm": adm_center_crop,  #   the protocol of ImageNet papers
}


def resized(image: Image.Image, size: int, policy: str) -> Image.Image:
    """The image at size x size under the named policy of `RESIZE`."""
    return lookup(RESIZE, policy, "resize policy")(image, size)


def from_pil(image: Image.Image) -> Tensor:
    """An RGB image => uint8 (3, H, W)."""
    assert image.mode == "RGB", f"convert {image.mode} to RGB first"
    return rearrange(torch.from_numpy(np.array(image)), "h w c -> c h w").contiguous()


def to_pil(image: Tensor) -> Image.Image:
    """uint8 (3, H, W) => an RGB image."""
    assert image.dtype == torch.uint8 and image.ndim == 3 and len(image) == 3, (
        f"{image.dtype=} {image.shape=}"
    )
    return Image.fromarray(rearrange(image.cpu(), "c h w -> h w c").contiguous().numpy())


def flipped(images: Tensor, flip: Tensor | None) -> Tensor:
    """Images (B, C, H, W) with those mirrored left to right where flip (B,) bool is True; None = none.

    For pixels only. The latent of a mirrored image is not the mirrored latent: cache both (data/latents).
    """
    if flip is None:
        return images
    return torch.where(flip.to(images.device)[:, None, None, None], images.flip(-1), images)
