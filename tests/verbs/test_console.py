"""What the world and the user can do wrong becomes one line; mistakes of ours keep their traceback."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from tests.verbs.command import flowlab

from flowlab.cli import VERBS
from flowlab.verbs.console import Group, Verb, dispatch, fault_of, guarded

Capture = pytest.CaptureFixture[str]


def test_traceback_on_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLOWLAB_TRACEBACK", "1")
    with pytest.raises(ValueError, match="unknown preset"):
        flowlab("train", "nosuch")


def test_a_verb_of_several_takes_all_before_the_first_option_once() -> None:
    calls: list[tuple[Any, ...]] = []
    group = VERBS["evaluate"]
    assert isinstance(group, Group)
    verb = replace(group.verbs["reconstruction"], run=lambda *given: calls.append(given))
    words = ["verb", "sd", "a/b.safetensors", "sd", "--num-images", "4", "--viewer-indices", "3", "1"]
    dispatch({"verb": verb}, words, "")
    names, options = calls[0]
    assert names == ("sd", "a/b.safetensors")
    assert options.num_images == 4 and options.viewer_indices == (3, 1)


def _raising(problem: BaseException) -> Callable[[], None]:
    def action() -> None:
        raise problem

    return action


@pytest.mark.parametrize(
    ("problem", "line"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "runs/x"), "the disk is full"),
        (RuntimeError("I/O error: No space left on device (os error 28)"), "the disk is full"),
        (
            FileNotFoundError(errno.ENOENT, "No such file or directory", "a/b"),
            "a/b: No such file or directory",
        ),
        (
            PermissionError(errno.EACCES, "Permission denied", "runs"),
            "runs: Permission denied; check the path",
        ),
        (ModuleNotFoundError("No module named 'plotly'", name="plotly"), "pip install 'flowlab[study]'"),
        (
            ModuleNotFoundError("No module named 'torch'", name="torch"),
            "torch is not installed; run: pip install 'flowlab'",
        ),
        (ValueError("two\nlines"), "two lines"),
    ],
)
def test_what_the_world_can_do_is_one_line(problem: Exception, line: str, capsys: Capture) -> None:
    assert guarded(_raising(problem)) == 2
    complaint = capsys.readouterr().err
    assert line in complaint and complaint.count("\n") == 1


@pytest.mark.parametrize(
    "problem", [AssertionError("a"), KeyError("b"), ModuleNotFoundError("c", name="flowlab.c")]
)
def test_mistakes_of_ours_keep_their_traceback(problem: Exception) -> None:
    assert fault_of(problem) is None
    with pytest.raises(type(problem)):
        guarded(_raising(problem))


def test_ctrl_c_says_how_to_go_on(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    train = VERBS["train"]
    assert isinstance(train, Verb)
    monkeypatch.setitem(VERBS, "train", replace(train, run=lambda *_: _raising(KeyboardInterrupt())()))
    assert flowlab("train", "ae_sd_digits") == 130
    assert "the same command resumes" in capsys.readouterr().err


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_a_framed_complaint_becomes_one_line(encoding: str) -> None:
    words = [sys.executable, "-m", "flowlab", "doctor", "--run", "x"]
    done = subprocess.run(
        words, capture_output=True, text=True, env=os.environ | {"PYTHONIOENCODING": encoding}
    )
    expected = (
        "error: Unrecognized options: --run, x; perhaps --runs; `flowlab doctor --help` lists every option\n"
    )
    assert (done.returncode, done.stderr) == (2, expected)
