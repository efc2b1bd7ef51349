"""Which device to use: a GPU where there is one."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import torch
from torch import nn

from flowlab.core.choices import lookup

__all__ = ["PRECISIONS", "autocast", "default_device", "device_of", "machine"]

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


def device_of(module: nn.Module) -> torch.device:
    """Where a module's weights are."""
    return next(module.parameters()).device


def machine(device: torch.device) -> str:
    """What a result row says of the hardware: the accelerator, or the processor and its cores."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{_processor()}, {os.cpu_count()} cores"


def _processor() -> str:
    """The processor's model where the system tells, its architecture otherwise."""
    table = Path("/proc/cpuinfo")
    lines = table.read_text().splitlines() if table.is_file() else []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()
