"""Images given by the user: opened upright and opaque, brought to a size that the model takes, encoded.

Every change is written down, so that it can be printed and kept with the image that was made. Two of them
the published command lines do not make: the orientation that a camera wrote into EXIF is applied, and
transparency is laid on white (dropping it would show whatever colour hides there).
"""

from __future__ import annotations

import hashlib
import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from flowlab.autoencoders.base import Autoencoder
from flowlab.core.choices import lookup
from flowlab.core.pixels import to_float, to_uint8
from flowlab.data.folder import UNREADABLE
from flowlab.data.transforms import from_pil, to_pil

__all__ = ["SIZES", "Given", "Source", "encode", "open_image", "prepare", "prepare_all", "shrunk"]

Source = str | Path | Image.Image | Tensor
"""A file, a PIL image, or a tensor (3, H, W): uint8, or float in [-1, 1]."""

MAX_ASPECT = 8
ONE_CAP = 2024**2  # FLUX.2's own code, with this 2024
MANY_CAP = 1024**2
ORIENTATION = 0x0112  # the EXIF tag
KONTEXT_SIZES = ((672, 1568), (688, 1504), (720, 1456), (752, 1392), (800, 1328), (832, 1248), (880, 1184),
                 (944, 1104), (1024, 1024))  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Given:
    """An image as the model will see it, and how it came to be so."""

    image: Image.Image
    """RGB."""
    file: str | None
    """Absolute path; None for an image that was given from memory."""
    sha256: str
    """Of the file, or of the pixels of an image from memory."""
    transforms: tuple[str, ...] = ()
    """What was done to it, in order."""

    @property
    def pixels(self) -> Tensor:
        """uint8 (3, H, W)."""
        return from_pil(self.image)

    def facts(self) -> dict[str, Any]:
        """For the record of the image that is made."""
        return {"file": self.file, "sha256": self.sha256, "transforms": list(self.transforms)}

    def changed(self, image: Image.Image, how: str) -> Given:
        """With `image` in the place of its own."""
        return Given(image=image, file=self.file, sha256=self.sha256, transforms=(*self.transforms, how))


def prepare_all(
    sources: Sequence[Source],
    *,
    stride: int,
    sizes: str = "flux2",
    cap: int | None = None,
    min_side: int = 64,
    limit: int = 10,
) -> tuple[Given, ...]:
    """The references of one prompt, ready to encode; more than `limit` is a ValueError.

    `cap` is in pixels; None = 2024 x 2024 for one reference and 1024 x 1024 each for several (FLUX.2).
    """
    if len(sources) > limit:
        takes = f"at most {limit}" if limit else "none"
        raise ValueError(
            f"{len(sources)} reference images were given; this model takes {takes}, leave some out"
        )
    resize = lookup(SIZES, sizes, "reference size rule")
    if cap is not None and cap < stride * stride * MAX_ASPECT:
        least = stride * stride * MAX_ASPECT
        raise ValueError(f"the cap of a reference is {cap} pixels; give {least} or more, or leave it out")
    cap = cap or (ONE_CAP if len(sources) == 1 else MANY_CAP)
    return tuple(
        prepare(source, f"reference {i}", resize=resize, stride=stride, cap=cap, min_side=min_side)
        for i, source in enumerate(sources, 1)
    )


def prepare(
    source: Source,
    what: str,
    *,
    resize: Callable[[Given, int, int], Given],
    stride: int,
    cap: int,
    min_side: int,
) -> Given:
    """One image opened, checked and resized; `what` names it in messages."""
    given = open_image(source, what)
    width, height = given.image.size
    named = f"{what} ({given.file or 'from memory'}) is {width} x {height}"
    if min(width, height) < min_side:
        raise ValueError(f"{named}; sides of {min_side} pixels or more work, give a larger image")
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise ValueError(f"{named}; an aspect of at most {MAX_ASPECT}:1 works, crop it first")
    return resize(given, stride, cap)


