"""Experiments as functions: each returns one full configuration; `debug=True` is its rehearsal of seconds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flowlab.presets import digits

__all__ = ["PRESETS"]

PRESETS: dict[str, Callable[..., Any]] = {
    "teacher_digits": digits.teacher_digits,
    "judge_digits": digits.judge_digits,
    "ae_sd_digits": digits.ae_sd_digits,
    "ae_flux1_digits": digits.ae_flux1_digits,
    "ae_flux1_semantic_digits": digits.ae_flux1_semantic_digits,
    "ae_flux2_digits": digits.ae_flux2_digits,
    "ae_flux2_plain_digits": digits.ae_flux2_plain_digits,
    "ae_rae_digits": digits.ae_rae_digits,
    "flow_flux2_digits": digits.flow_flux2_digits,
}
