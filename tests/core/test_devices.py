"""How many processes at once: the cores we may use, or one on a GPU."""

from __future__ import annotations

import os
import sys

import pytest
import torch

from flowlab.core import devices
from flowlab.core.devices import num_workers, usable_cores


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


@pytest.mark.parametrize(
    ("outer", "inner", "cores"),
    [
        ("max 100000", "max 100000", 10_000),
        ("max 100000", "100000 100000", 1),
        ("150000 100000", "max 100000", 1),
        ("max 100000", "20000 100000", 1),
        ("300000 100000", "900000 100000", 3),
    ],
)
def test_the_quota_of_a_container_counts(tmp_path, outer, inner, cores):
    group = tmp_path / "fs" / "a" / "b"
    group.mkdir(parents=True)
    (group.parent / "cpu.max").write_text(outer)
    (group / "cpu.max").write_text(inner)
    (tmp_path / "own").write_text("0::/a/b\n")
    assert usable_cores(tmp_path / "fs", tmp_path / "own") == min(cores, _cores())


def test_without_groups_the_bound_cores_count(tmp_path):
    assert usable_cores(tmp_path / "none", tmp_path / "nosuch") == _cores()


def test_a_gpu_is_not_shared_and_an_explicit_number_stands(monkeypatch):
    assert num_workers() == usable_cores()
    monkeypatch.setattr(devices, "default_device", lambda: torch.device("cuda"))
    assert num_workers() == 1 and num_workers(7) == 7
    with pytest.raises(ValueError, match="--workers is 0; give 1 or more"):
        num_workers(0)
