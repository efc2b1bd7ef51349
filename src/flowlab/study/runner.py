"""Run a study: prepare each autoencoder, run the cells in order of importance, gather rows as they appear.

Everything is in files, so the same command goes on where any earlier one stopped, and Ctrl-C loses at most
the cells in hand since their last checkpoint.
"""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import pandas as pd

from flowlab.core.config import from_dict, to_dict
from flowlab.core.devices import num_workers
from flowlab.core.files import exclusive, read_json, write_json
from flowlab.core.stopping import terminating
from flowlab.study import results
from flowlab.study.engine import Engine, Job, LocalEngine
from flowlab.study.grid import Cell, Study, validate
from flowlab.study.plots.words import fid_label

__all__ = [
    "Outcome",
    "Shift",
    "Task",
    "cell_tasks",
    "check_folder",
    "claim_folder",
    "gather",
    "run",
    "work_through",
]

POLL_SECONDS = 0.3
FREE = {  # of the machine, or without effect on a result: a folder may go on with others
    "gate": True,
    "seconds_per_step": 0.0,
    "seconds_per_repa_step": 0.0,
    "seconds_per_evaluation": 0.0,
    "num_workers": 1,
    "hardware": "",
}
REPORT_SECONDS = 12.0  # kept back from a budget for gathering and the report


@dataclass(frozen=True)
class Task:
    """One command of a study."""

    name: str
    command: list[str]
    needs: str | None
    """The name of the task that must be done first."""


@dataclass
class Outcome:
    """What a run of the runner did."""

    finished: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    """Task name => last line of its log."""
    missing: list[str] = field(default_factory=list)
    """What still lacks rows."""
    seconds: float = 0.0


def run(
    study: Study,
    folder: Path,
    *,
    budget_seconds: float | None = None,
    workers: int | None = None,
    engine: Engine | None = None,
    say: Callable[[str], None] = print,
) -> Outcome:
    """Compute what is missing of `study` in `folder`; stops starting cells when the budget would be
    overrun."""
    claim_folder(study, folder)
    deadline = time.monotonic() + budget_seconds - REPORT_SECONDS if budget_seconds else float("inf")
    shift = Shift(
        folder=folder,
        gather=lambda: missing_runs(study, gather(study, folder)),
        say=say,
        engine=engine or LocalEngine(),
        num_slots=num_workers(workers),
        deadline=deadline,
    )
    return work_through(list(tasks(study, folder)), shift)


def missing_runs(study: Study, rows: pd.DataFrame) -> list[str]:
    """The runs that lack a row."""
    return [job.run_id for job in results.next_jobs(study, rows)]


def work_through(queue: list[Task], shift: Shift) -> Outcome:
    """Run `queue` alone in the shift's folder; no job outlives this call, whatever ends it but SIGKILL."""
    with exclusive(shift.folder), terminating():
        try:
            return shift.work(queue)
        except KeyboardInterrupt:
            shift.stop()
            shift.gather()
            raise
        finally:
            shift.stop()


