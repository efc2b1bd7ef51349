"""What all tests share: one thread, no device but the processor, hypothesis without a clock."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: two thread pools on shared cores collapse
os.environ.setdefault("FLOWLAB_DEVICE", "cpu")

from hypothesis import settings

settings.register_profile("flowlab", deadline=None, derandomize=True, database=None, max_examples=50)
settings.load_profile("flowlab")
