"""Speed and memory: counts against what a call is known to take."""

from __future__ import annotations

import math
import subprocess
import sys
import time

import pytest
import torch
from tests.evaluate.toys import Pooled

from flowlab.evaluate.speed import seconds, speed

CPU = torch.device("cpu")


def test_seconds_of_a_known_wait():
    calls = []

    def call() -> None:
        calls.append(time.sleep(0.02))

    found = seconds(call, CPU, 3)
    assert len(calls) == 4 and len(found) == 3  # one to warm up
    assert all(0.02 <= one < 1 for one in found)


def test_peak_memory_sees_what_was_freed_again():
    """Two blocks of 80 MB one after the other: the peak is one of them, not their sum.

    In a process of its own: the heap of one that ran other tests may keep the first block.
    """
    script = """
import torch
from flowlab.evaluate.speed import peak_memory
block = lambda: float(torch.ones(20_000_000).sum())
print(peak_memory(lambda: block() + block(), torch.device("cpu")))
"""
    told = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    found = float(told.stdout)
    if math.isnan(found):
        pytest.skip("this system does not let a process reset its peak memory")
    assert 75e6 < found < 110e6


def test_columns():
    row = speed(Pooled(), torch.zeros(2, 3, 32, 32), repeats=2)
    assert list(row) == [
        "encode_per_second",
        "encode_memory_gb",
        "decode_per_second",
        "decode_memory_gb",
        "speed_batch",
        "machine",
    ]
    assert row["speed_batch"] == 2 and float(row["encode_per_second"]) > 0 and row["machine"]


def test_nothing_to_time_is_an_error():
    with pytest.raises(ValueError, match="repeats=0 of 2 images"):
        speed(Pooled(), torch.zeros(2, 3, 32, 32), repeats=0)