@torch.no_grad()
def encode(autoencoder: Autoencoder, images: Sequence[Given], device: torch.device) -> list[Tensor]:
    """Final latents (C, h, w) at the posterior mean, one at a time: a latent depends on its image alone."""
    return [autoencoder.latents(to_float(image.pixels)[None].to(device))[0].float() for image in images]


# ---- opening -----------------------------------------------------------------------------------------------


def open_image(source: Source, what: str) -> Given:
    """Upright and opaque RGB, with what that took; a file that is no image is a ValueError."""
    file, image, digest = None, source, ""
    if isinstance(source, (str, Path)):
        file = Path(source).resolve()
        if not file.is_file():
            raise ValueError(f"{what}: there is no file {source}; check its path")
        content = file.read_bytes()
        digest = hashlib.sha256(content).hexdigest()
        try:
            image = Image.open(io.BytesIO(content))
            image.load()
        except UNREADABLE as problem:
            raise ValueError(
                f"{what}: {source} is no whole image ({problem}); save it again as PNG"
            ) from problem
    elif isinstance(source, Tensor):
        image = to_pil(source if source.dtype == torch.uint8 else to_uint8(source))
    assert isinstance(image, Image.Image), f"{what} is a {type(source).__name__}"
    image, transforms = _upright_and_opaque(image)
    digest = digest or hashlib.sha256(f"{image.size}".encode() + image.tobytes()).hexdigest()
    return Given(image=image, file=file and str(file), sha256=digest, transforms=transforms)


def _upright_and_opaque(image: Image.Image) -> tuple[Image.Image, tuple[str, ...]]:
    transforms = []
    orientation = image.getexif().get(ORIENTATION, 1)
    if orientation != 1:
        image = ImageOps.exif_transpose(image)
        transforms.append(f"turned upright (EXIF orientation {orientation})")
    if image.mode.startswith("I;16"):  # convert() would clip sixteen bits to white
        image = Image.fromarray((np.asarray(image) // 257).astype(np.uint8))
        transforms.append("16 bits reduced to 8")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
        transforms.append("transparency laid on white")
    return image.convert("RGB"), tuple(transforms)


# ---- sizes -------------------------------------------------------------------------------------------------


def shrunk(given: Given, stride: int, cap: int) -> Given:
    """At most `cap` pixels (shrunk only, Lanczos), then the centre in multiples of the stride."""
    width, height = given.image.size
    if width * height > cap:
        scale = math.sqrt(cap / (width * height))
        size = (int(width * scale), int(height * scale))
        resized = given.image.resize(size, Image.Resampling.LANCZOS)
        given = given.changed(resized, f"shrunk from {width} x {height} to {size[0]} x {size[1]}")
    width, height = given.image.size
    inside_width, inside_height = width // stride * stride, height // stride * stride
    if (inside_width, inside_height) == (width, height):
        return given
    left, top = (width - inside_width) // 2, (height - inside_height) // 2
    box = (left, top, left + inside_width, top + inside_height)
    return given.changed(given.image.crop(box), f"cropped to the centre {inside_width} x {inside_height}")


def kontext(given: Given, stride: int, cap: int) -> Given:
    """Stretched to the nearest in aspect of the 17 sizes that FLUX.1 Kontext was trained at."""
    aspect = given.image.width / given.image.height
    known = [*KONTEXT_SIZES, *((height, width) for width, height in KONTEXT_SIZES[:-1])]
    size = min(known, key=lambda size: abs(size[0] / size[1] - aspect))
    if size == given.image.size:
        return given
    width, height = given.image.size
    resized = given.image.resize(size, Image.Resampling.LANCZOS)
    return given.changed(resized, f"stretched from {width} x {height} to {size[0]} x {size[1]}")


SIZES: dict[str, Callable[[Given, int, int], Given]] = {"flux2": shrunk, "kontext": kontext}
