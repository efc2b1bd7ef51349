"""The text recipe on scenes and on folders: batches, resume, accumulation, dropout, guidance, refusals."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image

from flowlab import autoencoders, backbones, text
from flowlab.autoencoders.base import Moments
from flowlab.backbones.flux1 import Flux1Spec
from flowlab.backbones.flux_sizes import FLUX_SIZES
from flowlab.core.config import from_dict, to_dict
from flowlab.core.pixels import to_float
from flowlab.core.weights import read_weights
from flowlab.data.batch import Batch, Window
from flowlab.data.captioned import LISTING
from flowlab.data.scenes import boxes, scene_edits, scenes
from flowlab.text.base import TextFeatures
from flowlab.text.embedded import EmbeddedText
from flowlab.train import text_data, text_flow
from flowlab.train.loop import LoopConfig, update
from flowlab.train.run import RECIPES, start
from flowlab.train.state import Randomness
from flowlab.train.text_data import BucketsConfig
from flowlab.train.text_flow import TEXT_FLOW, TextFlowConfig
from flowlab.train.text_scenes import LONE_TOKENS, ScenesConfig

SHORT = LoopConfig(batch_size=4, num_steps=6, save_steps=(3,))
FEW = ScenesConfig(text=8, json=4, one_reference=8, two_references=8)


@pytest.fixture(autouse=True)
def small_sizes(monkeypatch):
    """Models that differ from flux2_tiny in one field each; previews of two steps."""
    tiny = FLUX_SIZES["flux2_tiny"]
    monkeypatch.setattr(text_flow, "PREVIEW_STEPS", 2)
    monkeypatch.setitem(FLUX_SIZES, "tiny_guided", replace(tiny, guidance=True))
    monkeypatch.setitem(FLUX_SIZES, "tiny_narrow", replace(tiny, text_width=96))
    monkeypatch.setitem(FLUX_SIZES, "tiny_sixteen", replace(tiny, channels=16))


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    """Encoded once for the whole file."""
    return tmp_path_factory.mktemp("cache")


def config(cache: Path, **changes: Any) -> TextFlowConfig:
    base = TextFlowConfig(
        autoencoder="flux2", scenes=FEW, cache=str(cache), backbone="flux2_tiny", loop=SHORT, gate=False
    )
    return replace(base, **changes)


def steps(settings: TextFlowConfig, folder: Path, until: int | None = None):
    state, records = start(settings, folder, until)
    return state, list(records)


def fresh(settings: TextFlowConfig):
    data = TEXT_FLOW.dataset(settings)
    return data, TEXT_FLOW.setup(settings, data)


# ---- data --------------------------------------------------------------------------------------------------


def test_scenes_are_encoded_with_their_prompts_and_references(cache):
    data = text_flow.dataset(config(cache))
    model = autoencoders.load("flux2")
    assert len(data) == 28 and data.names == ("text", "one reference", "two references")
    assert data.groups.tolist() == [0] * 12 + [1] * 8 + [2] * 8

    def means(pixels):
        with torch.no_grad():
            return model.encode(to_float(pixels)).mean

    words = scenes("train", num_images=12, resolution=32).read(torch.tensor([3, 1]))
    batch = data.read(torch.tensor([3, 1]))
    assert batch.moments is not None and batch.moments[1] is None and batch.references is None
    assert batch.text == words.text
    torch.testing.assert_close(batch.moments[0], means(words.pixels), atol=2e-3, rtol=1e-3)
    as_json = data.read(torch.tensor([8])).text
    assert as_json is not None and json.loads(as_json[0])["objects"]

    edits = scene_edits("train", num_references=2, num_images=8, resolution=32)
    pictures, batch = edits.references(torch.tensor([5])), data.read(torch.tensor([25]))
    assert batch.references is not None and batch.text == edits.read(torch.tensor([5])).text
    torch.testing.assert_close(torch.stack(batch.references[0]), means(pictures[0]), atol=2e-3, rtol=1e-3)


def test_dense_captions_are_of_the_same_pictures(cache):
    plain, dense = (text_flow.dataset(config(cache, scenes=replace(FEW, dense=count))) for count in (0, 10))
    assert dense.caches[0].folder == plain.caches[0].folder and len(dense) == len(plain) + 10
    assert dense.prompts[:12] == plain.prompts[:12] and dense.groups.tolist() == [0] * 22 + [1] * 8 + [2] * 8
    twice = dense.read(torch.tensor([3, 15]))
    assert twice.moments is not None and torch.equal(*twice.moments[0])
    said = scenes("train", num_images=12, resolution=32, style="dense").prompts(torch.tensor([3]))
    assert twice.text == (dense.prompts[3], said[0].text)


def test_a_kind_of_none_keeps_the_other_caches(cache):
    """The first rung of the ladder reads what the last one does."""
    data = text_flow.dataset(config(cache, scenes=replace(FEW, one_reference=0, two_references=0)))
    whole = text_flow.dataset(config(cache))
    assert data.caches[0].folder == whole.caches[0].folder and len(data.caches) == 1
    assert data.identity != whole.identity


def test_edits_are_listed_as_often_as_asked(cache):
    once, thrice = (
        text_flow.dataset(config(cache, scenes=replace(FEW, times_edits=times))) for times in (1, 3)
    )
    lone = text_flow.dataset(config(cache, scenes=replace(LONE, times_lone=2)))
    assert lone.prompts[::2] == lone.prompts[1::2] and len(lone) == 128
    assert thrice.prompts == once.prompts[:12] + [prompt for prompt in once.prompts[12:] for _ in range(3)]
    assert thrice.caches[1].folder == once.caches[1].folder and thrice.identity != once.identity
    assert FEW.at_most(4) == replace(FEW, times_edits=3).at_most(4)


LONE = ScenesConfig(text=0, json=0, one_reference=0, two_references=0, lone=64)


def test_windows_hold_the_whole_object_anywhere_in_them(cache):
    data = text_flow.dataset(config(cache, scenes=replace(LONE, text=8)))
    assert data.names == ("text", "lone 2 x 2", "lone 3 x 3") and len(data) == 8 + 64
    drawn, every = scenes("train", num_images=64, resolution=32, num_objects=1), torch.arange(64)
    said = [prompt.text for prompt in drawn.prompts(every)]
    box = dict(zip(said, boxes(drawn.table(every))[:, 0] * 4, strict=True))
    ends = set()
    for group, side in ((1, 2), (2, 3)):
        batch = data.read(torch.nonzero(data.groups == group).flatten())
        assert batch.windows is not None and batch.text is not None
        assert {window.side for window in batch.windows} == {side}
        for prompt, window in zip(batch.text, batch.windows, strict=True):
            left, top, right, bottom = box[prompt].tolist()
            for origin, first, last in ((window.row, top, bottom), (window.column, left, right)):
                lowest, highest = max(math.ceil(last - side), 0), min(math.floor(first), 4 - side)
                assert lowest <= origin <= highest
                ends |= {origin - lowest, origin - highest} if lowest < highest else set()
    assert ends == {-1, 0, 1}  # where a window may lie in two places, it is now in the one, now in the other


def test_of_a_window_its_part_of_the_latent_is_learnt_at_its_place(cache, tmp_path):
    settings = config(cache, scenes=LONE, caption_dropout=0.0)
    data, state = fresh(settings)
    shake(state.modules["model"])
    batch = data.read(torch.arange(4))  # of one group
    assert batch.windows is not None and batch.moments is not None and batch.text is not None
    loss, (row, column, side), mean = loss_of(state, batch), batch.windows[0], batch.moments[0]
    token = mean.shape[-1] // 4  # a side of it, in cells of the moments
    within = torch.zeros(mean.shape[-2:], dtype=torch.bool)
    within[token * row : token * (row + side), token * column : token * (column + side)] = True
    inside, outside = mean.clone(), mean.clone()
    inside[0, :, within] += 1
    outside[0, :, ~within] += 1
    changes = {
        "inside": replace(batch, moments=(inside, None)),
        "place": replace(batch, windows=(Window((row + 1) % 2, column, side), *batch.windows[1:])),
        "caption": replace(batch, text=("", *batch.text[1:])),
    }
    for name, other in changes.items():
        assert (loss_of(state, other) != loss).tolist() == [True, False, False, False], name
    assert torch.equal(loss_of(state, replace(batch, moments=(outside, None))), loss)
    _, records = steps(settings, tmp_path / "run")
    assert len(records) == 6 and all(v.isfinite() for record in records for v in record.scalars.values())


def test_captions_of_windows_stay_whole(cache):
    data = text_flow.dataset(config(cache, scenes=LONE))
    assert max(EmbeddedText().num_tokens(prompt) for prompt in data.prompts) <= LONE_TOKENS
    many = scenes("train", num_images=4000, num_objects=1).prompts(torch.arange(4000))
    assert max(EmbeddedText().num_tokens(prompt.text) for prompt in many) == LONE_TOKENS


def test_the_gate_judges_lone_objects_by_ordinary_scenes(cache, tmp_path, monkeypatch):
    seen = []

    def check(model, images, enabled):
        seen.append(torch.cat(list(images)))
        return SimpleNamespace(outcome="passed")

    monkeypatch.setattr(text_data.gate, "check", check)
    text_flow.dataset(config(tmp_path, scenes=LONE))
    ordinary = scenes("train", num_images=64, resolution=32)
    pixels = ordinary.read(torch.arange(64)).pixels
    assert len(seen) == 1 and pixels is not None and torch.equal(seen[0], pixels)


def folder_of_pictures(root: Path) -> Path:
    entries = []
    for i in range(8):
        size = (64, 32) if i % 2 else (40, 40)
        Image.new("RGB", size, (30 * i, 200, 90)).save(root / f"{i}.png")
        references = [f"{k}.png" for k in range(i % 3)]  # none, one or two, of both shapes
        entries.append({"file": f"{i}.png", "text": f"picture {i}", "references": references})
    (root / LISTING).write_text("\n".join(json.dumps(entry) for entry in entries))
    return root


def test_a_folder_with_mixed_references_trains(tmp_path):
    root = folder_of_pictures(tmp_path)
    settings = config(
        tmp_path / "cache",
        dataset=str(root),
        buckets=BucketsConfig(max_pixels=32 * 32, step=8, max_aspect=2.0),
    )
    with pytest.warns(UserWarning, match=r"of \d+ groups are empty: 40x24"):
        state, records = steps(settings, tmp_path / "run")
    assert len(records) == 6 and all(v.isfinite() for record in records for v in record.scalars.values())
    sheets = TEXT_FLOW.preview(state)
    assert {sheet.shape[1:] for sheet in sheets.values()} == {(3, 32, 32), (3, 24, 40)}


def test_a_step_that_does_not_fit_the_stride_is_refused(tmp_path):
    (tmp_path / "a").mkdir()
    root = folder_of_pictures(tmp_path / "a")
    with pytest.raises(
        ValueError, match=r"buckets.step is 12; give a multiple of the autoencoder's stride 8"
    ):
        TEXT_FLOW.dataset(config(tmp_path, dataset=str(root), buckets=BucketsConfig(step=12)))


# ---- recipe ------------------------------------------------------------------------------------------------


def test_resume_equals_an_uninterrupted_run_to_the_bit(cache, tmp_path):
    whole, records = steps(config(cache), tmp_path / "whole")
    steps(config(cache), tmp_path / "parts", until=3)
    resumed, rest = steps(config(cache), tmp_path / "parts")
    assert [record.step for record in rest] == [4, 5, 6]
    assert [float(r.scalars["flow"]) for r in rest] == [float(r.scalars["flow"]) for r in records[3:]]
    for once, twice in (
        (whole.modules["model"], resumed.modules["model"]),
        (whole.emas["model"].module, resumed.emas["model"].module),
    ):
        assert all(torch.equal(a, b) for a, b in zip(once.parameters(), twice.parameters(), strict=True))


@pytest.mark.parametrize(("kinds", "rows"), [(FEW, (20, 24)), (LONE, (0, 4))])
def test_micro_batches_give_the_gradient_of_the_whole(cache, kinds, rows):
    found = []
    for micro in (0, 2):
        settings = config(cache, scenes=kinds, loop=replace(SHORT, micro_batch_size=micro))
        data, state = fresh(settings)
        shake(state.modules["model"])
        scalars = update(TEXT_FLOW, state, data.read(torch.arange(*rows)), settings.loop, trouble(state))
        found.append((scalars, [p.detach().clone() for p in state.modules["model"].parameters()]))
    torch.testing.assert_close(found[0][0]["gradient_norm/flow"], found[1][0]["gradient_norm/flow"])
    torch.testing.assert_close(found[0][0]["flow"], found[1][0]["flow"])


def trouble(state) -> dict[str, torch.Tensor]:
    return {name: torch.zeros((), dtype=torch.int64) for name in state.optimisers}


def shake(model: torch.nn.Module) -> None:
    """A fresh model answers 0 whatever it is told; this one listens."""
    torch.manual_seed(1)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter.data, std=parameter.shape[-1] ** -0.5)


def loss_of(state, batch: Batch) -> torch.Tensor:
    (objective,) = TEXT_FLOW.objectives(state, batch, Randomness(0, torch.arange(len(batch))))
    return objective.loss.detach()


def test_the_model_hears_text_and_every_reference(cache):
    data, state = fresh(config(cache, caption_dropout=0.0))
    shake(state.modules["model"])
    batch = data.read(torch.arange(20, 24))
    assert batch.references is not None and batch.text is not None
    loss = loss_of(state, batch)
    others = (
        replace(batch, text=("", *batch.text[1:])),
        replace(batch, references=(batch.references[1], *batch.references[1:])),
        replace(batch, references=(batch.references[0][::-1], *batch.references[1:])),
    )
    for other in others:
        changed = loss_of(state, other) != loss
        assert changed.tolist() == [True, False, False, False]


def test_channels_weigh_as_much_as_they_move_the_pixels(cache):
    (_, plain), (data, weighed) = (fresh(config(cache, channel_power=power)) for power in (0.0, 0.5))
    weights = weighed.fixed.channel_weights
    assert plain.fixed.channel_weights is None and weights.shape == (32,)
    torch.testing.assert_close(weights.mean(), torch.tensor(1.0))
    assert weights.max() > 2 * weights.min()
    for state in (plain, weighed):
        shake(state.modules["model"])
    batch = data.read(torch.arange(4))
    assert not torch.allclose(loss_of(plain, batch), loss_of(weighed, batch))


def test_dropped_captions_are_empty_and_keep_their_references(cache):
    data, state = fresh(config(cache, caption_dropout=0.999999))
    shake(state.modules["model"])
    batch = data.read(torch.arange(20, 24))
    assert batch.references is not None
    torch.testing.assert_close(loss_of(state, batch), loss_of(state, replace(batch, text=("",) * 4)))
    other = replace(batch, references=batch.references[::-1])
    assert (loss_of(state, batch) != loss_of(state, other)).all()


def test_guidance_is_told_to_models_that_have_it_and_never_to_others(cache):
    settings = config(cache, backbone="tiny_guided", guidance_range=(1.0, 5.0))
    data, state = fresh(settings)
    shake(state.modules["model"])
    (objective,) = TEXT_FLOW.objectives(state, data.read(torch.arange(4)), Randomness(0, torch.arange(4)))
    objective.loss.mean().backward()
    gradients = {n: p.grad for n, p in state.modules["model"].named_parameters()}
    assert all(g is not None and g.isfinite().all() for g in gradients.values())
    assert any("guidance_in" in name for name in gradients)
    _, constant = fresh(replace(settings, guidance_range=(1.0, 1.0)))
    constant.modules["model"].load_state_dict(state.modules["model"].state_dict())
    batch = data.read(torch.arange(4))
    assert (loss_of(state, batch) != loss_of(constant, batch)).any()


def test_bfloat16_is_close_and_keeps_float32_weights(cache):
    losses = []
    for precision in ("float32", "bfloat16"):
        data, state = fresh(config(cache, precision=precision))
        shake(state.modules["model"])
        losses.append(loss_of(state, data.read(torch.arange(4))))
        assert {p.dtype for p in state.modules["model"].parameters()} == {torch.float32}
    assert losses[0].dtype == losses[1].dtype == torch.float32 and (losses[0] != losses[1]).any()
    torch.testing.assert_close(losses[0], losses[1], rtol=0.05, atol=0.05)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of torch's compiler itself
def test_compiled_blocks_compute_the_same(cache, tmp_path, monkeypatch):
    """Through the compiler's front end; its code generator needs a C++ compiler and is not ours to test."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    loop = replace(SHORT, num_steps=3, save_steps=())
    plain, _ = steps(config(cache, loop=loop), tmp_path / "plain")
    compiled, _ = steps(config(cache, loop=loop, compile_blocks=True), tmp_path / "compiled")
    model: Any = compiled.modules["model"]
    assert model.double_blocks[0]._compiled_call_impl is not None
    for name, value in plain.modules["model"].state_dict().items():
        torch.testing.assert_close(compiled.modules["model"].state_dict()[name], value, rtol=1e-4, atol=1e-6)
    assert plain.emas["model"].module.state_dict().keys() == compiled.emas["model"].module.state_dict().keys()


