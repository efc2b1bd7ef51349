"""Any folder of class folders as a dataset: `root/<class>/<image>`, labels in the order of the names.

The images come mixed, in the order of a hash of their names: whoever takes the first few thousand (the gate,
a latent's statistics) gets all classes, and adding an image moves no other past another.
"""

from __future__ import annotations

import hashlib
import os
import struct
import zlib
from pathlib import Path

import torch
from PIL import Image, ImageOps
from torch import Tensor

from flowlab.core.choices import lookup
from flowlab.data.batch import Batch, checked
from flowlab.data.transforms import RESIZE, flipped, from_pil, resized

__all__ = ["EXTENSIONS", "UNREADABLE", "Folder", "decode", "folder"]

EXTENSIONS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
UNREADABLE = (
    OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, Image.DecompressionBombError
)  # fmt: skip
"""What Pillow raises for a file that is no whole image."""


def folder(
    root: Path | str, *, resolution: int, resize: str = "exact", num_images: int | None = None
) -> Folder:
    """The images under `root`, or `num_images` of them spread evenly over the list sorted by class and name.

    `resize` is a policy of `transforms.RESIZE`; under "exact" a file of any other size is an error.
    """
    root = Path(root)
    lookup(RESIZE, resize, "resize policy")
    if resolution < 1:
        raise ValueError(f"{resolution=} for {root}; give at least 1 pixel")
    class_names = _class_names(root)
    files = [(label, *entry) for label, name in enumerate(class_names) for entry in _images(root / name)]
    if num_images is not None:
        if not 1 <= num_images <= len(files):
            raise ValueError(f"{num_images=} of the {len(files)} images in {root}; ask for 1 to {len(files)}")
        files = [files[i * len(files) // num_images] for i in range(num_images)]
    files.sort(key=lambda file: hashlib.sha256(f"{class_names[file[0]]}/{file[1]}".encode()).digest())
    return Folder(root, class_names, files, resolution, resize)


class Folder:
    """A dataset of image files; `files` lists (label, path under the class folder, bytes)."""

    def __init__(
        self,
        root: Path,
        class_names: tuple[str, ...],
        files: list[tuple[int, str, int]],
        resolution: int,
        resize: str,
    ):
        self.root, self.class_names, self.resolution, self.resize = root, class_names, resolution, resize
        self._names = [f"{class_names[label]}/{name}" for label, name, _ in files]
        self._labels = torch.tensor([label for label, _, _ in files])
        digest = hashlib.sha256("\n".join(f"{label} {name} {size}" for label, name, size in files).encode())
        self._digest = digest.hexdigest()[:12]

    @property
    def identity(self) -> str:
        """Hashes names and byte sizes of the files, not where they lie."""
        return (
            f"folder {self._digest} num_images={len(self)} resolution={self.resolution} resize={self.resize}"
        )

    @property
    def num_classes(self) -> int:
        """The number of class folders."""
        return len(self.class_names)

    def __len__(self) -> int:
        return len(self._names)

    def path(self, index: int) -> Path:
        """The file of one image."""
        return self.root / self._names[index]

    def read(self, indices: Tensor, flip: Tensor | None = None) -> Batch:
        """Pixels uint8 (B, 3, H, W) and labels; a damaged or misshapen file is a ValueError that names it."""
        indices = checked(indices, len(self))
        pixels = torch.stack([self._pixels(self.path(index)) for index in indices.tolist()])
        return Batch(index=indices, pixels=flipped(pixels, flip), label=self._labels[indices], flip=flip)

    def _pixels(self, path: Path) -> Tensor:
        image = decode(path)
        try:
            return from_pil(resized(image, self.resolution, self.resize))
        except ValueError as problem:
            raise ValueError(f"{path} {problem}") from problem


def decode(path: Path | str) -> Image.Image:
    """An image file as RGB, turned upright by its EXIF orientation, transparency on white.

    One that cannot be read to its end is a ValueError that names it.
    """
    try:
        with Image.open(path) as image:
            image.load()
            upright = ImageOps.exif_transpose(image)
            return _rgb(upright)
    except FileNotFoundError:
        raise ValueError(f"no image at {path}; it was there when the folder was listed") from None
    except UNREADABLE as problem:
        reason = str(problem).splitlines()[0] if str(problem) else type(problem).__name__
        raise ValueError(f"{path} is not a whole image ({reason}); replace or delete it") from problem


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        raise ValueError(f"mode {image.mode} has more than 8 bits per channel")
    if not image.has_transparency_data:
        return image.convert("RGB")
    image = image.convert("RGBA")
    ground = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(ground, image).convert("RGB")


# ---- listing -----------------------------------------------------------------------------------------------


def _class_names(root: Path) -> tuple[str, ...]:
    if not root.is_dir():
        raise ValueError(f"no folder at {root}; give a folder that holds one folder of images per class")
    names = sorted(item.name for item in os.scandir(root) if item.is_dir() and not item.name.startswith("."))
    if not names:
        raise ValueError(f"{root} holds no class folders; put the images into {root}/<class>/")
    return tuple(names)


def _images(class_folder: Path) -> list[tuple[str, int]]:
    """(name, bytes) of every image in one class folder, sorted by name."""
    found = [
        (item.name, item.stat().st_size)
        for item in os.scandir(class_folder)
        if item.name.lower().endswith(EXTENSIONS) and not item.name.startswith(".")
    ]
    if not found:
        raise ValueError(
            f"{class_folder} holds no images ({', '.join(EXTENSIONS)}); fill the folder or delete it"
        )
    return sorted(found)
