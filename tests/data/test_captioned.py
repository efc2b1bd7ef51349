"""Folders of captioned pictures: both ways of writing captions, upright sizes, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from flowlab.data.captioned import LISTING, Pictures, captioned


def picture(path: Path, size: tuple[int, int] = (40, 20), colour: str = "red", **options) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path, **options)


def listing(root: Path, *entries: object) -> None:
    (root / LISTING).write_text("\n".join(json.dumps(entry) for entry in entries) + "\n")


def test_text_files_beside_images(tmp_path):
    picture(tmp_path / "b.png")
    picture(tmp_path / "sub" / "a.jpg", (10, 30))
    (tmp_path / "b.txt").write_text("a red picture\n")
    (tmp_path / "sub" / "a.txt").write_text("another")
    found = captioned(tmp_path)
    assert [(one.file, one.text, one.references) for one in found.examples] == [
        ("b.png", "a red picture", ()),
        ("sub/a.jpg", "another", ()),
    ]
    assert dict(zip(found.files, found.sizes, strict=True)) == {"b.png": (20, 40), "sub/a.jpg": (30, 10)}


def test_a_listing_shares_pictures_between_targets_and_references(tmp_path):
    for name in ("a.png", "b.png", "c.png"):
        picture(tmp_path / name)
    entries = [
        {"file": "a.png", "text": "first"},
        {"file": "b.png", "text": "second from two", "references": ["c.png", "a.png"]},
    ]
    listing(tmp_path, *entries)
    found = captioned(tmp_path)
    assert found.files == ("a.png", "b.png", "c.png")
    assert found.examples[1].references == ("c.png", "a.png")
    before = found.identity
    listing(tmp_path, entries[0] | {"text": "other"}, entries[1])
    assert captioned(tmp_path).identity != before


def test_exif_rotation_counts(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turn right
    picture(tmp_path / "a.jpg", (40, 20), exif=exif)
    (tmp_path / "a.txt").write_text("turned")
    found = captioned(tmp_path)
    assert found.sizes == ((40, 20),)
    batch = Pictures(found.root, found.files, (32, 16)).read(torch.tensor([0]))
    assert batch.pixels is not None and batch.pixels.shape == (1, 3, 32, 16)


def test_pictures_are_read_by_index_whatever_the_batch(tmp_path):
    for i, colour in enumerate(("red", "lime", "blue")):
        picture(tmp_path / f"{i}.png", (30 + i, 20), colour)
    data = Pictures(tmp_path, ["0.png", "1.png", "2.png"], (16, 32))
    pixels = data.read(torch.tensor([2, 0])).pixels
    assert pixels is not None
    assert pixels[0].float().mean((1, 2)).tolist() == [0, 0, 255]
    alone = data.read(torch.tensor([0])).pixels
    assert alone is not None and torch.equal(pixels[1:], alone)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("not an object", "needs file and text"),
        ({"file": "a.png"}, "needs file and text"),
        ({"file": "a.png", "text": "x", "label": 3}, "needs file and text"),
        ({"file": "a.png", "text": 3}, "file and text are strings"),
        ({"file": "a.png", "text": "x", "references": "a.png"}, "references a list of strings"),
        ({"file": "a.png", "text": "x", "references": ["a.png"] * 11}, "11 references; give at most 10"),
        ({"file": "z.png", "text": "x"}, "no image at .*z.png, which the captions name"),
    ],
)
def test_a_bad_line_is_named(tmp_path, entry, message):
    picture(tmp_path / "a.png")
    listing(tmp_path, entry)
    with pytest.raises(ValueError, match=message):
        captioned(tmp_path)


def test_what_is_missing_is_named(tmp_path):
    with pytest.raises(ValueError, match="no folder at"):
        captioned(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="holds no captioned images"):
        captioned(tmp_path)
    picture(tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"1 of 1 images in .* have no caption, first a.png"):
        captioned(tmp_path)
    (tmp_path / "a.txt").write_bytes(b"caf\xe9")
    with pytest.raises(ValueError, match=r"a.txt is not UTF-8 text .* save it so"):
        captioned(tmp_path)
    (tmp_path / "a.txt").write_text("x")
    (tmp_path / "a.png").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"a.png is not an image"):
        captioned(tmp_path)
