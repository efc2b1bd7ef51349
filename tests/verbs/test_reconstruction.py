"""`flowlab evaluate reconstruction`: a list of autoencoders becomes rows, a table and a page."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import torch
from tests.verbs.command import flowlab

from flowlab import autoencoders
from flowlab.autoencoders import sizes
from flowlab.core.pixels import to_float
from flowlab.data import datasets
from flowlab.features import vgg

Capture = pytest.CaptureFixture[str]
QUICK = ("--speed-repeats", 0, "--judge", "none", "--teacher", "none")


def reconstruction(*words: object) -> int:
    return flowlab("evaluate", "reconstruction", *words)


def rows_of(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_several_on_a_folder(toys: Path, tmp_path: Path, capsys: Capture) -> None:
    images = ("--dataset", toys / "images", "--split", "all", "--num-images", 12, "--no-gate")
    judge = ("--judge", toys / "judge.safetensors", "--teacher", toys / "teacher.safetensors")
    files = {name: tmp_path / f"made.{name}" for name in ("jsonl", "csv", "html")}
    made = ("--out", files["jsonl"], "--table", files["csv"], "--viewer", files["html"])
    names = (toys / "ae.safetensors", "flux2")
    assert reconstruction(*names, *images, *judge, *made, "--speed-repeats", 1, "--speed-batch", 2) == 0
    rows = rows_of(files["jsonl"])
    assert [row["source"] for row in rows] == [str(names[0]), "flux2"]
    for row in rows:
        assert row["gate"] == "off" and row["weights"] == "loaded" and row["resolution"] == 32
        for name in ("psnr", "ssim", "perceptual", "rfid", "rotation_error"):
            assert row[name] is not None and row[f"{name}_se"] is not None, name
        assert float(str(row["encode_per_second"])) > 0 and row["speed_batch"] == 2
        curves = [row[name] for name in ("latent_mean", "latent_std", "spectrum", "spectrum_image")]
        assert [len(curve) for curve in curves if isinstance(curve, list)] == [row["channels"]] * 2 + [7] * 2
    with open(files["csv"]) as file:
        assert [row["identity"] for row in csv.DictReader(file)] == [row["identity"] for row in rows]
    assert files["html"].read_text().count("<canvas") == 5  # original, two pictures, two differences
    assert "PSNR dB" in capsys.readouterr().out


def test_what_is_left_out_is_null(toys: Path, tmp_path: Path) -> None:
    out = tmp_path / "rows.jsonl"
    assert reconstruction("flux2", *QUICK, "--no-gate", "--num-images", 4, "--no-latents", "--out", out) == 0
    (row,) = rows_of(out)
    assert row["rfid"] is None and row["rfid_se"] is None and row["perceptual"] is None
    assert row["features"] == row["perceptual_features"] == "none"
    assert "rotation_error" not in row and "encode_per_second" not in row and "lpips_vgg" not in row


def test_random_weights_turn_the_gate_off_and_repeat(tmp_path: Path) -> None:
    out = tmp_path / "rows.jsonl"
    for _ in range(2):
        assert reconstruction("sd", *QUICK, "--random-weights", "--num-images", 4, "--out", out) == 0
    first, again = rows_of(out)
    assert first["weights"] == "random" and first["gate"] == "off"
    assert first["identity"] == again["identity"] and first["psnr"] == again["psnr"]


def test_the_gate_says_passed_for_a_shipped_one_and_failed_for_an_untrained_one(
    toys: Path, tmp_path: Path
) -> None:
    out = tmp_path / "rows.jsonl"
    assert reconstruction("flux2", *QUICK, "--no-latents", "--num-images", 500, "--out", out) == 0
    assert rows_of(out)[0]["gate"] == "passed"
    with pytest.warns(UserWarning, match="unusual latents"):
        assert reconstruction(toys / "ae.safetensors", *QUICK, "--num-images", 64, "--out", out) == 0
    assert rows_of(out)[1]["gate"] == "failed"


def test_the_autoencoder_of_photographs_on_photographs(tmp_path: Path) -> None:
    """24 held-out tiles; 36.1 dB on all of them. Their statistics are not those it trained on."""
    out = tmp_path / "rows.jsonl"
    few = ("--dataset", "photos", "--num-images", 24, "--no-gate", "--no-latents")
    assert reconstruction("flux2_photos", *QUICK, *few, "--out", out) == 0
    (row,) = rows_of(out)
    assert float(str(row["psnr"])) > 33 and row["weights"] == "loaded" and row["resolution"] == 32
    assert str(row["dataset"]).startswith("photos")


def test_one_pass_of_vgg_gives_both_distances(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = vgg.random(width=8)
    monkeypatch.setattr(vgg, "load", lambda trunk, heads, check_hash: network)
    out, files = tmp_path / "rows.jsonl", ("--vgg", "trunk.pth", "--lpips-heads", "heads.pth")
    few = ("--num-images", 6, "--no-gate", "--no-latents")
    assert reconstruction("flux2", *QUICK, *few, *files, "--out", out) == 0
    (row,) = rows_of(out)
    images = datasets.load("digits", "heldout", num_images=6).read(torch.arange(6)).pixels
    assert images is not None
    pixels = to_float(images)
    model = autoencoders.load("flux2")
    with torch.no_grad():
        found = network.distances(pixels, model.decode(model.latents(pixels)).clamp(-1, 1))
    for name, each in found.items():
        assert float(str(row[name])) == pytest.approx(float(each.mean()), rel=0.05), name
        assert float(str(row[f"{name}_se"])) > 0


@pytest.mark.slow
@pytest.mark.parametrize("name", sizes.PUBLISHED)
def test_full_size_with_random_weights(name: str, tmp_path: Path) -> None:
    out = tmp_path / "rows.jsonl"
    side = 256 if name.startswith("rae") else 64  # a RAE takes one size only
    photos = ("--dataset", "photos", "--num-images", 2, "--resolution", side, "--batch-size", 1)
    speed = ("--speed-batch", 1, "--speed-repeats", 1)
    assert reconstruction(name, "--random-weights", *photos, *speed, "--out", out) == 0
    (row,) = rows_of(out)
    assert row["weights"] == "random" and row["gate"] == "off" and row["features"] == "digits judge at 32 px"


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (("sd", "nosuch"), "choose from: sd, flux1"),
        (("sd", "--table", "t.tex"), "choose from: md, html, csv"),
        (("sd", "--num-images", 1), "--num-images is 1; give 2 or more"),
        (("sd", "--resolution", 0), "--resolution is 0; give 1 or more"),
        (("sd", "--speed-repeats", -1), "--speed-repeats is -1; give 0 or more"),
        (("sd", "--lpips-heads", "vgg.pth"), "needs the trunk; give --vgg"),
        (("sd", "--vgg", "nosuch.pth"), "no weights at nosuch.pth"),
        (("sd", "--out", "no/rows.jsonl"), "no folder no for --out"),
        (
            ("sd", "--viewer", "v.html", "--viewer-indices", 5000),
            "--viewer-indices names 5000; choose from 0",
        ),
        (("sd", "--judge", "nosuch"), "unknown judge 'nosuch'"),
        (("nosuch", "--random-weights"), "unknown autoencoder 'nosuch'"),
        (("--num-images", 4), "needs AUTOENCODER as its first argument"),
    ],
)
def test_a_fault_comes_before_the_work(
    words: tuple[object, ...],
    part: str,
    capsys: Capture,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert reconstruction(*words) == 2
    complaint = capsys.readouterr().err
    assert part in complaint and complaint.count("\n") == 1, complaint
    assert list(tmp_path.iterdir()) == []
