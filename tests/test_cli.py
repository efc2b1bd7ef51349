"""The command line: help that costs nothing, examples that parse, and faults as one line."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from tests.verbs.command import flowlab

from flowlab.cli import VERBS
from flowlab.verbs.console import Group, Verb, dispatch

Capture = pytest.CaptureFixture[str]


def all_verbs() -> Iterator[tuple[str, Verb]]:
    for name, found in VERBS.items():
        if isinstance(found, Group):
            yield from ((f"{name} {inner}", verb) for inner, verb in found.verbs.items())
        else:
            yield name, found


EXAMPLES = [(name, verb, example) for name, verb in all_verbs() for example in verb.examples]


# ---- help --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", [[], ["--help"], ["study", "--help"], ["evaluate"], ["--version"]])
def test_the_list_of_verbs_imports_nothing_heavy(words: list[str]) -> None:
    script = (
        "import sys; from flowlab.cli import main\n"
        "try: main()\n"
        "except SystemExit as stop: assert not stop.code, stop.code\n"
        "heavy = {'torch', 'numpy', 'pandas', 'sklearn', 'plotly', 'tyro'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", script, *words], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout


def test_the_list_of_verbs_names_each(capsys: Capture) -> None:
    assert flowlab("--help") == 0
    text = capsys.readouterr().out
    assert all(f"  {name} " in text for name in VERBS) and "examples:" in text


@pytest.mark.parametrize(
    ("name", "verb"), list(all_verbs()), ids=lambda item: item if isinstance(item, str) else ""
)
def test_help_of_a_verb_has_examples_and_choices(name: str, verb: Verb, capsys: Capture) -> None:
    with pytest.raises(SystemExit) as stop:
        flowlab(*name.split(), "--help")
    assert not stop.value.code
    text = capsys.readouterr().out
    assert "examples:" in text and all(example in text for example in verb.examples)
    assert all(choice in text for choice in (verb.names() if verb.names else ()))


@pytest.mark.parametrize(
    ("name", "verb", "example"), EXAMPLES, ids=lambda item: item if isinstance(item, str) else ""
)
def test_examples_parse(name: str, verb: Verb, example: str) -> None:
    calls: list[tuple[Any, ...]] = []
    words = shlex.split(example)
    assert words[0] == "flowlab" and " ".join(words[1:]).startswith(name)
    dispatch({"verb": _recording(verb, calls)}, ["verb", *words[1 + len(name.split()) :]], "")
    assert len(calls) == 1 and isinstance(calls[0][-1], verb.options)


DRY = [
    example
    for name, verb, example in EXAMPLES
    if "dry_run" in {one.name for one in fields(verb.options)}
    and not re.search(
        r"path/|runs/mine|model\.safetensors|flux2_f8c32|star\.png|prompts\.jsonl|--from", example
    )
    and name not in ("evaluate scenes", "study sweep")  # a large model; runs that are not there
]


@pytest.mark.parametrize("example", DRY)
def test_examples_run_as_they_stand(
    example: str, capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Up to where the work would start, for those that name no file of the reader's."""
    monkeypatch.chdir(tmp_path)
    words = shlex.split(example)[1:]
    assert flowlab(*words, *([] if "--dry-run" in words else ["--dry-run"])) == 0, capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [], "a plan leaves nothing behind"


def _recording(verb: Verb, calls: list[tuple[Any, ...]]) -> Verb:
    return replace(verb, run=lambda *given: calls.append(given))


def test_any_field_of_a_configuration_is_an_option() -> None:
    calls: list[tuple[Any, ...]] = []
    train = VERBS["train"]
    assert isinstance(train, Verb)
    words = "--optimiser.learning-rate 3e-4 --times.alpha 6.93 --loop.save-steps 5 7 --backbone mini"
    dispatch({"train": _recording(train, calls)}, ["train", "flow_flux2_digits", *words.split()], "")
    name, config, options = calls[0]
    assert (name, options.out, options.dry_run) == ("flow_flux2_digits", None, False)
    assert config.optimiser.learning_rate == 3e-4 and config.times.alpha == 6.93
    assert config.loop.save_steps == (5, 7) and config.backbone == "mini"


# ---- faults: one line, exit code 2, nothing written --------------------------------------------------------

