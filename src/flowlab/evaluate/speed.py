"""How fast an autoencoder encodes and decodes, and how much memory each takes at most."""

from __future__ import annotations

import ctypes
import gc
import math
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from flowlab.autoencoders.base import Autoencoder
from flowlab.core.devices import device_of, machine

__all__ = ["peak_memory", "seconds", "speed"]


@torch.no_grad()
def speed(autoencoder: Autoencoder, pixels: Tensor, *, repeats: int = 3) -> dict[str, float | int | str]:
    """Columns of a result row from one batch of pixels (B, 3, H, W) in [-1, 1] on the autoencoder's device.

    `encode_per_second`, `decode_per_second`: images, from the median of `repeats` calls after one to warm
    up; encoding ends at the final latent. `encode_memory_gb`, `decode_memory_gb`: the weights and what the
    call adds at its peak, in 1e9 bytes (`peak_memory`). `speed_batch`: B, which both depend on.
    """
    if repeats < 1 or len(pixels) == 0:
        raise ValueError(f"{repeats=} of {len(pixels)} images measure no speed; give at least 1 of each")
    device, weights = device_of(autoencoder), _bytes(autoencoder)
    latent = autoencoder.latents(pixels)
    row: dict[str, float | int | str] = {}
    calls: dict[str, Callable[[], Tensor]] = {
        "encode": lambda: autoencoder.latents(pixels),
        "decode": lambda: autoencoder.decode(latent),
    }
    for name, call in calls.items():
        row[f"{name}_per_second"] = len(pixels) / statistics.median(seconds(call, device, repeats))
        row[f"{name}_memory_gb"] = (weights + peak_memory(call, device)) / 1e9
    return row | {"speed_batch": len(pixels), "machine": machine(device)}


def seconds(call: Callable[[], object], device: torch.device, repeats: int) -> list[float]:
    """Duration of each of `repeats` calls after one to warm up; the device is waited for around a call."""
    durations = []
    for _ in range(repeats + 1):
        _wait(device)
        start = time.perf_counter()
        call()
        _wait(device)
        durations.append(time.perf_counter() - start)
    return durations[1:]


def peak_memory(call: Callable[[], object], device: torch.device) -> float:
    """Bytes that `call` needs at its peak beyond those in use before it.

    CUDA: `max_memory_allocated`, exact. CPU: the rise of the process' resident size, which on Linux alone can
    be reset and read; NaN elsewhere. It counts whole pages and the libraries' workspace, sees the whole
    process, and misses what fits into memory the allocator already held (freed heap is given back first), so
    below about 10 MB it says little.
    """
    gc.collect()
    if device.type == "cuda":
        _wait(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        call()
        _wait(device)
        return float(torch.cuda.max_memory_allocated(device) - before)
    if device.type != "cpu" or not _reset_resident_peak():
        return math.nan
    before = _resident("VmRSS")
    call()
    return max(0.0, _resident("VmHWM") - before)


# ---- the process and the device ----------------------------------------------------------------------------


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def _bytes(autoencoder: Autoencoder) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in autoencoder.state_dict().values())


def _reset_resident_peak() -> bool:
    """Give freed heap back and set the peak to the present size; False where the system cannot."""
    try:
        ctypes.CDLL(None).malloc_trim(0)  # glibc; without it freed blocks hide what the call takes
        Path("/proc/self/clear_refs").write_text("5")
        return True
    except (OSError, AttributeError, TypeError):
        return False


def _resident(field: str) -> float:
    """VmRSS or VmHWM of this process in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(float(line.split()[1]) * 1024 for line in lines if line.startswith(field))
