"""Captioned pictures of any size, with or without reference pictures, from a folder of files.

Either `name.png` beside `name.txt`, or one `captions.jsonl` at the root, a line per example:
`{"file": "after/3.png", "text": "make the sky red", "references": ["before/3.png"]}` (references optional,
paths relative to the root). A picture that several examples use is one file and is encoded once.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from flowlab.data.batch import Batch, checked
from flowlab.data.buckets import Size, cover
from flowlab.data.folder import EXTENSIONS, UNREADABLE, decode
from flowlab.data.transforms import flipped, from_pil

__all__ = ["LISTING", "Captioned", "Example", "Pictures", "captioned"]

LISTING = "captions.jsonl"
MAX_REFERENCES = 10
TURNED = (5, 6, 7, 8)  # EXIF orientations that swap width and height
ORIENTATION = 0x0112  # the EXIF tag


@dataclass(frozen=True)
class Example:
    """What to learn from: the picture `file`, asked for by `text`, given `references` (paths, in order)."""

    file: str
    text: str
    references: tuple[str, ...] = ()


@dataclass(frozen=True)
class Captioned:
    """The examples of a folder and its distinct pictures."""

    root: Path
    examples: tuple[Example, ...]
    files: tuple[str, ...]
    """Every picture that an example uses, sorted."""
    sizes: tuple[Size, ...]
    """(height, width) of each picture, upright."""

    @property
    def identity(self) -> str:
        """Hashes captions, names and byte sizes, not where the files lie."""
        lines = [json.dumps([one.file, one.text, one.references]) for one in self.examples]
        lines += [f"{name} {(self.root / name).stat().st_size}" for name in self.files]
        digest = hashlib.sha256("\n".join(lines).encode()).hexdigest()[:12]
        return f"captioned {digest} num_examples={len(self.examples)}"


def captioned(root: Path | str) -> Captioned:
    """List the folder `root`; whatever is missing, not an image or not text is a ValueError that names it."""
    root = Path(root)
    if not root.is_dir():
        raise ValueError(f"no folder at {root}; give a folder of images with captions")
    listing = root / LISTING
    examples = _listed(listing) if listing.is_file() else _beside(root)
    if not examples:
        raise ValueError(f"{root} holds no captioned images; put name.txt beside name.png, or a {LISTING}")
    files = sorted({name for one in examples for name in (one.file, *one.references)})
    sizes = tuple(_upright_size(root / name) for name in files)
    return Captioned(root, tuple(examples), tuple(files), sizes)


class Pictures:
    """Some of a folder's pictures as a dataset of one size, each resized to cover it and cropped."""

    num_classes = 0

    def __init__(self, root: Path, files: Sequence[str], size: Size):
        self.root, self.size = root, size
        self._files = tuple(files)

    @property
    def identity(self) -> str:
        """Hashes names and byte sizes of the files; names the size."""
        lines = [f"{name} {(self.root / name).stat().st_size}" for name in self._files]
        digest = hashlib.sha256("\n".join(lines).encode()).hexdigest()[:12]
        return f"pictures {digest} num_images={len(self)} size={self.size[0]}x{self.size[1]}"

    @property
    def resolution(self) -> int:
        """The longer side; `identity` names both."""
        return max(self.size)

    def __len__(self) -> int:
        return len(self._files)

    def read(self, indices: Tensor, flip: Tensor | None = None) -> Batch:
        """Pixels uint8 (B, 3, height, width) on their size; a damaged file is a ValueError that names it."""
        indices = checked(indices, len(self))
        paths = [self.root / self._files[index] for index in indices.tolist()]
        pixels = torch.stack([from_pil(cover(decode(path), self.size)) for path in paths])
        return Batch(index=indices, pixels=flipped(pixels, flip), flip=flip)


# ---- listing -----------------------------------------------------------------------------------------------


def _listed(listing: Path) -> list[Example]:
    lines = _text(listing).splitlines()
    return [_entry(line, f"{listing}:{number}") for number, line in enumerate(lines, 1) if line.strip()]


def _entry(line: str, where: str) -> Example:
    try:
        entry: Any = json.loads(line)
    except json.JSONDecodeError as problem:
        raise ValueError(f"{where} is not JSON ({problem}); write one object per line") from problem
    fields = {"file", "text", "references"}
    if not isinstance(entry, dict) or not {"file", "text"} <= entry.keys() <= fields:
        raise ValueError(f"{where} needs file and text, and may have references; it is {line.strip()[:80]!r}")
    file, text, references = entry["file"], entry["text"], entry.get("references", [])
    named = [file, text, *references] if isinstance(references, list) else [None]
    if not all(isinstance(value, str) for value in named):
        raise ValueError(f"{where}: file and text are strings, references a list of strings")
    if len(references) > MAX_REFERENCES:
        raise ValueError(f"{where} has {len(references)} references; give at most {MAX_REFERENCES}")
    return Example(file, text.strip(), tuple(references))


def _beside(root: Path) -> list[Example]:
    """Every image under `root` with the caption file beside it."""
    images = sorted(path for path in root.rglob("*") if path.suffix.lower() in EXTENSIONS)
    without = [path.name for path in images if not path.with_suffix(".txt").is_file()]
    if without:
        raise ValueError(
            f"{len(without)} of {len(images)} images in {root} have no caption, first {without[0]};"
            " write a .txt of the same name beside each, or move them away"
        )
    captions = [_text(path.with_suffix(".txt")).strip() for path in images]
    names = [path.relative_to(root).as_posix() for path in images]
    return [Example(name, text) for name, text in zip(names, captions, strict=True)]


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as problem:
        raise ValueError(f"{path} is not UTF-8 text ({problem.reason}); save it so") from problem


def _upright_size(path: Path) -> Size:
    """(height, width) from the file's head, turned as its EXIF orientation says."""
    try:
        with Image.open(path) as image:
            turned = image.getexif().get(ORIENTATION) in TURNED
            return (image.width, image.height) if turned else (image.height, image.width)
    except FileNotFoundError:
        raise ValueError(f"no image at {path}, which the captions name; add it or drop its line") from None
    except UNREADABLE as problem:
        raise ValueError(f"{path} is not an image ({problem}); replace it or drop its caption") from problem