FAULTS = [
    ("nosuch", "choose from: doctor, train, encode, generate, evaluate, study"),
    ("study nosuch", "choose from: plan, run, status, report"),
    ("train", "needs PRESET as its first argument; choose from: teacher_digits"),
    ("train nosuch", "unknown preset 'nosuch'; choose from: teacher_digits"),
    ("train ae_sd_digits --optimiser.learning-rate fast", "could not convert string to float: 'fast'"),
    ("train ae_sd_digits --optimiser.lr 1", "Unrecognized options: --optimiser.lr, 1; perhaps --optimiser"),
    ("train ae_sd_digits --until-step 1.5", "--until-step"),
    ("train flow_flux2_digits --times.alpha 0", "times.alpha is 0.0"),
    ("train flow_flux2_digits --times.alpha 0 --dry-run", "times.alpha is 0.0; it must be a positive number"),
    ("train flux2_scenes --times.alpha -1 --dry-run", "times.alpha is -1.0; it must be a positive number"),
    ("train flow_flux2_digits --ema-decay 1 --dry-run", "ema_decay is 1.0; it must lie in [0, 1)"),
    ("train ae_sd_digits --optimiser.learning-rate nan --dry-run", "optimiser.learning_rate is nan"),
    ("train ae_sd_digits --optimiser.weight-decay -1 --dry-run", "optimiser.weight_decay is -1.0"),
    ("train ae_sd_digits --loop.save-every -1 --dry-run", "loop.save_every is -1"),
    ("train flow_flux2_digits --times.distribution cosine", "choose from: ts, ln, pln"),
    ("train flow_flux2_digits --backbone huge --dry-run", "unknown backbone size 'huge'"),
    ("train flow_flux2_digits --autoencoder nosuch", "unknown autoencoder"),
    ("train flow_flux2_digits --dataset nosuch --num-images 8", "unknown dataset 'nosuch'"),
    ("train flow_flux2_digits --num-images 0", "num_images is 0"),
    ("train ae_flux2_digits --optimiser.name sgd --dry-run", "choose from: adamw, muon"),
    ("train flow_flux2_digits --alignment.weight 0.5 --alignment.block 9", "tiny has blocks 1 to 3"),
    ("train ae_rae_digits --semantic-weight 1", "rae's encoder is frozen"),
    ("train ae_flux2_digits --latent-noise 1 --loop.micro-batch-size 8", "latent_noise mixes the examples"),
    ("train teacher_digits --num-images 0", "num_images is 0"),
    ("train judge_digits --loop.num-steps 0", "loop.num_steps is 0"),
    ("encode nosuch", "choose from: sd, flux1"),
    ("encode nosuch.safetensors", "no weights at nosuch.safetensors"),
    ("generate nosuch.safetensors", "no weights at nosuch.safetensors"),
    ("generate nosuch.safetensors --num-images 0", "--num-images is 0; ask for 1 or more"),
    (
        "evaluate generation nosuch.safetensors --shifts 1 0",
        "--shifts is 0.0; it must be a positive number",
    ),
    ("evaluate generation nosuch.safetensors --shift 0", "--shift is 0.0; it must be a positive number"),
    ("evaluate generation nosuch.safetensors --batch-size 0", "batch_size is 0; give 1 or more"),
    ("evaluate generation nosuch.safetensors --num-samples 0", "--num-samples is 0"),
    ("evaluate reconstruction nosuch", "choose from: sd, flux1"),
    ("study plan nosuch", "unknown study 'nosuch'; choose from: quickstart, mini, shift_law"),
    ("study plan mini --train-shifts 1 -2", "a shift of train_shifts is -2.0; it must be above 0"),
    ("study plan mini --sample-shifts 0", "a shift of sample_shifts is 0.0; it must be above 0"),
    ("study plan mini --num-samples 0", "num_samples is 0"),
    ("study plan mini --autoencoders vqgan", "unknown autoencoder 'vqgan'; choose from: sd, flux1"),
    ("study plan mini --distributions cosine", "unknown timestep distribution 'cosine'"),
    ("study plan quickstart --train-shifts 4.63", "--train-shifts has no effect"),
    ("study plan quickstart --arms sd/none/ln", "--arms"),
    ("study plan quickstart --arms sd/none/ln/0", "a shift of arms is 0.0"),
    ("study plan quickstart --backbone nosuch", "unknown backbone size 'nosuch'; choose from: tiny"),
    ("study plan quickstart --dataset nosuch", "unknown dataset 'nosuch'"),
    ("study plan quickstart --dataset photos", "photos has no classes"),
    ("study plan quickstart --workers 0", "--workers is 0; give 1 or more"),
    ("study run quickstart --dataset nosuch --out st", "unknown dataset 'nosuch'"),
    ("study run quickstart --dataset nosuch --dry-run", "unknown dataset 'nosuch'"),
    ("study ablate ae_ablation --workers 0 --dry-run", "--workers is 0"),
    ("study run quickstart --budget soon", "cannot read 'soon' as a duration"),
    ("study status nosuch", "unknown study 'nosuch'"),
    ("study status quickstart", "study.json"),
]


@pytest.mark.parametrize(("line", "part"), FAULTS, ids=[line for line, _ in FAULTS])
def test_fault_is_one_line(line: str, part: str, capsys: Capture, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    assert flowlab(*line.split()) == 2
    complaint = capsys.readouterr().err
    assert complaint.startswith("error: ") and complaint.count("\n") == 1 and part in complaint, complaint
    assert list(tmp_path.iterdir()) == [], "a fault leaves nothing behind"


def test_exit_code_and_no_traceback_of_the_real_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "flowlab", "train", "nosuch"], capture_output=True, text=True
    )
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("error: unknown preset 'nosuch'") and done.stderr.count("\n") == 1
