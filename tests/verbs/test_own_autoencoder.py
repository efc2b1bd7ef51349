"""An autoencoder that a user brings, all the way: train a generator in it, generate, evaluate."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from tests.verbs.command import flowlab

from flowlab.core.files import read_json
from flowlab.core.weights import read_weights, write_weights

pytest.importorskip("diffusers")
Capture = pytest.CaptureFixture[str]
STAGES = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}


def save_theirs(folder: Path, seed: int = 0) -> Path:
    """A small random AutoencoderKL as diffusers writes it: stride 2, 4 channels, 16 to a token."""
    diffusers: Any = importlib.import_module("diffusers")
    torch.manual_seed(seed)
    diffusers.AutoencoderKL(block_out_channels=(32, 32), **STAGES).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `theirs`, `images` of no common size, and a generator of two steps in `run`."""
    folder = tmp_path_factory.mktemp("own")
    save_theirs(folder / "theirs")
    for label in range(3):
        (folder / "images" / str(label)).mkdir(parents=True)
        for i in range(4):
            picture = Image.new("RGB", (40 + 9 * i, 61 - 5 * i), (80 * label, 60 * i, 10))
            picture.save(folder / "images" / str(label) / f"{i}.png")
    with pytest.MonkeyPatch.context() as here:
        here.chdir(folder)  # a relative path, as a user types it
        assert flowlab(*words_of("theirs", "images"), "--out", "run") == 0
    return folder


def words_of(autoencoder: object, images: object, *more: object) -> tuple[object, ...]:
    source = ("--autoencoder", autoencoder, "--resolution", 24)
    data = ("--dataset", images, "--split", "all", "--resize", "adm", "--num-images", 12)
    return ("train", "flow_flux2_digits", "--debug", *source, *data, "--cache", "cache", "--no-gate", *more)


def test_the_model_says_where_its_autoencoder_is(trained: Path) -> None:
    said = read_weights(trained / "run" / "model.safetensors")[1]
    assert said["autoencoder"] == str(trained / "theirs") and said["resolution"] == "24"
    assert len(said["autoencoder_identity"]) == 12 and said["gate"] == "off"
    (index,) = (trained / "cache").glob("*/index.json")
    plan = read_json(index)["plan"]
    assert plan["resolution"] == 24 and "resize=adm" in plan["dataset"] and plan["num_classes"] == 3


@pytest.mark.filterwarnings("ignore:Frechet distance from 12 images")
def test_generate_and_evaluate_find_it_from_elsewhere(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    model = trained / "run" / "model.safetensors"
    assert flowlab("generate", model, "--num-images", 3, "--num-steps", 2, "--out", "out") == 0
    assert Image.open(tmp_path / "out" / "00000.png").size == (24, 24)
    few = ("--num-samples", 66, "--num-reference", 12, "--num-steps", 1, "--out", "rows.jsonl")
    data = ("--dataset", trained / "images", "--split", "all", "--resize", "adm")
    assert flowlab("evaluate", "generation", model, *data, *few) == 0
    (row,) = [json.loads(line) for line in Path("rows.jsonl").read_text().splitlines()]
    assert row["fid"] > 0 and row["features"] == "digits judge at 32 px" and row["gate"] == "off"


def test_the_same_command_resumes_and_another_crop_is_refused(
    trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.chdir(trained)
    again = words_of("theirs", "images", "--out", "run", "--dry-run")
    assert flowlab(*again) == 0 and "resumes after step 2" in capsys.readouterr().out
    assert flowlab(*again, "--resize", "exact") == 2
    assert "(resize is 'adm' there and 'exact' here)" in capsys.readouterr().err


def test_an_autoencoder_that_went_away_or_changed_is_named(
    trained: Path, tmp_path: Path, capsys: Capture
) -> None:
    tensors, said = read_weights(trained / "run" / "model.safetensors")
    model, gone = tmp_path / "model.safetensors", str(tmp_path / "gone")

    def fault(words: tuple[object, ...] = (), **changes: str) -> str:
        write_weights(model, tensors, said | changes)
        code = flowlab("generate", model, "--num-images", 1, "--num-steps", 1, "--dry-run", *words)
        complaint = capsys.readouterr().err
        assert code == (2 if complaint else 0)
        return complaint

    assert f"{gone}, which is gone; give --autoencoder" in fault(autoencoder=gone)
    assert not fault(("--autoencoder", trained / "theirs"), autoencoder=gone)
    changed = fault(autoencoder_identity="0" * 12)
    assert "holds other weights" in changed and "trained in (000000000000)" in changed
    assert not fault(("--autoencoder", trained / "theirs"), autoencoder_identity="0" * 12)


def test_encode_takes_a_resolution_too(trained: Path, tmp_path: Path) -> None:
    data = ("--dataset", trained / "images", "--split", "all", "--resize", "adm", "--no-gate")
    assert flowlab("encode", trained / "theirs", *data, "--resolution", 24, "--out", tmp_path / "c") == 0
    assert read_json(tmp_path / "c" / "index.json")["plan"]["resolution"] == 24


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        (("--resolution", 25), "resolution is 25"),
        (("--resize", "exact"), "expected 24x24; resize it or choose resize='adm'"),
        (("--num-images", 13), "ask for 1 to 12"),
        (("--split", "train"), "use 'all' if those are the classes"),
        (("--autoencoder", "no-such-folder"), "unknown autoencoder"),
    ],
)
def test_faults_leave_no_folder(
    changes: tuple[Any, ...],
    part: str,
    trained: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Capture,
) -> None:
    monkeypatch.chdir(tmp_path)
    words = words_of(trained / "theirs", trained / "images", "--out", "run")
    assert flowlab(*words, *changes) == 2
    complaint = capsys.readouterr().err
    assert part in complaint and complaint.count("\n") == 1, complaint
    assert not (tmp_path / "run").exists()
