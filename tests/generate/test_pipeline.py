"""Prompts to images on a tiny random model: what an image depends on, and what it does not."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from PIL import Image
from tests.generate.small import save_flux2

from flowlab.generate.images import write_folder
from flowlab.generate.pipeline import Images, Pipeline
from flowlab.generate.prompts import Prompt
from flowlab.generate.repeat import pipeline_of, repeat

FEW: dict[str, Any] = {"num_steps": 3, "progress": False}


def distance(a: torch.Tensor, b: torch.Tensor) -> float:
    """Mean of the absolute differences, in grey levels."""
    return (a.float() - b.float()).abs().mean().item()


def written(images: Images, folder: Path) -> Path:
    """The first image as a PNG."""
    write_folder(folder, images.pixels[:1], images.facts[:1], {})
    return folder / "00000.png"


# ---- what an image depends on ------------------------------------------------------------------------------


def test_an_image_is_the_same_whatever_the_batch(pipeline: Pipeline, picture: Image.Image) -> None:
    prompts = [
        Prompt(prompt="a red star"),
        Prompt(prompt="image 1 in blue", references=(picture,)),
        Prompt(prompt="image 2 beside image 1", references=(picture, picture.rotate(90, expand=True))),
        Prompt(prompt="another #3366CC ring", seed=9),
    ]
    size: dict[str, Any] = {"width": 64, "height": 48}
    whole = pipeline(prompts, **FEW, **size, num_images=2, batch_size=8)
    single = pipeline(prompts, **FEW, **size, num_images=2, batch_size=1)
    assert (whole.pixels.int() - single.pixels.int()).abs().max() <= 1  # 1e-5, then rounded
    alone = pipeline(prompts[2], **FEW, **size, num_images=2)
    assert (alone.pixels.int() - whole.pixels[4:6].int()).abs().max() <= 1
    assert [one["seed"] for one in whole.facts] == [0, 0, 0, 0, 0, 0, 9, 9]
    assert [len(one["references"]) for one in whole.facts] == [0, 0, 1, 1, 2, 2, 0, 0]


@pytest.mark.parametrize(
    "change",
    [
        {"prompt": "a blue star"},
        {"negative": "a red star"},
        {"seed": 1},
        {"guidance": 1.0},
        {"num_steps": 4},
        {"shift": 1.0},
        {"references": True},
    ],
    ids=lambda change: next(iter(change)),
)
def test_every_setting_counts(change: dict[str, Any], pipeline: Pipeline, picture: Image.Image) -> None:
    size: dict[str, Any] = {"width": 48, "height": 32}
    if "references" in change:
        change = {"references": [picture]}
    settings: dict[str, Any] = {"prompt": "a red star", **FEW, **size}
    assert distance(pipeline(**settings).pixels, pipeline(**{**settings, **change}).pixels) > 0.05


def test_latents_of_a_batch_agree_to_float_rounding(pipeline: Pipeline) -> None:
    from flowlab.backbones.condition import Condition
    from flowlab.generate.flux_sampling import initial_noise, sample

    texts = pipeline.text.encode(["a red star", "a ring", ""]).tokens
    noise = initial_noise([1, 2, 3], [0, 0, 5], (32, 4, 6))
    times = torch.linspace(1, 0, 4, dtype=torch.float64)
    whole = sample(pipeline.model, Condition(texts), Condition(texts.flip(0)), noise, times, scale=3.0)
    one = sample(pipeline.model, Condition(texts[:1]), Condition(texts[2:]), noise[:1], times, scale=3.0)
    torch.testing.assert_close(whole[:1], one, rtol=1e-5, atol=1e-5)


def test_the_schedule_is_in_the_facts(pipeline: Pipeline) -> None:
    facts = pipeline("a star", width=64, height=32, **FEW).facts[0]
    assert facts["schedule"]["name"] == "shift:3.0"
    assert facts["schedule"]["times"] == pytest.approx([1.0, 6 / 7, 0.6, 0.0])
    assert (facts["width"], facts["height"], facts["sampler"]) == (64, 32, "euler")


# ---- from an image -----------------------------------------------------------------------------------------


def test_strength_goes_from_the_image_to_noise(pipeline: Pipeline, picture: Image.Image) -> None:
    from flowlab.core.pixels import to_float, to_uint8
    from flowlab.data.transforms import from_pil

    pixels = from_pil(picture)
    model = pipeline.autoencoder
    with torch.no_grad():
        reconstruction = to_uint8(model.decode(model.latents(to_float(pixels)[None])))
    kept = pipeline("a star", image=picture, strength=0.0, **FEW)
    assert torch.equal(kept.pixels, reconstruction)
    with pytest.warns(UserWarning, match="nothing but the size of the image is used"):
        free = pipeline("a star", image=picture, strength=1.0, **FEW)
    assert torch.equal(free.pixels, pipeline("a star", width=48, height=32, **FEW).pixels)
    some = pipeline("a star", image=picture, strength=0.34, **FEW)
    assert len(some.facts[0]["schedule"]["times"]) == 2
    assert 0 < distance(some.pixels, kept.pixels) < distance(free.pixels, kept.pixels)


def test_a_mask_keeps_what_is_outside(pipeline: Pipeline, picture: Image.Image) -> None:
    from flowlab.data.transforms import from_pil

    mask = Image.new("L", picture.size, 0)
    mask.paste(255, (8, 8, 24, 24))
    pixels = from_pil(picture)
    made = pipeline("a star", image=picture, mask=mask, num_images=2, **FEW).pixels
    inside = torch.zeros(32, 48, dtype=torch.bool)
    inside[8:24, 8:24] = True
    assert torch.equal(made[:, :, ~inside], pixels[None, :, ~inside].expand(2, -1, -1))
    assert distance(made[:, :, inside], pixels[:, inside]) > 1
    free = pipeline("a star", width=48, height=32, **FEW).pixels
    assert distance(made[:1, :, inside], free[:, :, inside]) > 0.05, (
        "the surroundings are seen while sampling"
    )
    bare = pipeline("a star", image=picture, mask=mask, keep_outside=False, **FEW).pixels
    assert not torch.equal(bare[0, :, ~inside], pixels[:, ~inside])


# ---- again -------------------------------------------------------------------------------------------------


def test_an_image_is_made_again_to_the_bit(pipeline: Pipeline, picture: Image.Image, tmp_path: Path) -> None:
    picture.save(tmp_path / "given.png")
    images = pipeline(
        ["image 1 with a star", "a ring on image 1"],
        references=[tmp_path / "given.png"],
        negative="blue",
        seed=5,
        num_images=2,
        guidance=2.0,
        shift=2.5,
        **FEW,
    )
    for row in (0, 3):
        one = Images(pixels=images.pixels[row:], facts=images.facts[row:])
        again = repeat(written(one, tmp_path / f"out{row}"), progress=False)
        assert torch.equal(again.pixels[0], images.pixels[row]) and again.facts[0]["seed"] == 5


def test_an_inpainting_is_made_again(pipeline: Pipeline, picture: Image.Image, tmp_path: Path) -> None:
    picture.save(tmp_path / "given.png")
    Image.new("L", picture.size, 255).save(tmp_path / "mask.png")
    given: dict[str, Any] = {"image": tmp_path / "given.png", "mask": tmp_path / "mask.png", "strength": 0.7}
    images = pipeline("a star", **given, **FEW)
    assert torch.equal(repeat(written(images, tmp_path / "out"), progress=False).pixels, images.pixels)


def test_nothing_is_made_again_from_what_changed(picture: Image.Image, tmp_path: Path) -> None:
    path = save_flux2(tmp_path / "model.safetensors")
    picture.save(tmp_path / "given.png")
    pipeline = Pipeline.from_pretrained(path)
    memory = written(pipeline("a star", references=[picture], **FEW), tmp_path / "memory")
    with pytest.raises(ValueError, match="was given from memory"):
        repeat(memory)
    png = written(pipeline("a star", references=[tmp_path / "given.png"], **FEW), tmp_path / "out")
    picture.rotate(180).save(tmp_path / "given.png")
    with pytest.raises(ValueError, match=r"reference .*given\.png changed since"):
        repeat(png)
    save_flux2(path, seed=1)
    with pytest.raises(ValueError, match="the image was made with"):
        repeat(png)


def test_a_cpu_is_everywhere_and_a_gpu_is_not(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere = {**pipeline.facts, "precision": {**pipeline.facts["precision"], "device": "cuda:0"}}
    monkeypatch.setattr("flowlab.generate.repeat.default_device", lambda: torch.device("cpu"))
    with pytest.raises(ValueError, match="was made on cuda:0, this is cpu"):
        pipeline_of(elsewhere)
    monkeypatch.setattr("flowlab.generate.repeat.default_device", lambda: torch.device("cuda"))
    assert pipeline_of(pipeline.facts).device.type == "cpu"


def test_a_rewritten_prompt_is_kept_and_made_again(
    pipeline: Pipeline, picture: Image.Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Writer:
        asked: ClassVar[list[tuple[str, int]]] = []

        def rewrite(self, prompts: list[str], references: list[list[Image.Image]]) -> list[str]:
            self.asked.append((prompts[0], len(references[0])))
            return [f"{prompts[0]}, in the soft light of the evening"]

    monkeypatch.setattr("flowlab.text.upsampling.load_upsampler", lambda name, **levers: Writer())
    size: dict[str, Any] = {"width": 48, "height": 32}
    images = pipeline("a star", upsample="writer", num_images=2, **size, **FEW)
    assert Writer.asked == [("a star", 0)], "once a prompt, not once an image"
    facts = images.facts[0]
    assert (facts["prompt"], facts["rewritten"]) == ("a star", "a star, in the soft light of the evening")
    direct = pipeline("a star, in the soft light of the evening", num_images=2, **size, **FEW)
    assert torch.equal(images.pixels, direct.pixels)
    again = repeat(written(images, tmp_path / "out"), progress=False)
    assert torch.equal(again.pixels, images.pixels[:1]) and len(Writer.asked) == 1
    pipeline("image 1 in blue", upsample="writer", references=[picture], **FEW)
    assert Writer.asked[1:] == [("image 1 in blue", 1)]


# ---- memory ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "lever", [{"offload": "blocks"}, {"tiles": True}], ids=lambda lever: next(iter(lever))
)
def test_levers_of_memory_change_no_image(
    lever: dict[str, Any], pipeline: Pipeline, model_file: Path
) -> None:
    saving = Pipeline.from_pretrained(model_file, **lever)
    a, b = (one("a star", **FEW).pixels for one in (pipeline, saving))
    assert (a.int() - b.int()).abs().max() <= 1


def test_bfloat16_stays_close(pipeline: Pipeline, model_file: Path) -> None:
    narrow = Pipeline.from_pretrained(model_file, dtype="bfloat16")
    images = narrow("a star", **FEW)
    assert images.facts[0]["precision"]["weights"] == "bfloat16"
    assert distance(images.pixels, pipeline("a star", **FEW).pixels) < 8


# ---- bad input ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "part"),
    [
        ({"num_images": 0}, "num_images is 0"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"num_steps": 0}, "num_steps is 0"),
        ({"guidance": -1}, "guidance is -1"),
        ({"guidance": 1, "negative": "blue"}, "does nothing at guidance 1"),
        ({"width": 60}, "60 x 64; sides are multiples of 8, nearest 64 x 64"),
        ({"width": 16}, "sides of 32 pixels or more"),
        ({"width": 0}, "the image asked for is 0 x 64"),
        ({"seed": 1 << 63}, "the seed is 9223372036854775808; give a whole number of 64 bits"),
        ({"width": 512, "height": 512}, "makes at most 16,384"),
        ({"width": 320, "height": 32}, "at most 8:1"),
        ({"strength": 0.5}, "there is no image to keep"),
    ],
    ids=str,
)
def test_bad_settings_are_named(settings: dict[str, Any], part: str, pipeline: Pipeline) -> None:
    with pytest.raises(ValueError, match="(?s)" + part.replace("(", r"\(")):
        pipeline("a star", **{"progress": False, **settings})


def test_bad_images_are_named(pipeline: Pipeline, picture: Image.Image) -> None:
    small, black = Image.new("L", (40, 32), 255), Image.new("L", picture.size)
    cases: tuple[tuple[dict[str, Any], str], ...] = (
        ({"mask": black}, "a mask was given without an image"),
        ({"image": picture, "mask": small}, "the mask is 40 x 32, the image 48 x 32"),
        ({"image": picture, "mask": black}, "black everywhere"),
        ({"image": picture, "strength": 1.5}, "strength is 1.5"),
        ({"image": picture, "width": 64}, "the image asked for is 64 x 32, the one given 48 x 32"),
        ({"references": [picture] * 11}, "11 reference images were given"),
    )
    for settings, part in cases:
        with pytest.raises(ValueError, match=part):
            pipeline("a star", **FEW, **settings)
    with pytest.raises(ValueError, match="image 3, but 2 references"):
        pipeline("image 3 in red", references=[picture, picture], **FEW)
    with pytest.raises(ValueError, match="one call makes one size"):
        pipeline(["a star", Prompt(prompt="a ring", width=96)], **FEW)


def test_a_long_prompt_is_cut_and_says_so(pipeline: Pipeline) -> None:
    with pytest.warns(UserWarning, match="6 of 70 tokens"):
        facts = pipeline("star " * 70, **FEW).facts[0]
    assert facts["tokens"] == {"prompt": 70, "cut": 6}
