"""The image folder: what is written comes back, inside the files and beside them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from flowlab.core.seeds import Streams
from flowlab.generate.images import (
    finish_folder,
    read_facts,
    read_folder,
    shared,
    unfinished,
    write_folder,
    write_image,
)


def _images(n: int = 3) -> torch.Tensor:
    return Streams.for_samples(0, torch.arange(n), purpose="test").integers(256, 3, 8, 10).to(torch.uint8)


def test_images_and_facts_survive(tmp_path: Path) -> None:
    images = _images()
    facts = [{"index": i, "label": i % 2, "seed": 5} for i in range(3)]
    manifest = write_folder(tmp_path / "out", images, facts, {"model": "abc", "shift": 2.95})
    found = read_folder(tmp_path / "out")
    assert manifest == tmp_path / "out" / "manifest.json" and found["model"] == "abc"
    for image, entry, given in zip(images, found["images"], facts, strict=True):
        path = tmp_path / "out" / entry["file"]
        assert np.array_equal(np.asarray(Image.open(path)), image.permute(1, 2, 0).numpy())
        assert read_facts(path) == {"model": "abc", "shift": 2.95, **entry} and given.items() <= entry.items()


def test_what_images_share_is_told_once() -> None:
    facts = [{"seed": 5, "index": i, "references": []} for i in range(3)]
    common, own = shared(facts)
    assert common == {"seed": 5, "references": []} and own == [{"index": i} for i in range(3)]
    assert [{**common, **one} for one in own] == facts


def test_a_folder_in_use_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(ValueError, match="exists and is not empty"):
        write_folder(tmp_path, _images(1), [{}], {})
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_a_failure_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(TypeError):
        write_folder(tmp_path / "out", _images(2), [{"index": 0}, {"index": object()}], {})
    assert list(tmp_path.iterdir()) == []


def test_foreign_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no manifest.json"):
        read_folder(tmp_path)
    Image.new("RGB", (4, 4)).save(tmp_path / "plain.png")
    with pytest.raises(ValueError, match="plain.png carries no facts"):
        read_facts(tmp_path / "plain.png")


def test_one_by_one_gives_the_same_folder(tmp_path: Path) -> None:
    images, facts = _images(), [{"model": "abc", "index": i} for i in range(3)]
    assert unfinished(tmp_path / "slow") == {}
    for number in (2, 0, 1):
        write_image(tmp_path / "slow", number, images[number], facts[number])
    assert unfinished(tmp_path / "slow") == dict(enumerate(facts))
    finish_folder(tmp_path / "slow")
    common, own = shared(facts)
    write_folder(tmp_path / "whole", images, own, common)
    assert read_folder(tmp_path / "slow") == read_folder(tmp_path / "whole")
    for name in ("00000.png", "00001.png", "00002.png"):
        slow, whole = tmp_path / "slow" / name, tmp_path / "whole" / name
        assert read_facts(slow) == read_facts(whole)
        assert Image.open(slow).tobytes() == Image.open(whole).tobytes()
    with pytest.raises(ValueError, match="exists and is not empty"):
        unfinished(tmp_path / "slow")


def test_a_missing_image_is_no_finished_folder(tmp_path: Path) -> None:
    write_image(tmp_path, 1, _images()[1], {"index": 1})
    with pytest.raises(AssertionError, match="images are missing"):
        finish_folder(tmp_path)
