"""`flowlab encode` of a folder of images."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image
from tests.verbs.command import flowlab

from flowlab import autoencoders
from flowlab.autoencoders.sizes import build as build_autoencoder
from flowlab.core.files import read_json

Capture = pytest.CaptureFixture[str]


def test_encode_a_folder_and_refuse_damaged_images(toys: Path, tmp_path: Path, capsys: Capture) -> None:
    common = (
        "encode",
        toys / "ae.safetensors",
        "--dataset",
        toys / "images",
        "--split",
        "all",
        "--out",
        tmp_path / "c",
        "--no-gate",
    )
    assert flowlab(*common, "--dry-run") == 0 and not (tmp_path / "c").exists()
    assert flowlab(*common) == 0
    assert read_json(tmp_path / "c" / "index.json")["plan"]["num_images"] == 12
    bad = tmp_path / "images" / "0"
    bad.mkdir(parents=True)
    whole = (toys / "images" / "0" / "0.png").read_bytes()
    for name, data, part in (("cut", whole[:60], "cut.png"), ("size", None, "size.png")):
        path = bad / f"{name}.png"
        path.write_bytes(data) if data else Image.new("RGB", (31, 40)).save(path)
        assert (
            flowlab(*common[:2], "--dataset", tmp_path / "images", "--split", "all", "--out", tmp_path / "d")
            == 2
        )
        assert part in capsys.readouterr().err
        path.unlink()
    assert not (tmp_path / "d" / "index.json").exists()


def test_a_cache_of_another_encoder_is_refused(toys: Path, tmp_path: Path, capsys: Capture) -> None:
    torch.manual_seed(1)
    autoencoders.save(build_autoencoder("flux1"), tmp_path / "other.safetensors")
    common = ("--dataset", toys / "images", "--split", "all", "--out", tmp_path / "cache", "--no-gate")
    assert flowlab("encode", toys / "ae.safetensors", *common) == 0
    assert flowlab("encode", tmp_path / "other.safetensors", *common) == 2
    assert "choose another folder" in capsys.readouterr().err


def test_the_gate_stops_an_untrained_autoencoder_and_remembers_a_good_one(
    toys: Path, tmp_path: Path, capsys: Capture
) -> None:
    small = ("--num-images", 64, "--out", tmp_path / "cache")
    assert flowlab("encode", toys / "ae.safetensors", *small) == 2
    fault = capsys.readouterr().err
    assert "error: flux1 fails the gate: PSNR" in fault and "--no-gate passes it" in fault
    assert not list(tmp_path.glob("cache/shard_*"))
    assert flowlab("encode", "sd", *small) == 0
    index = tmp_path / "cache" / "index.json"
    assert read_json(index)["gate"] == "passed"
    assert flowlab("encode", "sd", *small, "--no-gate") == 0 and read_json(index)["gate"] == "passed"


def test_the_outcome_says_that_the_gate_was_off_until_it_is_asked(tmp_path: Path) -> None:
    small = ("--num-images", 64, "--out", tmp_path)
    assert flowlab("encode", "sd", *small, "--no-gate") == 0
    assert read_json(tmp_path / "index.json")["gate"] == "off"
    assert flowlab("encode", "sd", *small) == 0
    assert read_json(tmp_path / "index.json")["gate"] == "passed"
