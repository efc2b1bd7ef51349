"""`flowlab train`: plan, run, resume, refuse."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.verbs.command import flowlab

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
