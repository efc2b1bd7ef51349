"""`flowlab study`: plans, durations, and a whole study shrunk to seconds."""

from __future__ import annotations

import functools
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas
import pytest
from tests.verbs.command import flowlab

from flowlab.study.runner import claim_folder
from flowlab.study.studies import build
from flowlab.verbs.study import seconds_of

Capture = pytest.CaptureFixture[str]
DEBUG = build("quickstart", debug=True)
ROWS = len(DEBUG.checkpoints) * len(DEBUG.sample_shifts)  # of each of its two runs


def test_a_plan_lists_runs_and_time(capsys: Capture, tmp_path: Path) -> None:
    assert (
        flowlab(
            "study", "plan", "quickstart", "--arms", "sd/none/ln/1.0", "rae/none/ts/6.93", "--out", tmp_path
        )
        == 0
    )
    text = capsys.readouterr().out
    assert "sd_none_ln_1.0_s0" in text and "rae_none_ts_6.93_s0" in text and "to do: 2 runs" in text
    assert list(tmp_path.iterdir()) == []


def test_a_plan_says_how_many_run_at_once_and_what_it_reads(capsys: Capture, tmp_path: Path) -> None:
    assert (
        flowlab("study", "run", "quickstart", "--workers", 3, "--no-gate", "--dry-run", "--out", tmp_path)
        == 0
    )
    text = capsys.readouterr().out
    assert "with 3 workers, by timings of 2 quiet cores" in text
    assert "images of digits: 8,192 for training; held out 2,000 behind distances" in text


def test_a_plan_refuses_the_folder_of_another_study(capsys: Capture, tmp_path: Path) -> None:
    claim_folder(DEBUG, tmp_path)
    before = (tmp_path / "study.json").read_bytes()
    for verb in (("plan",), ("run", "--dry-run"), ("run",)):
        words = ("study", verb[0], "quickstart", "--debug", *verb[1:], "--out", tmp_path)
        assert flowlab(*words, "--batch-size", 9) == 2
        assert "other settings (batch_size 8 there, 9 here)" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["study.json"]
    assert (tmp_path / "study.json").read_bytes() == before
    assert flowlab("study", "plan", "quickstart", "--debug", "--out", tmp_path) == 0


@pytest.mark.parametrize(
    ("text", "seconds"), [("6m", 360), ("90s", 90), ("1h30m", 5400), ("1.5h", 5400), ("2m 5s", 125)]
)
def test_durations(text: str, seconds: float) -> None:
    assert seconds_of(text) == seconds


@pytest.mark.parametrize("text", ["", "6", "m", "0s", "-1m", "6 minutes", "1m1h"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match="write it as 90s, 6m or 1h30m"):
        seconds_of(text)


def test_rows_of_another_schema_are_refused(tmp_path: Path, capsys: Capture) -> None:
    pandas.DataFrame({"step": [1], "ae": ["sd"]}).to_parquet(tmp_path / "results.parquet")
    assert flowlab("study", "report", "quickstart", "--out", tmp_path) == 2
    complaint = capsys.readouterr().err
    assert "results.parquet lacks the column" in complaint and complaint.count("\n") == 1
    (tmp_path / "results.parquet").write_bytes(b"PAR1 and no more")
    assert flowlab("study", "report", "quickstart", "--out", tmp_path) == 2
    complaint = capsys.readouterr().err
    assert "results.parquet" in complaint and complaint.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["results.parquet"]


@pytest.mark.slow
def test_a_study_from_command_to_report(tmp_path: Path, capsys: Capture, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    assert flowlab("study", "run", "quickstart", "--debug", "--workers", 2) == 0
    folder = Path("runs") / "quickstart_debug"
    assert capsys.readouterr().out.splitlines()[-1] == "runs/quickstart_debug/report.html"
    rows = pandas.read_parquet(folder / "results.parquet")
    assert len(rows) == 2 * ROWS and rows["fid"].notna().all() and (rows["features"] == "digits judge").all()
    before = (folder / "results.parquet").read_bytes()
    assert flowlab("study", "run", "quickstart", "--debug") == 0
    assert "0 tasks in" in capsys.readouterr().out
    assert (folder / "results.parquet").read_bytes() == before
    assert flowlab("study", "status", "quickstart_debug") == 0
    assert "2 of 2 runs are complete" in capsys.readouterr().out
    assert flowlab("study", "run", "quickstart", "--debug", "--learning-rate", 1) == 2
    assert "other settings" in capsys.readouterr().err
    assert flowlab("study", "plan", "quickstart", "--debug") == 0
    assert "to do: 0 runs" in capsys.readouterr().out
    _sweep(folder, capsys)


def _sweep(folder: Path, capsys: Capture) -> None:
    """Two runs at two further points each; the rows of the study stay."""
    words = (
        "--study quickstart --autoencoders flux1 flux2 --train-shifts 1 --samplers heun --num-sample-steps 3"
    )
    command = ("study", "sweep", "mini", "--out", folder, *words.split(), "--sample-shifts", 1, 6.93)
    assert flowlab(*command) == 0
    rows = pandas.read_parquet(folder / "results.parquet")
    assert len(rows) == 2 * ROWS + 4 and (rows["sampler"] == "heun").sum() == 4
    assert set(rows[rows["sampler"] == "heun"]["sampleshift"]) == {1.0, 6.93}
    capsys.readouterr()
    assert flowlab(*command) == 0 and "to do: 0 runs" in capsys.readouterr().out


@pytest.mark.slow
def test_ctrl_c_loses_at_most_the_cell_in_hand(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "flowlab", "study", "run", "quickstart", "--debug", "--workers", "1"]
    heard = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(words, cwd=tmp_path, preexec_fn=heard, **pipes)
    assert process.stdout is not None and process.stderr is not None
    seen = next(line for line in process.stdout if line.startswith("[2/4]"))  # the first run has ended
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    complaint = process.stderr.read()
    assert "the same command goes on from here" in complaint and "Traceback" not in complaint
    rows = pandas.read_parquet(tmp_path / "runs" / "quickstart_debug" / "results.parquet")
    assert len(rows) == ROWS and rows["run_id"].iloc[0] in seen
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and rows["run_id"].iloc[0] not in done.stdout.split("to do: 1 runs")[1]
