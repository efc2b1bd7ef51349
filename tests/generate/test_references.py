"""Given images: upright, opaque, and no larger than the model takes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tests.generate.small import ROTATED

from flowlab.generate.references import KONTEXT_SIZES, open_image, prepare_all


def plain(width: int, height: int, colour: str = "red") -> Image.Image:
    return Image.new("RGB", (width, height), colour)


# ---- opening -----------------------------------------------------------------------------------------------


def test_the_camera_s_orientation_is_applied(picture: Image.Image, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = ROTATED  # stored sideways: to be shown turned clockwise
    picture.rotate(90, expand=True).save(tmp_path / "photo.png", exif=exif)
    given = open_image(tmp_path / "photo.png", "it")
    assert np.array_equal(np.asarray(given.image), np.asarray(picture))
    assert given.transforms == ("turned upright (EXIF orientation 6)",)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparency_becomes_white(mode: str, tmp_path: Path) -> None:
    image = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    image.paste((90, 90, 90, 255), (0, 0, 4, 8))
    path = tmp_path / "cut_out.png"
    if mode == "P":
        image.convert("P").save(path, transparency=image.convert("P").getpixel((7, 7)))
    else:
        image.convert(mode).save(path)
    given = open_image(path, "it")
    assert given.image.mode == "RGB" and given.image.getpixel((7, 7)) == (255, 255, 255)
    assert given.image.getpixel((0, 0)) == (90, 90, 90)
    assert given.transforms == ("transparency laid on white",)


def test_sixteen_bits_are_scaled_and_not_clipped(tmp_path: Path) -> None:
    Image.fromarray(np.full((8, 8), 257 * 100, dtype=np.uint16)).save(tmp_path / "deep.png")
    given = open_image(tmp_path / "deep.png", "it")
    assert given.image.getpixel((0, 0)) == (100, 100, 100) and given.transforms


def test_files_pil_images_and_tensors_are_the_same_picture(picture: Image.Image, tmp_path: Path) -> None:
    picture.save(tmp_path / "a.png")
    file, memory = open_image(tmp_path / "a.png", "it"), open_image(picture, "it")
    tensor = open_image(memory.pixels.float() / 127.5 - 1, "it")
    assert torch.equal(file.pixels, memory.pixels) and torch.equal(tensor.pixels, memory.pixels)
    assert memory.sha256 == tensor.sha256 != file.sha256 and len(file.sha256) == 64
    assert file.file == str(tmp_path / "a.png") and memory.file is None


def test_a_file_of_too_many_pixels_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain(64, 64).save(tmp_path / "vast.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(ValueError, match=r"reference 1: .*vast\.png is no whole image"):
        prepare_all([tmp_path / "vast.png"], stride=16)


def test_what_is_no_image_is_named(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("hello")
    with pytest.raises(ValueError, match=r"reference 1: .*text\.png is no whole image"):
        prepare_all([tmp_path / "text.png"], stride=16)
    with pytest.raises(ValueError, match=r"there is no file nosuch\.png"):
        prepare_all(["nosuch.png"], stride=16)


# ---- sizes -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "num", "expected"),
    [
        ((3000, 2000), 1, (2464, 1648)),  # 15,862 tokens, measured on the published code
        ((3000, 2000), 2, (1248, 832)),  # 4,056
        ((512, 512), 1, (512, 512)),
        ((500, 300), 1, (496, 288)),  # never enlarged, never stretched
    ],
)
def test_sizes_are_those_of_the_published_code(
    size: tuple[int, int], num: int, expected: tuple[int, int]
) -> None:
    given = prepare_all([plain(*size)] * num, stride=16)
    assert [one.image.size for one in given] == [expected] * num
    assert bool(given[0].transforms) == (size != expected)


def test_the_crop_is_centred() -> None:
    image = plain(80, 70)
    image.paste("blue", (8, 3, 72, 67))  # the centre 64 x 64
    (given,) = prepare_all([image.crop((0, 0, 79, 70))], stride=64)
    assert given.image.size == (64, 64)
    assert given.image.getpixel((1, 0)) == given.image.getpixel((63, 63)) == (0, 0, 255)
    assert given.transforms == ("cropped to the centre 64 x 64",)


def test_a_cap_and_a_smallest_side_can_be_given() -> None:
    (given,) = prepare_all([plain(100, 100)], stride=8, cap=64**2, min_side=32)
    assert given.image.size == (64, 64) and "shrunk from 100 x 100 to 64 x 64" in given.transforms
    (given,) = prepare_all([plain(800, 100)], stride=16, cap=2048)
    assert given.image.size == (128, 16), "the smallest cap leaves something of the longest image"
    for cap in (0, 2047):
        with pytest.raises(ValueError, match=f"the cap of a reference is {cap} pixels; give 2048 or more"):
            prepare_all([plain(100, 100)], stride=16, cap=cap)


@pytest.mark.parametrize(("size", "expected"), [((500, 500), (1024, 1024)), ((3000, 1200), (1568, 672))])
def test_kontext_takes_its_seventeen_sizes(size: tuple[int, int], expected: tuple[int, int]) -> None:
    (given,) = prepare_all([plain(*size)], stride=16, sizes="kontext", limit=1)
    assert given.image.size == expected and len(KONTEXT_SIZES) * 2 - 1 == 17


@pytest.mark.parametrize(
    ("images", "part"),
    [
        ([plain(64, 64)] * 11, "11 reference images were given; this model takes at most 10"),
        ([plain(100, 63)], "100 x 63; sides of 64 pixels or more"),
        ([plain(64, 64), plain(640, 79)], r"reference 2 .* 640 x 79; an aspect of at most 8:1"),
    ],
)
def test_what_cannot_be_taken_is_named(images: list[Image.Image], part: str) -> None:
    with pytest.raises(ValueError, match=part):
        prepare_all(images, stride=16)
    assert len(prepare_all([plain(64, 64)] * 10, stride=16)) == 10
