"""`flowlab evaluate scenes` on a tiny random model."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.generate.small import save_flux2
from tests.verbs.command import flowlab

from flowlab import backbones
from flowlab.core.files import read_json
from flowlab.generate import loading

Capture = pytest.CaptureFixture[str]
FILES = ["images", "scores.json", "scores.parquet", "sheet_one_reference.png", "sheet_text.png", "table.md"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_flux2(tmp_path_factory.mktemp("flux") / "flux2_scenes.safetensors")


def test_scores_become_a_folder(model: Path, tmp_path: Path, capsys: Capture) -> None:
    out = tmp_path / "out"
    words = ("evaluate", "scenes", model, "--num-prompts", 3, "--num-steps", 1, "--seed", 2)
    assert flowlab(*words, "--kinds", "text,one_reference", "--out", out) == 0
    assert sorted(path.name for path in out.iterdir()) == FILES
    scores = read_json(out / "scores.json")
    assert "--num-prompts 3 --kinds text one_reference --seed 2" in scores["command"]
    assert "--num-steps 1" in scores["command"] and "guidance" not in scores["command"]
    assert list(scores["scores"]) == ["text", "one_reference"] and scores["seconds"] > 0
    assert scores["machine"] and scores["settings"]["num_steps"] == 1
    manifest = read_json(out / "images" / "one_reference" / "manifest.json")
    assert manifest["model"]["identity"] == scores["model"]["identity"]
    assert len(manifest["images"]) == 3 and all(one["references"] for one in manifest["images"])
    assert (out / "table.md").read_text() in capsys.readouterr().out
    assert flowlab(*words, "--out", out) == 2
    assert f"{out} exists and is not empty" in capsys.readouterr().err


def test_without_a_name_it_is_the_shipped_model(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setattr(loading, "WEIGHTS", model.parent)
    monkeypatch.chdir(tmp_path)
    assert flowlab("evaluate", "scenes", "--dry-run") == 0
    printed = capsys.readouterr().out
    assert f"{model} (flux2_scenes) on 500 held-out prompts" in printed
    assert "text, json, hex, one_reference, two_references; 30 steps, guidance 4.0" in printed
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--kinds", "words"), "choose from: text, json, hex, one_reference, two_references"),
        (("--kinds", ","), "--kinds names none; choose from: text"),
        (("--num-prompts", 1), "num_prompts is 1; ask for at least 2"),
        (("--batch-size", 0), "--batch-size is 0; give 1 or more"),
        (("--num-steps", 0), "num_steps is 0; ask for 1 or more"),
    ],
)
def test_faults_are_told_before_the_work(
    words: tuple[object, ...], told: str, model: Path, tmp_path: Path, capsys: Capture
) -> None:
    assert flowlab("evaluate", "scenes", model, *words, "--out", tmp_path / "out") == 2
    assert told in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_a_model_without_text_or_references_is_refused(tmp_path: Path, capsys: Capture) -> None:
    sit, flux1 = tmp_path / "sit.safetensors", tmp_path / "flux1.safetensors"
    backbones.save(backbones.build("tiny", channels=16, grid=4, num_classes=3), sit)
    assert flowlab("evaluate", "scenes", sit, "--dry-run", "--out", tmp_path / "out") == 2
    assert f"{sit} is a backbone of the family 'sit', which reads no prompts" in capsys.readouterr().err
    small = {"width": 64, "heads": 2, "double_blocks": 1, "single_blocks": 1, "axes": (8, 12, 12)}
    model = backbones.build_flux("flux1_dev", **small)
    backbones.save(model, flux1, {"autoencoder": "flux1_digits", "text": "embedded"})
    assert flowlab("evaluate", "scenes", flux1, "--dry-run", "--out", tmp_path / "out") == 2
    assert f"{flux1} takes no references; leave one_reference out of --kinds" in capsys.readouterr().err