def test_export_starts_the_next_rung_and_names_its_parts(cache, tmp_path):
    text_only = replace(FEW, one_reference=0, two_references=0)
    state, _ = steps(config(cache, scenes=text_only, loop=replace(SHORT, num_steps=2)), tmp_path / "first")
    file = TEXT_FLOW.export(state, tmp_path)
    _, metadata = read_weights(file)
    assert metadata["autoencoder"] == "flux2" and metadata["text"] == "embedded" and metadata["gate"] == "off"
    assert metadata["autoencoder_identity"] == state.fixed.autoencoder.identity and "variant" not in metadata
    saved = backbones.load(file).state_dict()
    _, second = fresh(config(cache, init=str(file)))
    own, ema = second.modules["model"].state_dict(), state.emas["model"].module.state_dict()
    assert all(torch.equal(own[name], ema[name]) and torch.equal(saved[name], ema[name]) for name in ema)
    with pytest.raises(ValueError, match="is no tiny_guided, it has guidance False and not True"):
        fresh(config(cache, init=str(file), backbone="tiny_guided"))


def test_preview_of_a_window_stands_at_its_place(cache):
    """As the model would draw it there, and not in the corner."""
    _, state = fresh(config(cache, scenes=LONE, loop=replace(SHORT, seed=3)))
    shake(state.emas["model"].module)
    name, batch = next((n, b) for n, b in state.fixed.previews.items() if max(w.row for w in b.windows) > 0)
    side = batch.windows[0].side
    assert TEXT_FLOW.preview(state)[name].shape == (2 * len(batch), 3, 8 * side, 8 * side)
    drawn = text_flow._sampled(state, batch)
    corner = replace(batch, windows=tuple(Window(0, 0, side) for _ in batch.windows))
    same = (drawn == text_flow._sampled(state, corner)).flatten(1).all(1).tolist()
    assert same == [window[:2] == (0, 0) for window in batch.windows]


