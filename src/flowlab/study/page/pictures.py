"""The report's pictures: reads samples/manifest.json and lays reconstructions beside their originals.

The runner's sheets are PNG files of square images of `TILE` pixels, as core.pixels.contact_sheet makes them:

    reconstruction_<ae>.png    rows in pairs, originals above their reconstructions
    grid_<run_id>.png          generated samples

and manifest.json is a list of {kind: "reconstruction" | "samples", ae, run_id, caption, file} with an
optional `box`, (x, y, width, height) of the detail to enlarge, in pixels inside each image. Pictures leave
here as lossless WebP, which holds enlarged pixels in a quarter of PNG's bytes.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from flowlab.core.files import read_json

__all__ = ["TILE", "Picture", "Strip", "read_manifest", "sample_grid", "strips"]

TILE = 32
"""Side of one image on a sheet, pixels."""
SHEET_GAP = 2
"""Pixels between, and around, the images of a sheet."""
DEFAULT_BOX = (10, 10, 12, 12)
_SCALE = 3
_GAP = 6
_FRAME = (255, 64, 64)


@dataclass(frozen=True, kw_only=True)
class Picture:
    """One sheet of images with its facts."""

    kind: str
    """reconstruction or samples."""
    ae: str
    run_id: str
    """Empty for a reconstruction."""
    caption: str
    box: tuple[int, int, int, int]
    """x, y, width, height of the detail, in pixels of one image."""
    png: bytes


@dataclass(frozen=True, kw_only=True)
class Strip:
    """One row of the comparison: some images, each with its detail enlarged beside it."""

    ae: str | None
    """None for the originals."""
    webp: bytes
    width: int
    """Pixels."""
    height: int


def read_manifest(folder: Path) -> tuple[list[Picture], list[str]]:
    """The pictures of a samples folder, and one line for each that cannot be shown."""
    path = folder / "manifest.json"
    if not path.is_file():
        return [], [f"no pictures: {path.name} is not in {folder.name}/"]
    try:
        entries = read_json(path)
    except ValueError as problem:
        return [], [f"no pictures: {problem}"]
    pictures, problems = [], []
    for entry in entries:
        try:
            pictures.append(_picture(folder, entry))
        except (OSError, KeyError, TypeError, ValueError, SyntaxError) as problem:
            name = entry.get("file", "?") if isinstance(entry, dict) else entry
            problems.append(f"picture {name} is left out ({type(problem).__name__}: {problem})")
    return pictures, problems


def _picture(folder: Path, entry: dict[str, Any]) -> Picture:
    png = (folder / entry["file"]).read_bytes()
    Image.open(io.BytesIO(png)).verify()
    x, y, width, height = entry.get("box") or DEFAULT_BOX
    return Picture(
        kind=entry["kind"],
        ae=entry["ae"],
        run_id=entry.get("run_id") or "",
        caption=entry.get("caption") or "",
        box=(x, y, width, height),
        png=png,
    )


def strips(pictures: Sequence[Picture], *, num_images: int = 5) -> list[Strip]:
    """Originals first, then each reconstruction of them; a sheet of other images brings its own originals."""
    result: list[Strip] = []
    shown: list[bytes] = []
    for picture in pictures:
        originals, copies = _pairs(picture)
        if [image.tobytes() for image in originals] != shown:
            result.append(_strip(None, originals[:num_images], picture.box))
            shown = [image.tobytes() for image in originals]
        result.append(_strip(picture.ae, copies[:num_images], picture.box))
    return result


def sample_grid(picture: Picture, *, columns: int = 6, max_images: int = 36) -> bytes:
    """A sheet of samples laid out anew as a compact grid with clear gaps; WebP bytes."""
    images = [image for line in _lines(picture) for image in line][:max_images]
    pitch = TILE + 1
    grid = Image.new(
        "RGBA", (columns * pitch - 1, max(1, -(-len(images) // columns)) * pitch - 1), (0, 0, 0, 0)
    )
    for i, image in enumerate(images):
        grid.paste(image, (i % columns * pitch, i // columns * pitch))
    return _webp(grid)


def _webp(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", lossless=True, quality=100, method=4)
    return buffer.getvalue()


def _pairs(picture: Picture) -> tuple[list[Image.Image], list[Image.Image]]:
    """The images of the even and of the odd rows of a sheet."""
    lines = _lines(picture)
    return [image for line in lines[::2] for image in line], [image for line in lines[1::2] for image in line]


def _lines(picture: Picture) -> list[list[Image.Image]]:
    """The images of a sheet, row by row."""
    sheet = Image.open(io.BytesIO(picture.png)).convert("RGB")
    pitch = TILE + SHEET_GAP
    return [
        [sheet.crop((x, y, x + TILE, y + TILE)) for x in range(SHEET_GAP, sheet.width - TILE + 1, pitch)]
        for y in range(SHEET_GAP, sheet.height - TILE + 1, pitch)
    ]


def _strip(ae: str | None, images: Sequence[Image.Image], box: tuple[int, int, int, int]) -> Strip:
    side = TILE * _SCALE
    width = len(images) * (2 * side + 2 + 2 * _GAP) - 2 * _GAP
    sheet = Image.new("RGBA", (max(1, width), side), (0, 0, 0, 0))
    for i, image in enumerate(images):
        left = i * (2 * side + 2 + 2 * _GAP)
        sheet.paste(_framed(image, box), (left, 0))
        sheet.paste(_detail(image, box), (left + side + 2, 0))
    return Strip(ae=ae, webp=_webp(sheet), width=sheet.width, height=sheet.height)


def _framed(image: Image.Image, box: tuple[int, int, int, int]) -> Image.Image:
    large = image.resize((TILE * _SCALE, TILE * _SCALE), Image.Resampling.NEAREST)
    x, y, width, height = (value * _SCALE for value in box)
    ImageDraw.Draw(large).rectangle((x, y, x + width - 1, y + height - 1), outline=_FRAME, width=1)
    return large


def _detail(image: Image.Image, box: tuple[int, int, int, int]) -> Image.Image:
    x, y, width, height = box
    crop = image.crop((x, y, x + width, y + height))
    large = crop.resize((TILE * _SCALE, TILE * _SCALE), Image.Resampling.NEAREST)
    ImageDraw.Draw(large).rectangle((0, 0, large.width - 1, large.height - 1), outline=_FRAME, width=1)
    return large
