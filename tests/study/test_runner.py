"""The runner on debug studies: rows appear, a second call computes nothing, kills and failures are
survived."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from flowlab.core.files import exclusive, read_json, write_json
from flowlab.study import results, runner
from flowlab.study.engine import Job, LocalEngine
from flowlab.study.grid import Study, cells
from flowlab.study.studies import build


class FakeEngine:
    """Jobs end at once; `fails` names those that fail."""

    def __init__(self, fails: str = "nothing") -> None:
        self.started: list[str] = []
        self.fails = fails
        self.cancelled = 0

    def submit(self, command: list[str], log: Path, num_threads: int) -> Job:
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text("warning\nerror: the last line\n\n")
        self.started.append(" ".join(command[2:3] + command[4:]))
        return Job(len(self.started) - 1, log)

    def poll(self, job: Job) -> str:
        return "failed" if self.fails in self.started[job.number] else "done"

    def cancel(self, job: Job) -> None:
        self.cancelled += 1


class StuckEngine(FakeEngine):
    """Jobs never end."""

    def poll(self, job: Job) -> str:
        return "running"


def study() -> Study:
    return build("quickstart", debug=True)


@pytest.fixture(autouse=True)
def quick_polls(monkeypatch):
    monkeypatch.setattr(runner, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(runner, "REPORT_SECONDS", 0.0)


def test_cells_wait_for_their_autoencoder_and_keep_their_order(tmp_path):
    engine = FakeEngine()
    outcome = runner.run(study(), tmp_path, engine=engine, workers=1, say=lambda line: None)
    arms = [cell.arm.ae for cell in cells(study())]
    expected = [f"flowlab.jobs.{kind} {name}" for ae, cell in zip(arms, cells(study()), strict=True)
                for kind, name in (("prepare", ae), ("cell", f"{cell.run_id} --until-step 4"))]  # fmt: skip
    assert engine.started == expected and not outcome.failed
    assert outcome.missing == [cell.run_id for cell in cells(study())], "a fake engine leaves no rows"


def test_a_failed_autoencoder_fails_its_cells_and_no_others(tmp_path):
    engine = FakeEngine(fails=f"prepare {cells(study())[0].arm.ae}")
    outcome = runner.run(study(), tmp_path, engine=engine, workers=2, say=lambda line: None)
    first, second = (cell.run_id for cell in cells(study()))
    assert outcome.failed[f"prepare {cells(study())[0].arm.ae}"] == "error: the last line"
    assert first in outcome.failed and second in outcome.finished


def test_the_budget_stops_on_time_and_lists_what_is_missing(tmp_path):
    engine = StuckEngine()
    began = time.monotonic()
    outcome = runner.run(
        study(), tmp_path, budget_seconds=0.5, engine=engine, workers=2, say=lambda line: None
    )
    assert time.monotonic() - began < 3 and engine.cancelled >= 1 and len(outcome.missing) == 2


@pytest.mark.parametrize("end", [KeyboardInterrupt, RuntimeError])
def test_no_job_outlives_the_runner_and_the_folder_is_free_again(tmp_path, end):
    class Ends(StuckEngine):
        def poll(self, job: Job) -> str:
            raise end

    engine = Ends()
    with pytest.raises(end):
        runner.run(study(), tmp_path, engine=engine, workers=2, say=lambda line: None)
    assert engine.cancelled == len(engine.started) > 0
    runner.run(study(), tmp_path, engine=FakeEngine(), workers=2, say=lambda line: None)


def test_two_runners_never_share_a_folder(tmp_path):
    with exclusive(tmp_path), pytest.raises(ValueError, match="another process works in"):
        runner.run(study(), tmp_path, engine=FakeEngine(), say=lambda line: None)


def test_another_study_in_the_folder_is_refused(tmp_path):
    runner.claim_folder(study(), tmp_path)
    runner.claim_folder(study(), tmp_path)
    with pytest.raises(ValueError, match="other settings"):
        runner.claim_folder(replace(study(), num_reference=97), tmp_path)


def test_a_look_at_a_folder_writes_nothing_and_names_what_differs(tmp_path):
    assert runner.check_folder(study(), tmp_path / "new") is None and list(tmp_path.iterdir()) == []
    runner.claim_folder(study(), tmp_path)
    assert runner.check_folder(study(), tmp_path) == study()
    with pytest.raises(ValueError, match=r"other settings \(dataset 'digits' there, 'mine' here\)"):
        runner.check_folder(replace(study(), dataset="mine"), tmp_path)


def test_a_folder_goes_on_without_the_gate(tmp_path):
    runner.claim_folder(replace(study(), num_workers=9), tmp_path)
    runner.claim_folder(replace(study(), gate=False), tmp_path)
    found = runner.check_folder(study(), tmp_path)
    assert found == replace(study(), num_workers=9, gate=False), "the jobs read it there"


def test_gathering_keeps_the_reconstruction_rows_and_pictures_of_a_copied_folder(tmp_path):
    def row(ae: str, psnr: float, created: str) -> dict[str, object]:
        blank = {name: kind() for name, kind in results.RECONSTRUCTION_COLUMNS.items()}
        return blank | {"ae": ae, "psnr": psnr, "created": created}

    copied = [row("sd", 1.0, "2026-01-01T00:00:00+00:00"), row("rae", 2.0, "2026-01-01T00:00:00+00:00")]
    path, pictures = tmp_path / "reconstruction.parquet", tmp_path / "samples"
    results.write_reconstruction(path, results.frame(copied, results.RECONSTRUCTION_COLUMNS))
    entries = [
        {"kind": kind, "ae": ae, "run_id": "", "caption": "old", "file": f"{kind}_{ae}.png"}
        for kind, ae in (("reconstruction", "sd"), ("reconstruction", "rae"), ("samples", "gone"))
    ]
    write_json(pictures / "manifest.json", entries)
    (tmp_path / "reconstruction").mkdir()
    write_json(tmp_path / "reconstruction" / "sd.json", row("sd", 3.0, "2026-02-01T00:00:00+00:00"))
    (tmp_path / "reconstruction" / "sd.png").write_bytes(b"new")
    (pictures / "reconstruction_rae.png").write_bytes(b"old")
    for _ in range(2):
        runner.gather(study(), tmp_path)
        found = results.read_reconstruction(path)
        assert dict(zip(found["ae"], found["psnr"], strict=True)) == {"rae": 2.0, "sd": 3.0}
        listed = {entry["file"]: entry["caption"] for entry in read_json(pictures / "manifest.json")}
        assert list(listed) == ["reconstruction_rae.png", "reconstruction_sd.png"]
        assert listed["reconstruction_rae.png"] == "old" != listed["reconstruction_sd.png"]


def test_the_local_engine_reports_cancels_and_logs(tmp_path):
    engine = LocalEngine()
    good = engine.submit(
        [sys.executable, "-c", "import os; print(os.environ['OMP_NUM_THREADS'])"], tmp_path / "a", 1
    )
    bad = engine.submit([sys.executable, "-c", "raise SystemExit(3)"], tmp_path / "b", 1)
    slow = engine.submit([sys.executable, "-c", "import time; time.sleep(60)"], tmp_path / "c", 1)
    deadline = time.monotonic() + 30
    while "running" in (engine.poll(good), engine.poll(bad)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert (engine.poll(good), engine.poll(bad), engine.poll(slow)) == ("done", "failed", "running")
    engine.cancel(slow)
    assert engine.poll(slow) == "failed" and (tmp_path / "a").read_text() == "1\n"


@pytest.mark.parametrize(
    ("command", "says"), [("exit 1", "no output in {log}"), ("kill -KILL $$", "ended by signal 9 (Killed)")]
)
def test_a_silent_failure_is_not_blamed_on_what_stood_in_its_log(tmp_path, command, says):
    engine, log = LocalEngine(), tmp_path / "a"
    log.write_text("error: of the run before\n")
    job = engine.submit(["sh", "-c", command], log, 1)
    while engine.poll(job) == "running":
        time.sleep(0.05)
    assert (engine.poll(job), runner.last_line(job)) == ("failed", says.format(log=log))


# ---- for real: a debug study in subprocesses ---------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "debug"
    outcome = runner.run(study(), folder, workers=2, say=lambda line: None)
    assert not outcome.failed and not outcome.missing, outcome
    return folder


def test_a_debug_study_leaves_every_planned_row(finished):
    rows = results.read_results(finished / "results.parquet")
    planned = len(cells(study())) * len(study().checkpoints) * len(study().sample_shifts)
    assert len(rows) == planned and list(rows.columns[:7]) == [
        "step", "ae", "repa", "trainp", "trainshift", "sampleshift", "fid"
    ]  # fmt: skip
    assert rows["fid"].notna().all() and (rows["features"] == "digits judge").all()
    assert len(results.read_reconstruction(finished / "reconstruction.parquet")) == 2
    pictures = read_json(finished / "samples" / "manifest.json")
    captions = [one["caption"] for one in pictures if one["kind"] == "samples"]
    assert captions and all("FID, digits judge: " in caption for caption in captions)
    assert (rows["kid_se"] > 0).all()


def test_running_again_starts_nothing(finished):
    engine = FakeEngine()
    outcome = runner.run(study(), finished, engine=engine, say=lambda line: None)
    assert engine.started == [] and outcome.missing == []


def test_a_run_that_lacks_early_rows_alone_is_not_trained_to_its_end(finished, tmp_path):
    (tmp_path / "study.json").write_bytes((finished / "study.json").read_bytes())
    rows, run = results.read_results(finished / "results.parquet"), cells(study())[1].run_id
    lost = (rows["run_id"] == run) & (rows["step"] == 2)
    results.write_results(tmp_path / "results.parquet", rows[~lost])
    assert [task.command[-3:] for task in runner.tasks(study(), tmp_path)][-1] == [run, "--until-step", "2"]


def test_a_study_goes_on_from_its_results_and_settings_alone(finished, tmp_path):
    (tmp_path / "results.parquet").write_bytes((finished / "results.parquet").read_bytes())
    with pytest.raises(ValueError, match="holds results.parquet without study.json; copy both"):
        runner.run(study(), tmp_path, engine=FakeEngine(), say=lambda line: None)
    (tmp_path / "study.json").write_bytes((finished / "study.json").read_bytes())
    engine = FakeEngine()
    runner.run(study(), tmp_path, engine=engine, say=lambda line: None)
    assert engine.started == []


@pytest.mark.slow
def test_sigkill_of_the_whole_study_loses_no_finished_row(tmp_path, finished):
    """Kill runner and jobs mid-way, run again, and compare every FID with the uninterrupted study."""
    folder = tmp_path / "runs" / "debug"
    script = (
        "import sys; from pathlib import Path; from flowlab.study import runner; "
        "from flowlab.study.studies import build; "
        "runner.run(build('quickstart', debug=True), Path(sys.argv[1]), workers=1)"
    )
    process = subprocess.Popen([sys.executable, "-c", script, str(folder)], start_new_session=True)
    deadline = time.monotonic() + 240
    while not list(folder.glob("cells/*/rows.jsonl")) and time.monotonic() < deadline:
        time.sleep(0.05)
    jobs = subprocess.run(["pgrep", "-f", str(folder)], capture_output=True, text=True).stdout.split()
    for pid in {str(process.pid), *jobs}:
        os.kill(int(pid), signal.SIGKILL)
    process.wait()
    outcome = runner.run(study(), folder, workers=2, say=lambda line: None)
    assert not outcome.failed and not outcome.missing
    ours, theirs = (results.read_results(path / "results.parquet") for path in (folder, finished))
    key = list(results.KEY)
    merged = ours.merge(theirs, on=key, suffixes=("", "_whole"))
    assert len(merged) == len(theirs) and (merged["fid"] == merged["fid_whole"]).all()