def test_preview_lays_references_target_and_sample_side_by_side(cache):
    _, state = fresh(config(cache))
    sheets = TEXT_FLOW.preview(state)
    shapes = {name: tuple(sheet.shape) for name, sheet in sheets.items()}
    assert shapes == {
        "text": (2 * 12, 3, 32, 32),
        "one reference": (4 * 8, 3, 32, 32),
        "two references": (4 * 8, 3, 32, 32),
    }
    model = autoencoders.load("flux2")
    batch = state.fixed.previews["one reference"]
    with torch.no_grad():
        target = model.decode(model.to_latent(Moments(*batch.moments)))
    assert (to_float(sheets["one reference"][2]) - target[0].clamp(-1, 1)).abs().max() < 0.01
    assert all(
        torch.equal(a, b) for a, b in zip(sheets.values(), TEXT_FLOW.preview(state).values(), strict=True)
    )


class Pooled:
    """An encoder that counts its calls: the embedded tokens, and their mean as the pooled vector."""

    identity, width, length = "pooled", 128, 64
    encoded: tuple[str, ...] = ()

    def encode(self, prompts: Sequence[str]) -> TextFeatures:
        Pooled.encoded += tuple(prompts)
        tokens = EmbeddedText().encode(prompts).tokens
        return TextFeatures(tokens.bfloat16(), tokens.mean(1))

    def num_tokens(self, prompt: str) -> int:
        return len(prompt)