@dataclass(kw_only=True)
class Shift:
    """One sitting of work: slots, what runs in them, and when to stop."""

    folder: Path
    gather: Callable[[], list[str]]
    """Bring the rows that jobs left into the folder's tables; returns the names of what is still missing."""
    say: Callable[[str], None] = print
    engine: Engine = field(default_factory=LocalEngine)
    num_slots: int = field(default_factory=num_workers)
    deadline: float = float("inf")
    """On time.monotonic's clock."""
    running: dict[str, tuple[Job, float]] = field(default_factory=dict)
    outcome: Outcome = field(default_factory=Outcome)
    durations: list[float] = field(default_factory=list)

    def work(self, queue: list[Task]) -> Outcome:
        """Run the queue to its end or the deadline."""
        start, total = time.monotonic(), len(queue)
        waiting = {task.name for task in queue}
        while queue or self.running:
            if self._out_of_time():
                self.stop()
                break
            self._start(queue, waiting)
            if not self.running:
                break
            time.sleep(POLL_SECONDS)
            ended = self._collect(waiting)
            if ended:
                self.gather()
                left = len(queue) + len(self.running)
                self.say(f"[{total - left}/{total}] {', '.join(ended)}{self._eta(left)}")
        self.outcome.missing = self.gather()
        self.outcome.seconds = time.monotonic() - start
        return self.outcome

    def stop(self) -> None:
        """Cancel everything that runs."""
        for job, _ in self.running.values():
            self.engine.cancel(job)
        self.running.clear()

    def _start(self, queue: list[Task], waiting: set[str]) -> None:
        for task in list(queue):
            if len(self.running) >= self.num_slots or self._too_late():
                return
            if task.needs in self.outcome.failed:
                queue.remove(task)
                waiting.discard(task.name)
                self.outcome.failed[task.name] = f"needs {task.needs}"
            elif task.needs not in waiting:
                log = self.folder / "logs" / f"{task.name.replace(' ', '_')}.log"
                self.running[task.name] = (self.engine.submit(task.command, log, 1), time.monotonic())
                queue.remove(task)

    def _collect(self, waiting: set[str]) -> list[str]:
        ended = []
        for name, (job, started) in list(self.running.items()):
            state = self.engine.poll(job)
            if state == "running":
                continue
            del self.running[name]
            waiting.discard(name)
            seconds = time.monotonic() - started
            if state == "failed":
                self.outcome.failed[name] = last_line(job)
                ended.append(f"{name} FAILED: {self.outcome.failed[name]}")
            else:
                self.outcome.finished.append(name)
                self.durations.append(seconds)
                ended.append(f"{name} ({seconds:.0f} s)")
        return ended

    def _too_late(self) -> bool:
        """True where a task of typical length would not end in time."""
        longest = max(self.durations, default=0.0)
        return time.monotonic() + 0.8 * longest > self.deadline

    def _out_of_time(self) -> bool:
        return time.monotonic() > self.deadline or (self._too_late() and not self.running)

    def _eta(self, left: int) -> str:
        if not self.durations or not left:
            return ""
        recent = self.durations[-10:]
        return f"; about {left * sum(recent) / len(recent) / self.num_slots / 60:.0f} min left"


# ---- tasks -------------------------------------------------------------------------------------------------


def tasks(study: Study, folder: Path) -> Iterator[Task]:
    """What is still to do, in order: each cell right after the autoencoder that it needs."""
    jobs = results.next_jobs(study, results.collect(folder))
    return cell_tasks(folder, ((job.cell, ["--until-step", str(job.until_step)]) for job in jobs))


def cell_tasks(folder: Path, work: Iterable[tuple[Cell, list[str]]]) -> Iterator[Task]:
    """A task for each cell and its options, right after the autoencoder that it needs."""
    prepared = set()
    for cell, options in work:
        ae = cell.arm.ae
        name = f"prepare {ae}"
        if ae not in prepared and not is_prepared(ae, folder):
            yield Task(name, [sys.executable, "-m", "flowlab.jobs.prepare", str(folder), ae], None)
        prepared.add(ae)
        words = [str(folder), cell.run_id, *options]
        yield Task(cell.run_id, [sys.executable, "-m", "flowlab.jobs.cell", *words], name)


def is_prepared(ae: str, folder: Path) -> bool:
    """True where the shared parts of an autoencoder exist."""
    return (folder / "reconstruction" / f"{ae}.json").is_file()


def last_line(job: Job) -> str:
    """The last line that the job wrote and that is not empty."""
    written = job.log.read_bytes()[job.log_start :].decode(errors="replace")
    lines = [line for line in written.splitlines() if line.strip()]
    return lines[-1] if lines else f"no output in {job.log}"


# ---- files -------------------------------------------------------------------------------------------------


