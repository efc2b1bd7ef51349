"""Every recipe takes a step on its debug preset, every switchable term has a branch that runs, resume is
exact."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from flowlab.autoencoders import load
from flowlab.autoencoders.base import Moments
from flowlab.core import checkpoints
from flowlab.core.config import config_id, to_dict
from flowlab.core.files import read_json, write_json
from flowlab.core.pixels import to_float
from flowlab.core.weights import read_weights
from flowlab.data.embedded import digits
from flowlab.features.embedded import load_judge, load_teacher
from flowlab.presets import PRESETS
from flowlab.train.autoencoder import AutoencoderConfig
from flowlab.train.features import contrastive
from flowlab.train.flow import (
    POSTERIORS,
    AlignmentConfig,
    FlowConfig,
    TimesConfig,
    draw_times,
    ensure_latents,
)
from flowlab.train.loop import LoopConfig
from flowlab.train.run import check_folder, recipe_of, run, start
from flowlab.train.state import Randomness
from flowlab.train.text_flow import TextFlowConfig

SHORT = LoopConfig(batch_size=8, num_steps=4, save_steps=(2,))


def steps(config, folder: Path, until: int | None = None):
    state, records = start(config, folder, until)
    return state, list(records)


def flow(tmp_path: Path, **changes) -> FlowConfig:
    base = FlowConfig(autoencoder="flux2", num_images=32, cache=str(tmp_path / "cache"), loop=SHORT)
    return replace(base, **changes)


@pytest.mark.parametrize("name", PRESETS)
def test_debug_presets_train_and_export(tmp_path, name):
    config = PRESETS[name](debug=True)
    if isinstance(config, FlowConfig | TextFlowConfig):
        config = replace(config, cache=str(tmp_path / "cache"))
    exported = run(config, tmp_path / "run")
    assert exported.is_file() and exported.parent == tmp_path / "run"
    assert (tmp_path / "run" / "config.json").is_file() and list((tmp_path / "run" / "tensorboard").iterdir())


def test_an_exported_autoencoder_loads_and_its_latent_is_normalised(tmp_path):
    path = run(PRESETS["ae_flux2_digits"](debug=True), tmp_path / "run")
    model = load(path)
    images = digits("train", num_images=64).read(torch.arange(64)).pixels
    assert images is not None
    pixels = to_float(images)
    with torch.no_grad():
        latent = model.latents(pixels)
    assert latent.shape == (64, 32, 4, 4)
    torch.testing.assert_close(latent.mean((0, 2, 3)), torch.zeros(32), atol=0.05, rtol=0)
    torch.testing.assert_close(latent.std((0, 2, 3)), torch.ones(32), atol=0.05, rtol=0)


AUTOENCODER_BRANCHES = {
    "L2": {"reconstruction_power": 2},
    "no perceptual": {"perceptual_weight": 0.0},
    "no kl": {"kl_weight": 0.0},
    "semantic": {"semantic_weight": 0.1},
    "semantic adaptive": {"semantic_weight": 0.1, "semantic_adaptive": True},
    "float32": {"precision": "float32"},
    "rae noise": {"autoencoder": "rae", "latent_noise": 0.3},
}


@pytest.mark.parametrize("branch", AUTOENCODER_BRANCHES)
def test_every_autoencoder_term_gives_finite_gradients(tmp_path, branch):
    changes = {"autoencoder": "flux1"} | AUTOENCODER_BRANCHES[branch]
    config = AutoencoderConfig(num_images=32, loop=SHORT, **changes)
    state, records = steps(config, tmp_path)
    assert len(records) == 4
    assert all(value.isfinite() for record in records for value in record.scalars.values())
    terms = set(records[0].scalars)
    assert ("semantic" in terms) == bool(config.semantic_weight)
    assert ("kl" in terms) == (bool(config.kl_weight) and config.autoencoder != "rae")
    assert ("perceptual" in terms) == bool(config.perceptual_weight)


def test_the_frozen_encoder_of_a_representation_autoencoder_does_not_move(tmp_path):
    config = AutoencoderConfig(autoencoder="rae", num_images=32, loop=SHORT)
    state, _ = steps(config, tmp_path)
    teacher = load_teacher("teacher").state_dict()
    trained = state.modules["autoencoder"].encoder.state_dict()  # pyright: ignore
    assert all(torch.equal(trained[name], tensor) for name, tensor in teacher.items())


# ---- flow --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("weight", [0.0, 0.5])
@pytest.mark.parametrize("distribution", ["ts", "ln", "pln"])
def test_every_flow_branch_steps(tmp_path, distribution, weight):
    config = flow(
        tmp_path,
        times=TimesConfig(distribution=distribution, alpha=2.95),
        alignment=AlignmentConfig(weight=weight),
    )
    state, records = steps(config, tmp_path / "run")
    assert ("alignment" in records[0].scalars) == (weight > 0) == ("projector" in state.modules)
    assert all(value.isfinite() for record in records for value in record.scalars.values())


@pytest.mark.parametrize("name", POSTERIORS)
def test_a_flow_model_learns_posterior_samples_or_means(tmp_path, name, monkeypatch):
    """What enters the path: the mean's latent exactly, or one drawn by the image's own stream."""
    seen: list[torch.Tensor] = []
    monkeypatch.setattr("flowlab.flow.path.interpolate", lambda x0, noise, t: seen.append(x0) or x0)
    config = flow(tmp_path, posterior=name)
    recipe, dataset = recipe_of(config), ensure_latents(config)
    state, batch = recipe.setup(config, dataset), dataset.read(torch.arange(4))
    next(recipe.objectives(state, batch, Randomness(0, torch.arange(4))))
    assert batch.moments is not None
    mean = state.fixed.autoencoder.to_latent(Moments(*batch.moments))
    assert torch.equal(seen[0], mean) == (name == "mean")
    torch.testing.assert_close(seen[0], mean, rtol=0, atol=0.5)


def test_a_posterior_enters_the_id_only_where_it_is_not_the_studys():
    base = FlowConfig(autoencoder="flux2")
    assert config_id(base) == config_id(replace(base, posterior="sample"))
    assert config_id(base) != config_id(replace(base, posterior="mean"))


def test_alignment_reaches_the_blocks_up_to_its_own_only(tmp_path):
    config = flow(tmp_path, alignment=AlignmentConfig(weight=0.5, block=1))
    dataset = ensure_latents(config)
    recipe = recipe_of(config)
    state = recipe.setup(config, dataset)
    model = state.modules["model"]
    output = model(torch.randn(2, 32, 4, 4), torch.rand(2), torch.tensor([1, 2]), keep=(1,))
    output.hidden[1].sum().backward()
    touched = [name for name, parameter in model.named_parameters() if parameter.grad is not None]
    moved = {name.split(".")[1] for name in touched if "blocks" in name}
    assert moved == {"0"}


def test_runs_with_and_without_alignment_share_what_is_encoded(tmp_path):
    bare = flow(tmp_path / "bare", alignment=AlignmentConfig(weight=0.0))
    assert ensure_latents(bare).plan.teacher is None  # tokens cost as much as latents, and nobody asked
    plain, aligned = (flow(tmp_path, alignment=AlignmentConfig(weight=weight)) for weight in (0.0, 0.5))
    first, second = ensure_latents(aligned), ensure_latents(plain)
    assert first.folder == second.folder
    rows = torch.arange(4)
    assert first.read(rows).teacher is not None and second.read(rows).teacher is None


def test_unknown_names_fail_before_training(tmp_path):
    with pytest.raises(ValueError, match="unknown timestep distribution 'uniform'; choose from: ts, ln, pln"):
        steps(flow(tmp_path, times=TimesConfig(distribution="uniform")), tmp_path / "run")
    with pytest.raises(ValueError, match="unknown backbone size 'huge'"):
        steps(flow(tmp_path, backbone="huge"), tmp_path / "run2")
    with pytest.raises(ValueError, match="unknown autoencoder"):
        steps(flow(tmp_path, autoencoder="flux3"), tmp_path / "run3")
    with pytest.raises(ValueError, match="unknown resize policy 'crop'; choose from: exact, adm"):
        steps(flow(tmp_path, resize="crop"), tmp_path / "run4")
    with pytest.raises(ValueError, match="unknown posterior 'mode'; choose from: sample, mean"):
        steps(flow(tmp_path, posterior="mode"), tmp_path / "run7")
    with pytest.raises(ValueError, match="resolution is 0; give 1 or more"):
        steps(flow(tmp_path, resolution=0), tmp_path / "run5")
    with pytest.raises(ValueError, match="photos has no classes to learn"):
        steps(flow(tmp_path, dataset="photos"), tmp_path / "run6")


def test_training_times_do_not_depend_on_the_batch():
    from flowlab.train.state import Randomness

    config = TimesConfig(distribution="pln", alpha=4.63)
    whole = draw_times(config, Randomness(0, torch.arange(64))("time"))
    halves = [draw_times(config, Randomness(0, part)("time")) for part in torch.arange(64).split(32)]
    assert torch.equal(whole, torch.cat(halves)) and float(whole.min()) > 0 and float(whole.max()) < 1


@pytest.mark.parametrize("name", ["flow", "autoencoder", "teacher"])
def test_resume_equals_an_uninterrupted_run_to_the_bit(tmp_path, name):
    config = {
        "flow": flow(tmp_path, alignment=AlignmentConfig(weight=0.5)),
        "autoencoder": AutoencoderConfig(autoencoder="flux2", num_images=32, semantic_weight=0.1, loop=SHORT),
        "teacher": replace(PRESETS["teacher_digits"](debug=True), loop=SHORT),
    }[name]
    whole, _ = steps(config, tmp_path / "whole")
    steps(config, tmp_path / "parts", until=2)
    resumed, records = steps(config, tmp_path / "parts")
    assert [record.step for record in records] == [3, 4]
    for key in whole.modules:
        once, twice = whole.modules[key].state_dict(), resumed.modules[key].state_dict()
        assert all(torch.equal(once[name], twice[name]) for name in once), key


KILLED = """
import json, sys
from pathlib import Path
from flowlab.core.config import from_dict
from flowlab.train.flow import FlowConfig
from flowlab.train.run import start
config = from_dict(FlowConfig, json.loads(Path(sys.argv[1]).read_text()))
for record in start(config, Path(sys.argv[2]))[1]:
    print(record.step, flush=True)