def test_a_flux1_learns_from_cached_tokens_and_their_pooled_vector(cache, tmp_path, monkeypatch):
    monkeypatch.setitem(text.ENCODERS, "pooled", lambda device: Pooled())
    monkeypatch.setattr(Pooled, "encoded", ())
    size = {"width": 64, "heads": 2, "double_blocks": 1, "single_blocks": 1, "axes": (8, 12, 12)}
    flux1 = Flux1Spec(**size, channels=32, in_channels=32, text_width=128, pooled_width=128, guidance=True)
    monkeypatch.setitem(FLUX_SIZES, "tiny_flux1", flux1)
    settings = config(cache, text="pooled", backbone="tiny_flux1", loop=replace(SHORT, num_steps=2))
    state, records = steps(settings, tmp_path / "run")
    assert all(value.isfinite() for record in records for value in record.scalars.values())
    assert len(Pooled.encoded) == len(set(Pooled.encoded)) and "" in Pooled.encoded
    TEXT_FLOW.preview(state)
    once = len(Pooled.encoded)
    again = TEXT_FLOW.setup(settings, text_flow.dataset(settings))
    assert len(Pooled.encoded) == once, "the second start reads every prompt from the cache"
    shake(again.modules["model"])
    batch = text_flow.dataset(settings).read(torch.arange(4))
    heard = loss_of(again, batch) != loss_of(again, replace(batch, text=("", *(batch.text or ())[1:])))
    assert heard.tolist() == [True, False, False, False]


