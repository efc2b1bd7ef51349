"""An image folder: PNG files and a manifest that says how each was made; every PNG carries the same facts."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from flowlab.core.files import atomic_folder, read_json, write_json
from flowlab.data.transforms import to_pil

__all__ = ["MANIFEST", "check_folder", "read_facts", "read_folder", "shared", "write_folder"]

MANIFEST = "manifest.json"
CHUNK = "flowlab"
"""The text chunk of a PNG that holds its facts as JSON."""


def write_folder(
    folder: Path | str,
    images: Tensor | Sequence[Tensor],
    facts: Sequence[Mapping[str, Any]],
    common: Mapping[str, Any],
) -> Path:
    """n images, uint8 (3, H, W) => `00000.png`, ... and the manifest, whose path is returned; all or nothing.

    `facts` holds what is true of one image (its index, label or prompt, seed), `common` what is true of all
    (model hash, schedule, size). A folder that exists and is not empty is a ValueError.
    """
    kinds = {image.dtype for image in images}
    assert kinds <= {torch.uint8}, f"expected uint8 images, got {kinds}"
    assert len(images) == len(facts), f"{len(images)} images and facts of {len(facts)}"
    folder = check_folder(folder)
    entries = [{"file": f"{number:05d}.png", **one} for number, one in enumerate(facts)]
    with atomic_folder(folder) as draft:
        for image, entry in zip(images, entries, strict=True):
            inside = PngInfo()
            inside.add_text(CHUNK, json.dumps({**common, **entry}))
            to_pil(image).save(draft / entry["file"], pnginfo=inside)
        write_json(draft / MANIFEST, {**common, "images": entries})
    return folder / MANIFEST


def shared(facts: Sequence[Mapping[str, Any]]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """What is true of all images, and what remains of each: `common` and `facts` for `write_folder`."""
    common = {name: value for name, value in facts[0].items() if all(one[name] == value for one in facts)}
    own = [{name: value for name, value in one.items() if name not in common} for one in facts]
    return common, own


def check_folder(folder: Path | str) -> Path:
    """The folder as a path, if images may be written there: it is absent or empty."""
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder} exists and is not empty; give another --out or delete it")
    return folder


def read_folder(folder: Path | str) -> dict[str, Any]:
    """The manifest; a folder without one is a ValueError."""
    path = Path(folder) / MANIFEST
    if not path.is_file():
        raise ValueError(f"{folder} holds no {MANIFEST}; give a folder that `flowlab generate` wrote")
    return read_json(path)


def read_facts(path: Path | str) -> dict[str, Any]:
    """The facts inside one PNG; an image without them is a ValueError."""
    with Image.open(path) as image:
        text = image.info.get(CHUNK)
    if text is None:
        raise ValueError(f"{path} carries no facts of flowlab; give an image that `flowlab generate` wrote")
    return json.loads(text)