def claim_folder(study: Study, folder: Path) -> None:
    """Write study.json, or refuse a folder in which another study runs."""
    found = check_folder(study, folder)
    if found is None:
        write_json(folder / "study.json", to_dict(study))
    elif found.gate != study.gate:  # the jobs read it there
        write_json(folder / "study.json", to_dict(replace(found, gate=study.gate)))


def check_folder(study: Study, folder: Path) -> Study | None:
    """The settings that `folder` holds, None where it is free; those of another study are a ValueError."""
    validate(study)
    path = folder / "study.json"
    if path.is_file():
        found = from_dict(Study, read_json(path), str(path))
        if other := _first_difference(replace(found, **FREE), replace(study, **FREE)):
            raise ValueError(
                f"{folder} holds a study with other settings ({other}); "
                "give another --out or delete the folder"
            )
        return found
    if (folder / "results.parquet").is_file():
        raise ValueError(
            f"{folder} holds results.parquet without study.json; copy both or give another --out"
        )
    return None


def _first_difference(found: Study, asked: Study) -> str:
    """The first field that differs, with both values where they are short; "" where none does."""
    for name in (one.name for one in fields(Study)):
        theirs, ours = getattr(found, name), getattr(asked, name)
        if theirs != ours:
            return name if isinstance(ours, tuple) else f"{name} {theirs!r} there, {ours!r} here"
    return ""


def gather(study: Study, folder: Path) -> pd.DataFrame:
    """Rows, reconstruction rows and pictures of all cells into the files that the report reads."""
    rows = results.collect(folder)
    results.write_results(folder / "results.parquet", rows)
    made = sorted((folder / "reconstruction").glob("*.json"))
    if made:
        _gather_reconstruction(folder / "reconstruction.parquet", [read_json(path) for path in made])
    _gather_pictures(folder)
    return rows


def _gather_reconstruction(path: Path, made: list[dict[str, Any]]) -> None:
    """Rows that the table has already stay, as those of a copied folder; of one autoencoder the newest."""
    table = results.frame(made, results.RECONSTRUCTION_COLUMNS)
    if path.is_file():
        table = pd.concat([results.read_reconstruction(path), table]).sort_values("created", kind="stable")
        table = table.drop_duplicates("ae", keep="last").sort_values("ae", ignore_index=True)
    results.write_reconstruction(path, table)


def _gather_pictures(folder: Path) -> None:
    samples, entries = folder / "samples", []
    samples.mkdir(exist_ok=True)
    for picture in sorted((folder / "reconstruction").glob("*.png")):
        file = f"reconstruction_{picture.stem}.png"
        shutil.copyfile(picture, samples / file)
        caption = f"{picture.stem}: originals above, reconstructions below"
        entries.append(
            {"kind": "reconstruction", "ae": picture.stem, "run_id": "", "caption": caption, "file": file}
        )
    for described in sorted((folder / "cells").glob("*/samples.json")):  # written after its picture
        row, picture = read_json(described), described.with_suffix(".png")
        file = f"grid_{row['run_id']}.png"
        shutil.copyfile(picture, samples / file)
        caption = (
            f"{row['run_id']}, step {row['step']}, sampling shift {row['sampleshift']}, "
            f"{fid_label(pd.DataFrame([row]))}: {row['fid']:.1f}"
        )
        entries.append(
            {"kind": "samples", "ae": row["ae"], "run_id": row["run_id"], "caption": caption, "file": file}
        )
    _merge_manifest(samples, entries)


def _merge_manifest(samples: Path, entries: list[dict[str, str]]) -> None:
    """Pictures of a copied folder stay beside the new ones, as long as their files are there."""
    path = samples / "manifest.json"
    before = [one for one in read_json(path) if (samples / one["file"]).is_file()] if path.is_file() else []
    merged = {one["file"]: one for one in [*before, *entries]}
    write_json(path, sorted(merged.values(), key=lambda one: (one["kind"], one["file"])))
