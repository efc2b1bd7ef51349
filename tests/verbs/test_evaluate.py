"""`flowlab evaluate` with untrained networks."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.verbs.command import flowlab

Capture = pytest.CaptureFixture[str]


def test_evaluate_appends_rows(
    toys: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    judge, rows = ("--judge", toys / "judge.safetensors"), ("--out", tmp_path / "rows.jsonl")
    teacher = ("--teacher", toys / "teacher.safetensors", "--num-images", 80)
    quick = ("--no-gate", "--speed-repeats", 0)  # the toys are untrained
    assert (
        flowlab("evaluate", "reconstruction", toys / "ae.safetensors", *judge, *teacher, *rows, *quick) == 0
    )
    few = ("--num-samples", 70, "--num-reference", 80, "--num-steps", 2)
    assert (
        flowlab(
            "evaluate", "generation", toys / "model.safetensors", *judge, *few, *rows, "--shifts", 1, 2.95
        )
        == 0
    )
    printed = capsys.readouterr().out
    assert "rFID: distances from 80 images, fewer than 1,000" in printed
    assert "note: distances from 70 images, fewer than 1,000, are biased upwards" in printed
    found = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert [row.get("sampleshift") for row in found] == [None, 1.0, 2.95]
    assert found[0]["psnr"] > 0 and found[1]["fid"] > 0 and found[1]["features"]
    assert [row["gate"] for row in found] == ["off", "unknown", "unknown"], "the toy's file tells nothing"


def test_the_default_numbers_take_what_a_folder_has(
    toys: Path, capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = ("--dataset", toys / "images", "--split", "all", "--dry-run")
    generation = ("evaluate", "generation", toys / "model.safetensors", *folder)
    assert flowlab(*generation) == 0 and "against 12 images of" in capsys.readouterr().out
    assert flowlab(*generation, "--num-reference", 4000) == 2
    assert "num_images=4000 of the 12 images" in capsys.readouterr().err
    reconstruction = ("evaluate", "reconstruction", toys / "ae.safetensors", "--no-gate", "--teacher", "none")
    assert flowlab(*reconstruction, *folder) == 0 and "on 12 images of" in capsys.readouterr().out
    assert flowlab(*reconstruction, "--dataset", "photos", "--dry-run") == 0
    assert "on 342 images of photos" in capsys.readouterr().out
    assert flowlab(*reconstruction, *folder, "--num-images", 1000) == 2
    assert "num_images=1000 of the 12 images" in capsys.readouterr().err
