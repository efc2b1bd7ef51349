"""A cell as a job: rows, resume after each kind of interruption, one-line errors."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from flowlab.core import checkpoints
from flowlab.core.config import config_id, to_dict
from flowlab.core.files import read_json, write_json
from flowlab.jobs.cell import find_cell, flow_config, neediest_cell, run_cell, train_cell
from flowlab.jobs.files import load_study
from flowlab.study.grid import Arm, Cell, cells
from flowlab.study.results import COLUMNS, read_results, read_rows
from flowlab.study.studies import build

STUDY = replace(build("quickstart", debug=True), name="test")
RESULTS = Path(__file__).parents[2] / "results"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "test"
    write_json(folder / "study.json", to_dict(STUDY))
    return folder


def test_the_study_survives_its_file(folder):
    assert load_study(folder) == STUDY
    with pytest.raises(ValueError, match="holds no study.json"):
        load_study(folder.parent)


def test_the_neediest_cell_is_an_aligned_one_and_a_foreign_autoencoder_is_named():
    assert neediest_cell(build("quickstart"), "flux2").arm.repa != "none"
    with pytest.raises(ValueError, match=r"no run on autoencoder 'vavae'; it has: .*flux2"):
        neediest_cell(STUDY, "vavae")


def test_a_cell_leaves_one_row_per_checkpoint_and_shift(folder):
    cell = cells(STUDY)[0]
    run_cell(STUDY, cell, folder)
    rows = read_rows(folder / "cells" / cell.run_id / "rows.jsonl")
    assert list(rows.columns) == list(COLUMNS)
    planned = [(step, shift) for step in STUDY.checkpoints for shift in STUDY.sample_shifts]
    assert list(zip(rows["step"], rows["sampleshift"], strict=True)) == planned
    assert (rows["images_seen"] == rows["step"] * STUDY.batch_size).all() and rows["loss"].notna().all()
    assert set(rows["gate"]) <= {"passed", "warned"}, "a study asks the gate, and its rows say what it said"
    assert (folder / "cells" / cell.run_id / "samples.png").is_file()
    run_cell(STUDY, cell, folder)
    assert len(read_rows(folder / "cells" / cell.run_id / "rows.jsonl")) == len(planned), (
        "nothing is repeated"
    )


def test_a_cell_stopped_between_checkpoint_and_evaluation_evaluates_it_first(folder):
    cell = cells(STUDY)[1]
    rows_path = folder / "cells" / cell.run_id / "rows.jsonl"
    run_cell(STUDY, cell, folder, until_step=STUDY.checkpoints[0])
    whole = rows_path.read_text()
    rows_path.write_text("")  # killed after the checkpoint, before its rows
    run_cell(STUDY, cell, folder)
    rows = read_rows(rows_path)
    assert sorted(set(rows["step"])) == list(STUDY.checkpoints)
    lost = read_rows_of(whole, rows_path.with_name("before.jsonl"))
    assert rows["fid"].iloc[0] == lost["fid"].iloc[0], (
        "the same checkpoint, noise and labels give the same FID"
    )


def read_rows_of(text, path):
    path.write_text(text)
    return read_rows(path)


def test_an_arm_becomes_the_configuration_it_names(folder):
    cell = Cell(arm=Arm(ae="rae", repa="teacher", trainp="pln", trainshift=4.63), seed=7, priority=0)
    config = flow_config(STUDY, cell, folder)
    assert (config.autoencoder, config.times.distribution, config.times.alpha) == ("rae", "pln", 4.63)
    assert config.alignment.weight == STUDY.repa_weight and config.loop.seed == 7
    plain = flow_config(STUDY, replace(cell, arm=replace(cell.arm, repa="none")), folder)
    assert plain.alignment.weight == 0


MINI_IDS = {  # of rows in results/mini, and of the queue's ends
    "flux1_none_ln_1.0_s0": "a55205c7adbd",
    "flux2_teacher_ts_2.95_s0": "723ce7c07986",
    "rae_teacher_ts_2.95_s0": "07c58e753556",
    "sd_none_ln_1.0_s0": "47c62b6cbf28",
    "rae_teacher_pln_6.93_s1": "f8816ef9407b",
}


def test_the_ids_of_a_study_that_runs_for_days_never_move(tmp_path):
    """Rows carry them: were one to move, finished runs would count as runs of another configuration."""
    study = build("mini")
    for run_id, known in MINI_IDS.items():
        config = flow_config(study, find_cell(study, run_id), tmp_path)
        assert config_id(replace(config, cache="")) == known, run_id
    assert config_id(replace(config, cache="", resize="adm")) != known
    rows = read_results(RESULTS / "mini" / "results.parquet")
    stored = dict(zip(rows["run_id"], rows["config_id"], strict=True))
    assert stored["flux1_none_ln_1.0_s0"] == MINI_IDS["flux1_none_ln_1.0_s0"]


def test_the_gate_of_a_study_reaches_its_runs_and_moves_no_id(folder):
    cell = cells(STUDY)[0]
    plain, passed_by = (flow_config(replace(STUDY, gate=gate), cell, folder) for gate in (True, False))
    assert plain.gate and not passed_by.gate and config_id(plain) == config_id(passed_by)


def test_a_study_from_before_the_gate_reads_as_the_same(tmp_path):
    older = {name: value for name, value in to_dict(STUDY).items() if name != "gate"}
    write_json(tmp_path / "study.json", older)
    assert load_study(tmp_path) == STUDY


def finished(number, folder):
    """A cell that has run: by an earlier test, or now where another worker took that test."""
    cell = cells(STUDY)[number]
    run_cell(STUDY, cell, folder)
    return cell


def test_a_lost_row_of_an_earlier_checkpoint_is_computed_again(folder):
    cell = finished(0, folder)
    path = folder / "cells" / cell.run_id / "rows.jsonl"
    before = read_rows(path)
    path.write_text("".join(path.read_text().splitlines(keepends=True)[1:]))
    run_cell(STUDY, cell, folder)
    after = read_rows(path).sort_values("step")
    assert list(after["fid"]) == list(before["fid"]), "the run is repeated and gives the same numbers"


def test_training_time_survives_a_kill_before_the_first_row(folder):
    cell = finished(0, folder)
    path = folder / "cells" / cell.run_id / "rows.jsonl"
    lines = path.read_text().splitlines()
    kept = [line for line in lines if f'"step": {STUDY.num_steps},' not in line]
    path.write_text("".join(f"{line}\n" for line in kept))
    run_cell(STUDY, cell, folder)
    rows = read_rows(path)
    seconds = rows.loc[rows["step"] == STUDY.num_steps, "train_seconds"]
    assert (
        len(kept) < len(lines) and seconds.iloc[0] == read_json(path.with_name("clock.json"))["seconds"] > 0
    )


def test_a_run_trained_again_has_the_same_weights_and_no_rows(folder):
    cell, copy = finished(0, folder), folder.parent / "copy"
    train_cell(STUDY, cell, copy)
    whole, again = (
        checkpoints.latest(path / "cells" / cell.run_id / "checkpoints") for path in (folder, copy)
    )
    assert whole and again and whole.name == again.name
    pairs = zip(*(checkpoints.load(path)[0]["ema.model"].items() for path in (whole, again)), strict=True)
    assert all(name == other and torch.equal(a, b) for (name, a), (other, b) in pairs)
    assert not (copy / "cells" / cell.run_id / "rows.jsonl").exists()


def test_the_sheet_is_there_before_its_row(folder, monkeypatch):
    cell = finished(1, folder)
    path = folder / "cells" / cell.run_id
    (path / "rows.jsonl").unlink()
    (path / "samples.png").unlink()
    monkeypatch.setattr("flowlab.jobs.cell.append_row", kill)
    with pytest.raises(KeyboardInterrupt):
        run_cell(STUDY, cell, folder, until_step=STUDY.num_steps)
    monkeypatch.undo()
    run_cell(STUDY, cell, folder)
    assert (path / "samples.png").is_file() and (path / "samples.json").is_file()


def kill(*arguments):
    raise KeyboardInterrupt


def test_faults_are_one_line_and_exit_code_2(folder):
    with pytest.raises(ValueError, match="has no run 'nothing'"):
        find_cell(STUDY, "nothing")
    command = [sys.executable, "-m", "flowlab.jobs.cell", str(folder), "nothing"]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 2 and "Traceback" not in ended.stderr
    assert ended.stderr.strip().splitlines()[-1].startswith("error: study 'test' has no run 'nothing'")
