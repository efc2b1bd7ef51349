"""`flowlab generate` on an untrained model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from tests.verbs.command import flowlab

from flowlab import autoencoders
from flowlab.autoencoders.sizes import build as build_autoencoder
from flowlab.core.files import read_json
from flowlab.generate.images import read_facts

Capture = pytest.CaptureFixture[str]


def test_generate_is_the_same_whatever_the_batch(toys: Path, tmp_path: Path, capsys: Capture) -> None:
    common = (
        toys / "model.safetensors",
        "--num-images",
        5,
        "--num-steps",
        3,
        "--shift",
        2.95,
        "--classes",
        2,
        0,
    )
    assert flowlab("generate", *common, "--out", tmp_path / "a") == 0
    assert flowlab("generate", *common, "--out", tmp_path / "b", "--batch-size", 2) == 0
    manifest = read_json(tmp_path / "a" / "manifest.json")
    assert [image["label"] for image in manifest["images"]] == [2, 0, 2, 0, 2]
    for image in manifest["images"]:
        a, b = (Image.open(tmp_path / side / image["file"]).tobytes() for side in "ab")
        assert a == b
    facts = read_facts(tmp_path / "a" / "00003.png")
    assert facts["sampling"]["shift"] == 2.95 and facts["index"] == 3 and facts["model"]["identity"]


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (("--classes", 3), "--classes holds 3"),
        (("--autoencoder", "sd"), "channels"),
        (("--sampler", "nosuch"), "unknown sampler 'nosuch'; choose from: euler, heun"),
        (("--shift", 0), "--shift is 0.0; it must be a positive number"),
        (("--precision", "int4"), "unknown precision 'int4'"),
    ],
)
def test_generate_refuses(
    words: tuple[Any, ...], part: str, toys: Path, tmp_path: Path, capsys: Capture
) -> None:
    if "sd" in words:
        autoencoders.save(build_autoencoder("sd"), tmp_path / "sd.safetensors")
        words = ("--autoencoder", tmp_path / "sd.safetensors")
    assert flowlab("generate", toys / "model.safetensors", *words, "--out", tmp_path / "out") == 2
    assert part in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "damage", [lambda data: data[:200], lambda data: b"nonsense", lambda data: data[:-100]]
)
def test_damaged_model_is_named(
    damage: Callable[[bytes], bytes], toys: Path, tmp_path: Path, capsys: Capture
) -> None:
    path = tmp_path / "bad.safetensors"
    path.write_bytes(damage((toys / "model.safetensors").read_bytes()))
    assert flowlab("generate", path) == 2
    complaint = capsys.readouterr().err
    assert "bad.safetensors" in complaint and complaint.count("\n") == 1
    assert [item.name for item in tmp_path.iterdir()] == ["bad.safetensors"]
