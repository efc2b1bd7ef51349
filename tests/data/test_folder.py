"""Folders of class folders: order, labels, decoding, and every kind of bad file."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from flowlab.data.folder import decode, folder
from flowlab.data.transforms import adm_center_crop, from_pil


def noise(seed: int, size: tuple[int, int] = (32, 32), mode: str = "RGB") -> Image.Image:
    channels = {"RGB": 3, "RGBA": 4, "L": 1, "CMYK": 4}[mode]
    values = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], channels), dtype=np.uint8)
    return Image.fromarray(values.squeeze(), mode)


@pytest.fixture
def root(tmp_path):
    for label, name in enumerate(["bee", "ant"]):
        (tmp_path / name).mkdir()
        for i in (2, 0, 1):
            noise(10 * label + i).save(tmp_path / name / f"{i}.png")
    (tmp_path / "ant" / "notes.txt").write_text("not an image")
    (tmp_path / ".hidden").mkdir()
    return tmp_path


def paths(dataset) -> list[str]:
    return [str(dataset.path(i).relative_to(dataset.root)) for i in range(len(dataset))]


def test_every_image_is_listed_labelled_and_exact(root):
    dataset = folder(root, resolution=32)
    names = paths(dataset)
    assert dataset.class_names == ("ant", "bee") and dataset.num_classes == 2
    assert sorted(names) == [f"{name}/{i}.png" for name in ("ant", "bee") for i in range(3)]
    batch = dataset.read(torch.tensor([names.index("bee/1.png"), names.index("ant/0.png")]))
    assert batch.label is not None and batch.label.tolist() == [1, 0]
    assert batch.pixels is not None and torch.equal(batch.pixels[0], from_pil(noise(1)))


def test_the_first_images_come_from_all_classes_and_an_order_holds(tmp_path):
    """The gate and a latent's statistics see the first ones; a further file must not shuffle the others."""
    for label in range(8):
        (tmp_path / f"class {label}").mkdir()
        for i in range(32):
            noise(label).save(tmp_path / f"class {label}" / f"{i}.png")
    dataset = folder(tmp_path, resolution=32)
    first = dataset.read(torch.arange(64)).label
    assert first is not None and first.bincount(minlength=8).min() >= 2, (
        "64 of 256 images, 8 a class expected"
    )
    before = paths(dataset)
    noise(9).save(tmp_path / "class 3" / "new.png")
    after = paths(folder(tmp_path, resolution=32))
    assert [name for name in after if name != "class 3/new.png"] == before


def test_num_images_spreads_over_the_classes(root):
    label = folder(root, resolution=32, num_images=2).read(torch.arange(2)).label
    assert label is not None and sorted(label.tolist()) == [0, 1]
    with pytest.raises(ValueError, match="ask for 1 to 6"):
        folder(root, resolution=32, num_images=7)


def test_identity_follows_the_files_and_the_settings(root):
    first = folder(root, resolution=32).identity
    assert folder(root, resolution=32, resize="adm").identity != first
    assert folder(root, resolution=32).identity == first
    (root / "ant" / "0.png").rename(root / "ant" / "9.png")
    assert folder(root, resolution=32).identity != first


def test_flip(root):
    plain = folder(root, resolution=32).read(torch.arange(2)).pixels
    mirrored = folder(root, resolution=32).read(torch.arange(2), torch.tensor([False, True])).pixels
    assert plain is not None and mirrored is not None
    assert torch.equal(mirrored[0], plain[0]) and torch.equal(mirrored[1], plain[1].flip(-1))


def test_wrong_size_is_an_error_unless_a_policy_is_given(root):
    big = noise(5, (80, 50))
    big.save(root / "ant" / "big.png")
    with pytest.raises(
        ValueError, match=r"big\.png is 80x50, expected 32x32; resize it or choose resize='adm'"
    ) as caught:
        folder(root, resolution=32).read(torch.arange(7))
    assert "\n" not in str(caught.value)
    tolerant = folder(root, resolution=32, resize="adm")
    cut = tolerant.read(torch.tensor([paths(tolerant).index("ant/big.png")])).pixels
    assert cut is not None and torch.equal(cut[0], from_pil(adm_center_crop(big, 32)))


def test_exif_orientation_is_applied(tmp_path):
    upright, exif = noise(0), Image.Exif()
    exif[0x0112] = 6  # stored turned; viewers rotate it clockwise by 90 degrees
    upright.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "turned.png", exif=exif)
    assert torch.equal(from_pil(decode(tmp_path / "turned.png")), from_pil(upright))


@pytest.mark.parametrize(("mode", "suffix"), [("L", "png"), ("RGBA", "png"), ("CMYK", "tif")])
def test_other_modes_become_rgb(tmp_path, mode, suffix):
    path = tmp_path / f"image.{suffix}"
    noise(1, mode=mode).save(path)
    assert decode(path).mode == "RGB"


def test_transparency_goes_on_white(tmp_path):
    Image.new("RGBA", (4, 4), (255, 0, 0, 0)).save(tmp_path / "clear.png")
    assert decode(tmp_path / "clear.png").getpixel((0, 0)) == (255, 255, 255)


def broken_files(folder_path):
    whole = folder_path / "whole"
    whole.mkdir()
    noise(0).save(whole / "a.png")
    noise(0).save(whole / "a.jpg")
    png, jpg = (whole / "a.png").read_bytes(), (whole / "a.jpg").read_bytes()
    yield "truncated.png", png[: len(png) // 2]
    yield "truncated.jpg", jpg[: len(jpg) // 2]
    yield "empty.png", b""
    yield "text.jpg", b"no image at all"
    yield "header.png", png[:20]
    yield "flipped.png", png[:60] + bytes(200) + png[260:]


def test_damaged_files_are_one_line_errors_that_name_them(tmp_path):
    for name, content in broken_files(tmp_path):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=f"{name} is not a whole image") as caught:
            decode(tmp_path / name)
        assert "\n" not in str(caught.value)


def test_sixteen_bits_are_refused(tmp_path):
    Image.fromarray(np.full((4, 4), 40_000, np.uint16)).save(tmp_path / "deep.png")
    with pytest.raises(ValueError, match=r"deep\.png .*more than 8 bits"):
        decode(tmp_path / "deep.png")


def test_vanished_file_is_named(root):
    dataset = folder(root, resolution=32)
    (root / "ant" / "0.png").unlink()
    with pytest.raises(ValueError, match=r"no image at .*0\.png"):
        dataset.read(torch.arange(6))


def test_bad_roots_say_what_is_expected(tmp_path):
    with pytest.raises(ValueError, match="no folder at"):
        folder(tmp_path / "absent", resolution=32)
    with pytest.raises(ValueError, match="holds no class folders"):
        folder(tmp_path, resolution=32)
    (tmp_path / "ant").mkdir()
    with pytest.raises(ValueError, match="ant holds no images"):
        folder(tmp_path, resolution=32)
