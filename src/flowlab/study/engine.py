"""Where jobs run. An engine is three methods; the local one starts a process per core with one thread
each.
"""

from __future__ import annotations

import os
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

__all__ = ["Engine", "Job", "LocalEngine"]


@dataclass(frozen=True)
class Job:
    """A submitted command."""

    number: int
    log: Path
    """Where its output goes."""
    log_start: int = 0
    """Bytes that earlier jobs left there."""


class Engine(Protocol):
    """submit, poll, cancel: all that a study asks of a machine or a cluster."""

    def submit(self, command: list[str], log: Path, num_threads: int) -> Job:
        """Start `command`; its output goes to `log`."""
        ...

    def poll(self, job: Job) -> str:
        """running, done or failed."""
        ...

    def cancel(self, job: Job) -> None:
        """Stop it now; a finished job stays as it is."""
        ...


# glibc hands large buffers back at each free; faulting them in again cost a fp32 worker a quarter of its
# time.
KEEP_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(2**25), "MALLOC_TRIM_THRESHOLD_": str(2**30)}
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


class LocalEngine:
    """Processes on this machine."""

    def __init__(self) -> None:
        self._processes: dict[int, subprocess.Popen[bytes]] = {}

    def submit(self, command: list[str], log: Path, num_threads: int) -> Job:
        """One thread pool of `num_threads` per process: two threads in one process collapse under load."""
        log.parent.mkdir(parents=True, exist_ok=True)
        threads = dict.fromkeys(THREADS, str(num_threads))
        with open(log, "ab") as output:
            start = output.tell()
            process = subprocess.Popen(
                command,
                stdout=output,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                env=os.environ | KEEP_MEMORY | threads,
                start_new_session=True,  # Ctrl-C reaches the runner, which decides
            )
        self._processes[process.pid] = process
        return Job(process.pid, log, start)

    def poll(self, job: Job) -> str:
        """The state of the process; a signal that ended it is named in its log."""
        process = self._processes[job.number]
        known, code = process.returncode, process.poll()
        if known is None and code is not None and code < 0:
            with open(job.log, "a") as output:
                output.write(f"\nended by signal {-code} ({signal.strsignal(-code)})\n")
        return "running" if code is None else "done" if code == 0 else "failed"

    def cancel(self, job: Job) -> None:
        """Terminate, then kill after five seconds."""
        process = self._processes[job.number]
        process.terminate()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