"""


@pytest.mark.parametrize("lines_before_kill", [7, 12])
def test_sigkill_and_the_same_command_give_the_same_weights(tmp_path, lines_before_kill):
    loop = LoopConfig(batch_size=8, num_steps=20, save_steps=(5, 10, 15))
    config = flow(tmp_path, loop=loop)
    write_json(tmp_path / "config.json", to_dict(config))
    ensure_latents(config)
    command = [sys.executable, "-c", KILLED, str(tmp_path / "config.json")]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([*command, str(tmp_path / "killed")], stdout=subprocess.PIPE, env=environment)
    assert process.stdout is not None
    for _ in range(lines_before_kill):
        process.stdout.readline()
    process.send_signal(signal.SIGKILL)
    process.wait()
    for folder in ("killed", "whole"):
        again = [*command, str(tmp_path / folder)]
        subprocess.run(again, check=True, stdout=subprocess.DEVNULL, env=environment)
    ends = [checkpoints.latest(tmp_path / folder / "checkpoints") for folder in ("killed", "whole")]
    assert all(end is not None and checkpoints.step_of(end) == 20 for end in ends)
    for file in ("module.model.safetensors", "ema.model.safetensors", "optimiser.flow.safetensors"):
        killed, whole = (read_weights(end / file)[0] for end in ends if end is not None)
        assert all(torch.equal(killed[name], whole[name]) for name in whole), file


def test_a_folder_of_another_configuration_is_refused_by_the_field(tmp_path):
    start(flow(tmp_path), tmp_path)
    check_folder(flow(tmp_path), tmp_path)
    check_folder(flow(tmp_path, cache="elsewhere"), tmp_path)
    check_folder(flow(tmp_path, gate=False), tmp_path)  # changes no result
    with pytest.raises(ValueError, match=r"another configuration \(times.alpha is 1.0 there and 2.0 here\)"):
        check_folder(flow(tmp_path, times=TimesConfig(alpha=2.0)), tmp_path)
    with pytest.raises(ValueError, match=r"\(resize is 'exact' there and 'adm' here\)"):
        check_folder(flow(tmp_path, resize="adm"), tmp_path)


def test_a_folder_from_before_a_field_goes_on_at_its_default_only(tmp_path):
    start(flow(tmp_path), tmp_path)
    path = tmp_path / "config.json"
    found = read_json(path)
    for name in ("resolution", "split", "resize"):
        del found["config"][name]
    write_json(path, found)
    check_folder(flow(tmp_path), tmp_path)
    with pytest.raises(ValueError, match=r"\(resolution is None there and 64 here\)"):
        check_folder(flow(tmp_path, resolution=64), tmp_path)


# ---- features ----------------------------------------------------------------------------------------------


def test_contrastive_loss_against_the_definition():
    torch.manual_seed(0)
    a, b = torch.randn(5, 8), torch.randn(5, 8)
    source = torch.tensor([0, 1, 2, 3, 0])
    z = torch.nn.functional.normalize(torch.cat([a, b]), dim=1)
    total = 0.0
    for i in range(10):
        partner = (i + 5) % 10
        others = [j for j in range(10) if j == partner or source[j % 5] != source[i % 5]]
        total -= float(
            z[i] @ z[partner] / 0.5 - torch.logsumexp(torch.stack([z[i] @ z[j] / 0.5 for j in others]), 0)
        )
    assert float(contrastive(a, b, source, 0.5)) == pytest.approx(total / 10, rel=1e-5)


def test_shipped_networks_are_what_they_claim():
    """The teacher never saw a label, yet its features classify; the judge reads digits it was not trained
    on."""
    train = digits("train", num_images=2000).read(torch.arange(2000))
    held = digits("heldout", num_images=794).read(torch.arange(794))
    teacher, judge = load_teacher("teacher"), load_judge("digits judge")
    assert (
        train.pixels is not None
        and held.pixels is not None
        and train.label is not None
        and held.label is not None
    )
    near = torch.nn.functional.normalize(teacher(train.pixels).mean(1), dim=1)
    far = torch.nn.functional.normalize(teacher(held.pixels).mean(1), dim=1)
    votes = train.label[(far @ near.T).topk(10).indices].mode(1).values
    assert float((votes == held.label).float().mean()) > 0.93
    assert float((judge.classes(judge(held.pixels)).argmax(1) == held.label).float().mean()) > 0.95


def test_unknown_networks_list_the_names():
    with pytest.raises(ValueError, match="unknown teacher 'dino'; choose from: teacher"):
        load_teacher("dino")
    with pytest.raises(ValueError, match="not a judge"):
        from flowlab.features.embedded import TEACHERS

        load_judge(str(TEACHERS["teacher"]))


def test_training_twice_takes_time_only_once(tmp_path):
    config = flow(tmp_path)
    steps(config, tmp_path / "run")
    began = time.perf_counter()
    state, records = steps(config, tmp_path / "run")
    assert records == [] and state.step == 4 and time.perf_counter() - began < 20
