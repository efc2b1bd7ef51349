"""The run folder: what is refused, and files that are whole or absent."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import replace

import pytest
import torch

from flowlab.core import checkpoints
from flowlab.core.files import write_json
from flowlab.core.stopping import StopRequest
from flowlab.presets import PRESETS
from flowlab.train.run import check_folder, run, write_previews


@pytest.mark.parametrize("found", [{}, [], {"kind": "FlowConfig"}, {"config": {}}])
def test_a_config_of_another_program_is_refused(tmp_path, found):
    write_json(tmp_path / "config.json", found)
    with pytest.raises(ValueError, match="was not written by `flowlab train`; give another --out"):
        check_folder(PRESETS["flow_flux2_digits"](), tmp_path)


def test_previews_are_whole_or_absent(tmp_path, monkeypatch):
    images = {"two words": torch.zeros(3, 3, 8, 8, dtype=torch.uint8)}
    write_previews(images, tmp_path, 7)
    assert [path.name for path in tmp_path.iterdir()] == ["two_words_00000007.png"]
    before = (tmp_path / "two_words_00000007.png").read_bytes()
    monkeypatch.setattr("PIL.Image.Image.save", _dies)
    with pytest.raises(KeyboardInterrupt):
        write_previews(images, tmp_path, 7)
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [before]


def _dies(image, path, **options):
    path.write_bytes(b"half")
    raise KeyboardInterrupt


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_saves_the_update_in_hand_and_the_same_call_goes_on(tmp_path, monkeypatch, number):
    config = PRESETS["flow_flux2_digits"](debug=True)
    config = replace(config, loop=replace(config.loop, num_steps=4))
    handlers = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    monkeypatch.setattr("flowlab.train.run._log", lambda *given: os.kill(os.getpid(), number))
    with pytest.raises(KeyboardInterrupt):
        run(config, tmp_path, log_every=1)
    newest = checkpoints.latest(tmp_path / "checkpoints")
    assert newest is not None and checkpoints.step_of(newest) == 2  # asked for after the first
    assert not (tmp_path / "model.safetensors").exists()
    assert handlers == [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    monkeypatch.undo()
    assert run(config, tmp_path).is_file()


def test_a_request_is_kept_where_there_is_no_terminal_to_tell(monkeypatch):
    def gone(*given):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("os.write", gone)
    request = StopRequest()
    with request.listening():
        os.kill(os.getpid(), signal.SIGHUP)
        time.sleep(0)
    assert request.made


def test_a_second_signal_ends_at_once():
    request = StopRequest()
    with pytest.raises(KeyboardInterrupt), request.listening():
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0)  # handlers run between two instructions
        assert request.made
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0)
        raise AssertionError("it went on")
