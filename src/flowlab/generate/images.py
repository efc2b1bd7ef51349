"""An image folder: PNG files and a manifest that says how each was made; every PNG carries the same facts.

`write_folder` writes one whole. A long run writes its images one by one with `write_image` and the manifest
last: a folder of such images without a manifest is `unfinished`, and the same run can go on in it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from flowlab.core.files import atomic_folder, atomic_path, read_json, write_json
from flowlab.data.transforms import to_pil

__all__ = [
    "MANIFEST",
    "check_folder",
    "finish_folder",
    "read_facts",
    "read_folder",
    "shared",
    "unfinished",
    "write_folder",
    "write_image",
]

MANIFEST = "manifest.json"
CHUNK = "flowlab"
"""The text chunk of a PNG that holds its facts as JSON."""
NAME = re.compile(r"(\d{5,})\.png")
DRAFT = re.compile(r"\.\d{5,}\.png\.\d+\.part")
"""What a killed `write_image` may leave."""


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
    entries = [{"file": _name(number), **one} for number, one in enumerate(facts)]
    with atomic_folder(folder) as draft:
        for image, entry in zip(images, entries, strict=True):
            _save(image, draft / entry["file"], {**common, **entry})
        write_json(draft / MANIFEST, {**common, "images": entries})
    return folder / MANIFEST


# ---- one by one --------------------------------------------------------------------------------------------


def write_image(folder: Path | str, number: int, image: Tensor, facts: Mapping[str, Any]) -> None:
    """Image `number` of a folder, uint8 (3, H, W), with all its facts; whole or absent."""
    path = Path(folder) / _name(number)
    with atomic_path(path) as draft:
        _save(image, draft, {**facts, "file": path.name})


def finish_folder(folder: Path | str) -> Path:
    """The manifest over the images that `write_image` wrote, from 0 without gaps; returns its path."""
    made = unfinished(folder)
    assert sorted(made) == list(range(len(made))), f"images are missing among {sorted(made)}"
    common, own = shared([made[number] for number in range(len(made))])
    entries = [{"file": _name(number), **one} for number, one in enumerate(own)]
    write_json(Path(folder) / MANIFEST, {**common, "images": entries})
    return Path(folder) / MANIFEST


def unfinished(folder: Path | str) -> dict[int, dict[str, Any]]:
    """Number => facts, less the file's name, of the images that a stopped run left; none in a new folder.

    A folder that holds anything else, or is finished, is a ValueError.
    """
    folder = Path(folder)
    files = sorted(folder.iterdir()) if folder.is_dir() else []
    found = {}
    for file in files:
        if DRAFT.fullmatch(file.name):
            continue
        if (match := NAME.fullmatch(file.name)) is None:
            raise _in_use(folder)
        facts = read_facts(file)
        found[int(match[1])] = {name: value for name, value in facts.items() if name != "file"}
    if folder.exists() and not folder.is_dir():
        raise _in_use(folder)
    return found


# ---- facts -------------------------------------------------------------------------------------------------


def shared(facts: Sequence[Mapping[str, Any]]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """What is true of all images, and what remains of each: `common` and `facts` for `write_folder`."""
    common = {name: value for name, value in facts[0].items() if all(one[name] == value for one in facts)}
    own = [{name: value for name, value in one.items() if name not in common} for one in facts]
    return common, own


def check_folder(folder: Path | str) -> Path:
    """The folder as a path, if images may be written there: it is absent or empty."""
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise _in_use(folder)
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


# ---- small parts -------------------------------------------------------------------------------------------


def _name(number: int) -> str:
    return f"{number:05d}.png"


def _save(image: Tensor, path: Path, facts: Mapping[str, Any]) -> None:
    inside = PngInfo()
    inside.add_text(CHUNK, json.dumps(facts))
    to_pil(image).save(path, format="PNG", pnginfo=inside)


def _in_use(folder: Path) -> ValueError:
    return ValueError(f"{folder} exists and is not empty; give another --out or delete it")
