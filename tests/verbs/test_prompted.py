"""`flowlab generate` with prompts, on a tiny random model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from tests.generate.small import save_flux2
from tests.verbs.command import flowlab

from flowlab import autoencoders, backbones, text
from flowlab.core.files import read_json
from flowlab.generate import images, loading
from flowlab.generate.images import read_facts

Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_flux2(tmp_path_factory.mktemp("flux") / "model.safetensors")


@pytest.fixture
def star(tmp_path: Path) -> Path:
    Image.linear_gradient("L").resize((48, 32)).convert("RGB").save(tmp_path / "star.png")
    return tmp_path / "star.png"


def bits(path: Path) -> bytes:
    return Image.open(path).tobytes()


def test_prompts_become_a_folder(model: Path, tmp_path: Path, capsys: Capture) -> None:
    words = (
        "a red star",
        '{"shape": "ring"}',
        "--model",
        model,
        "--steps",
        2,
        "--num-images",
        2,
        "--seed",
        4,
    )
    assert flowlab("generate", *words, "--negative", "blue", "--out", tmp_path / "out") == 0
    manifest = read_json(tmp_path / "out" / "manifest.json")
    prompts = ["a red star", "a red star", '{"shape": "ring"}', '{"shape": "ring"}']
    assert [image["prompt"] for image in manifest["images"]] == prompts
    assert [image["index"] for image in manifest["images"]] == [0, 1, 0, 1]
    assert manifest["negative"] == "blue" and manifest["seed"] == 4
    facts = read_facts(tmp_path / "out" / "00003.png")
    assert facts["model"]["file"] == str(model) and facts["model"]["identity"] and facts["index"] == 1
    printed = capsys.readouterr()
    assert "4 images, 64 x 64, 2 steps, guidance 4.0 (cfg), flux2_scenes" in printed.out
    assert "2/2" in printed.err, "progress is on stderr"


def test_a_stopped_run_goes_on_where_it_was(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    words = ("generate", "a star", "a ring", "--model", model, "--steps", 2, "--num-images", 2)
    whole, out = tmp_path / "whole", tmp_path / "out"
    assert flowlab(*words, "--batch-size", 1, "--out", whole) == 0
    write = images.write_image

    def stopped(folder: Path, number: int, *rest: Any) -> None:
        if number == 2:
            raise KeyboardInterrupt
        write(folder, number, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(images, "write_image", stopped)
        assert flowlab(*words, "--batch-size", 1, "--out", out) == 130
    assert "were kept, and the same command with --out FOLDER makes the rest" in capsys.readouterr().err
    assert sorted(path.name for path in out.iterdir()) == ["00000.png", "00001.png"]
    (out / ".00002.png.1.part").write_bytes(b"half of one")  # as a kill may leave it
    before = (out / "00001.png").stat().st_mtime_ns
    capsys.readouterr()
    assert flowlab(*words, "--batch-size", 1, "--out", out) == 0
    printed = capsys.readouterr()
    assert "2 images are there already" in printed.out and "4/4" in printed.err, "two images of two steps"
    assert (out / "00001.png").stat().st_mtime_ns == before
    assert read_json(out / "manifest.json") == read_json(whole / "manifest.json")
    assert [bits(out / f"0000{i}.png") for i in range(4)] == [bits(whole / f"0000{i}.png") for i in range(4)]


def test_a_run_does_not_go_on_in_another_ones_folder(model: Path, tmp_path: Path, capsys: Capture) -> None:
    words = ("--model", model, "--steps", 1, "--out", tmp_path / "out")
    assert flowlab("generate", "a star", "a ring", *words) == 0
    assert flowlab("generate", "a star", "a ring", *words) == 2, "it is finished"
    assert "exists and is not empty" in capsys.readouterr().err
    (tmp_path / "out" / "manifest.json").unlink()
    assert flowlab("generate", "a star", "a heart", *words) == 2
    assert "00001.png is of another run (its prompt differs)" in capsys.readouterr().err
    assert flowlab("generate", "a star", *words) == 2
    assert "00001.png is of another run (its number differs)" in capsys.readouterr().err


def test_from_repeats_an_image_to_the_bit(model: Path, star: Path, tmp_path: Path) -> None:
    words = ("image 1 with a ring", "--model", model, "--references", star, "--num-images", 3, "--steps", 3)
    assert flowlab("generate", *words, "--out", tmp_path / "a") == 0
    assert flowlab("generate", "--from", tmp_path / "a" / "00002.png", "--out", tmp_path / "b") == 0
    assert bits(tmp_path / "b" / "00000.png") == bits(tmp_path / "a" / "00002.png")
    again = read_facts(tmp_path / "b" / "00000.png")
    assert {**again, "file": ""} == {**read_facts(tmp_path / "a" / "00002.png"), "file": ""}


def test_json_lines_mix_sizes_and_references(
    model: Path, star: Path, tmp_path: Path, capsys: Capture
) -> None:
    lines: list[dict[str, Any]] = [
        {"prompt": "a ring", "width": 32, "seed": 7},
        {"prompt": "image 1 in blue", "references": ["star.png"]},
        {"prompt": "a ring", "width": 32, "seed": 7, "negative": "blue"},
        {"prompt": "image 1 in red", "references": ["star.png"]},
    ]
    (tmp_path / "p.jsonl").write_text("\n".join(map(json.dumps, lines)))
    words = ("--prompts", tmp_path / "p.jsonl", "--model", model, "--steps", 2, "--out", tmp_path / "out")
    assert flowlab("generate", "a star", *words) == 0
    images = read_json(tmp_path / "out" / "manifest.json")["images"]
    sizes = [(64, 64), (32, 64), (48, 32), (32, 64), (48, 32)]
    assert [(image["width"], image["height"]) for image in images] == sizes
    assert [image["seed"] for image in images] == [0, 7, 0, 7, 0]
    assert [image["batch"]["size"] for image in images] == [1, 2, 2, 2, 2], "those of a size share a batch"
    assert bits(tmp_path / "out" / "00001.png") != bits(tmp_path / "out" / "00003.png")


def test_a_dry_run_loads_nothing(
    model: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("something was loaded")

    for module in (backbones, autoencoders, text):
        monkeypatch.setattr(module, "load", refuse)
    monkeypatch.setattr(torch, "load", refuse)
    words = ("generate", "a red star", "--model", model, "--num-images", 2, "--out", tmp_path / "out")
    assert flowlab(*words, "--dry-run") == 0
    out = capsys.readouterr().out
    for part in (
        "2 images, 64 x 64, 30 steps",
        "text 64, image 64, references 0",
        "memory    about",
        "time ",
    ):
        assert part in out
    assert not (tmp_path / "out").exists()
    with pytest.raises(AssertionError, match="something was loaded"):
        flowlab(*words)


def test_what_happened_to_images_and_prompts_is_said(model: Path, tmp_path: Path, capsys: Capture) -> None:
    image = Image.new("RGBA", (100, 100), (255, 0, 0, 128))
    image.save(tmp_path / "a.png")
    words = ("star " * 70, "--model", model, "--references", tmp_path / "a.png", "--steps", 1)
    assert flowlab("generate", *words, "--out", tmp_path / "out") == 0
    out = capsys.readouterr().out
    assert f"{tmp_path / 'a.png'}: transparency laid on white, shrunk from 100 x 100 to 64 x 64" in out
    assert "6 of 70 tokens are cut, the encoder reads 64" in out


def test_an_image_is_changed_inside_a_mask(model: Path, star: Path, tmp_path: Path) -> None:
    mask = Image.new("L", (48, 32))
    mask.paste(255, (0, 0, 16, 32))
    mask.save(tmp_path / "mask.png")
    words = ("a ring", "--model", model, "--image", star, "--mask", tmp_path / "mask.png", "--steps", 2)
    assert flowlab("generate", *words, "--out", tmp_path / "out") == 0
    made, was = Image.open(tmp_path / "out" / "00000.png"), Image.open(star)
    right = (16, 0, 48, 32)
    assert made.crop(right).tobytes() == was.crop(right).tobytes() and made.tobytes() != was.tobytes()


def test_without_out_every_run_has_its_folder(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        assert flowlab("generate", "a ring", "--model", model, "--steps", 1) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["samples", "samples_2"]


@pytest.mark.parametrize(
    ("words", "part"),
    [
        ((), "there is no prompt; run: flowlab generate"),
        (("a ring", "--classes", 3), "--classes does nothing here: prompts have none"),
        (("a ring", "--model", "nosuch"), "there is no model nosuch; give its path, or a shipped name"),
        (("a ring", "--width", 60), "sides are multiples of 8, nearest 64 x 64"),
        (("a ring", "--steps", 0), "num_steps is 0"),
        (("a ring", "--batch-size", 0), "--batch-size is 0"),
        (("a ring", "--references", *["star.png"] * 11), "11 reference images were given"),
        (("image 2", "--references", "star.png"), "image 2, but 1 references"),
        (("a ring", "--mask", "star.png"), "a mask was given without an image"),
        (("a ring", "--precision", "int4"), "unknown precision 'int4'; choose from: float32, bfloat16"),
        (("a ring", "--offload", "layers"), "unknown offload 'layers'; choose from: none, blocks"),
        (("a ring", "--variant", "flux2_dev"), "has no guidance embedding, unlike flux2_dev"),
        (("a ring", "--lora", "nosuch.safetensors:0.5"), "nosuch.safetensors"),
        (("--from", "star.png"), "star.png carries no facts"),
        (("a ring", "--from", "star.png"), "leave 'a ring' out"),
    ],
    ids=lambda item: " ".join(map(str, item))[:40] if isinstance(item, tuple) else "",
)
def test_faults_are_one_line(
    words: tuple[Any, ...],
    part: str,
    model: Path,
    star: Path,
    tmp_path: Path,
    capsys: Capture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(loading, "WEIGHTS", tmp_path)
    with_model = words if "--model" in words or "--from" in words else (*words, "--model", model)
    assert flowlab("generate", *with_model) == 2
    complaint = capsys.readouterr().err
    assert complaint.startswith("error: ") and complaint.count("\n") == 1 and part in complaint, complaint
    assert [path.name for path in tmp_path.iterdir()] == ["star.png"]


def test_either_kind_of_model_in_the_place_of_the_other_is_named(
    model: Path, toys: Path, capsys: Capture
) -> None:
    assert flowlab("generate", model) == 2
    assert 'reads prompts, not classes; run: flowlab generate "a red star" --model' in capsys.readouterr().err
    assert flowlab("generate", "a ring", "--model", toys / "model.safetensors") == 2
    assert "family 'sit', which reads no prompts" in capsys.readouterr().err
    assert flowlab("generate", toys / "model.safetensors", "--negative", "blue") == 2
    assert "--negative does nothing here" in capsys.readouterr().err


def test_a_language_model_is_loaded_once_for_all_prompts(
    model: Path, star: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Writer:
        def rewrite(self, prompts: list[str], references: list[list[Image.Image]]) -> list[str]:
            return [f"{prompts[0]} and {len(references[0])}"]

    loaded: list[Any] = []

    def load(name: str, **options: Any) -> Writer:
        loaded.append((name, options))
        return Writer()

    monkeypatch.setattr("flowlab.text.upsampling.load_upsampler", load)
    lines = [{"prompt": "image 1", "references": ["star.png"]}, {"prompt": "a ring"}, {"prompt": "a star"}]
    (tmp_path / "p.jsonl").write_text("\n".join(map(json.dumps, lines)))
    words = ("--prompts", tmp_path / "p.jsonl", "--model", model, "--steps", 1, "--out", tmp_path / "out")
    assert flowlab("generate", *words, "--upsample", "writer", "--offload", "blocks") == 0
    images = read_json(tmp_path / "out" / "manifest.json")["images"]
    assert [image["rewritten"] for image in images] == ["image 1 and 1", "a ring and 0", "a star and 0"]
    assert loaded == [("writer", {"device": torch.device("cpu")})]