# ---- what it refuses ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"backbone": "flux3"}, "unknown FLUX size 'flux3'; choose from"),
        ({"autoencoder": "flux3"}, "unknown autoencoder"),
        ({"precision": "half"}, "unknown precision 'half'"),
        ({"dataset": "no/folder"}, "unknown dataset 'no/folder'; give 'scenes' or a folder"),
        ({"caption_dropout": 1.0}, "give a share below 1"),
        ({"channel_power": 2.0}, "channel_power is 2.0; give 0"),
        ({"guidance_range": (4.0, 1.0)}, "a rising range above 0"),
        ({"guidance_range": (1.0, 4.0)}, "flux2_tiny is told no guidance, leave it out"),
        ({"init": "no/file"}, "init is 'no/file', where no file is"),
        (
            {"scenes": ScenesConfig(text=0, json=0, one_reference=0, two_references=0)},
            "give at least one example",
        ),
        ({"scenes": ScenesConfig(times_edits=0)}, "times_edits is 0; give 1 or more"),
        ({"scenes": replace(FEW, dense=13)}, "scenes.dense is 13 of 12 scenes; give no more"),
        ({"scenes": ScenesConfig(times_lone=0)}, "times_lone is 0; give 1 or more"),
        ({"scenes": LONE, "window_tokens": 18}, "window_tokens is 18; give 19 or more"),
        ({"scenes": LONE, "text": "some/folder"}, "scenes.lone is 64; windows need text='embedded'"),
        ({"text": "bert"}, "unknown text encoder .* 'bert'"),
    ],
)
def test_faults_are_named_before_anything_is_encoded(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        start(config(tmp_path / "cache", **changes), tmp_path / "run")
    assert not (tmp_path / "cache").exists() and not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("backbone", "message"),
    [
        ("tiny_sixteen", "takes 16 latent channels, autoencoder flux2 gives 32"),
        ("tiny_narrow", "takes text of width 96, encoder embedded gives 128"),
    ],
)
def test_parts_that_do_not_fit_are_named(cache, backbone, message):
    with pytest.raises(ValueError, match=message):
        fresh(config(cache, backbone=backbone))


def test_the_configuration_survives_json_and_has_a_recipe(cache):
    settings = config(cache, guidance_range=(1.0, 5.0))
    assert from_dict(TextFlowConfig, json.loads(json.dumps(to_dict(settings)))) == settings
    assert RECIPES[TextFlowConfig] is TEXT_FLOW
