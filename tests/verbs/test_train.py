"""`flowlab train`: plan, run, resume, refuse."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from tests.verbs.command import flowlab

from flowlab.core.config import config_id
from flowlab.core.weights import read_weights
from flowlab.presets import PRESETS
from flowlab.train.flow import FlowConfig

Capture = pytest.CaptureFixture[str]


def test_train_dry_run_then_debug_then_another_configuration(tmp_path: Path, capsys: Capture) -> None:
    common = ("train", "ae_sd_digits", "--debug", "--out", tmp_path / "run")
    assert flowlab(*common, "--dry-run") == 0 and not (tmp_path / "run").exists()
    assert '"autoencoder": "sd"' in capsys.readouterr().out
    assert flowlab(*common) == 0
    assert Path(capsys.readouterr().out.strip().splitlines()[-1]).is_file()
    assert flowlab(*common, "--dry-run") == 0 and "resumes after step 2" in capsys.readouterr().out
    assert flowlab(*common, "--kl-weight", 1) == 2
    assert "holds another configuration" in capsys.readouterr().err


def test_the_gate_can_be_passed_by_and_the_model_says_so(toys: Path, tmp_path: Path, capsys: Capture) -> None:
    """--no-gate changes neither the id nor the folder that it resumes."""

    def train(ae: object, name: str, *more: str) -> int:
        cache = ("--cache", tmp_path / "cache", "--out", tmp_path / name)
        enough = ("--num-images", 512)  # of the debug form's 64 chance alone leaves a channel's std at 1.12
        return flowlab("train", "flow_flux2_digits", "--debug", "--autoencoder", ae, *cache, *enough, *more)

    assert train(toys / "ae.safetensors", "a") == 2
    assert "fails the gate" in capsys.readouterr().err and not (tmp_path / "a").exists()
    assert train(toys / "ae.safetensors", "a", "--no-gate") == 0
    assert read_weights(tmp_path / "a" / "model.safetensors")[1]["gate"] == "off"
    assert train("flux2", "b", "--no-gate") == 0
    assert train("flux2", "b") == 0, "resumes what was begun without the gate"
    assert read_weights(tmp_path / "b" / "model.safetensors")[1]["gate"] == "passed"


def test_the_gate_is_no_part_of_a_configuration_s_name() -> None:
    """Ids as they were before there was a gate: finished studies keep theirs."""
    config = PRESETS["flow_flux2_digits"]()
    assert config_id(config) == config_id(replace(config, gate=False)) == "fd7b51e82443"
    assert config_id(FlowConfig(autoencoder="flux2", cache="")) == "803880db036c"
