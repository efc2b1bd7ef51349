"""Which device to use, a GPU where there is one, and how many processes at once."""

from __future__ import annotations

import math
import os
import platform
import sys
from pathlib import Path

import torch
from torch import nn

from flowlab.core.choices import lookup

__all__ = [
    "PRECISIONS",
    "autocast",
    "default_device",
    "device_of",
    "machine",
    "num_workers",
    "usable_cores",
]

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """A context in which matrix products run in `precision`, a key of PRECISIONS; float32 changes nothing."""
    dtype = lookup(PRECISIONS, precision, "precision")
    return torch.autocast(device.type, dtype, enabled=dtype != torch.float32)


def default_device() -> torch.device:
    """A CUDA GPU where there is one, else the CPU; the environment variable FLOWLAB_DEVICE overrides.

    Never mps by itself: training times and distances are float64, which it does not have.
    """
    if name := os.environ.get("FLOWLAB_DEVICE"):
        return torch.device(name)
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def num_workers(asked: int | None = None) -> int:
    """Processes of one thread to run at once: `asked`, else one per usable core, and one alone on a GPU."""
    if asked is None:
        return 1 if default_device().type == "cuda" else usable_cores()
    if asked < 1:
        raise ValueError(f"--workers is {asked}; give 1 or more")
    return asked


def usable_cores(groups: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> int:
    """Cores that this process may use: those it is bound to, or fewer where a container's quota is less."""
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    return max(1, math.floor(min(cores, _quota(groups, own))))


def device_of(module: nn.Module) -> torch.device:
    """Where a module's weights are."""
    return next(module.parameters()).device


def machine(device: torch.device) -> str:
    """What a result row says of the hardware: the accelerator, or the processor and its cores."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{_processor()}, {os.cpu_count()} cores"


def _quota(groups: Path, own: Path) -> float:
    """Cores that cgroup v2 grants: the least of our group's and those above it; infinite without a limit."""
    lines = own.read_text().splitlines() if own.is_file() else []
    inside = next((line.removeprefix("0::") for line in lines if line.startswith("0::")), "")
    group, limits = groups / inside.strip("/"), [math.inf]
    for file in (place / "cpu.max" for place in (group, *group.parents)):
        if file.is_relative_to(groups) and file.is_file():
            quota, period = file.read_text().split()
            limits.append(math.inf if quota == "max" else int(quota) / int(period))
    return min(limits)


def _processor() -> str:
    """The processor's model where the system tells, its architecture otherwise."""
    table = Path("/proc/cpuinfo")
    lines = table.read_text().splitlines() if table.is_file() else []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()
