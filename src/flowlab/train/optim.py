"""Optimisers and learning-rate schedules, as functions of images seen."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from flowlab.core.choices import lookup

__all__ = ["OPTIMISERS", "SCHEDULES", "OptimiserConfig", "build", "rate_factor", "restore", "validate"]


@dataclass(frozen=True, kw_only=True)
class OptimiserConfig:
    """What updates the weights. The default is the study's: AdamW, constant rate, no weight decay."""

    name: str = "adamw"
    """A key of OPTIMISERS."""
    learning_rate: float = 1e-4
    """Per update, at the schedule's plateau."""
    betas: tuple[float, float] = (0.9, 0.999)
    """AdamW's decay of the first and second moment."""
    weight_decay: float = 0.0
    """Decoupled (Loshchilov and Hutter 2019)."""
    schedule: str = "constant"
    """A key of SCHEDULES."""
    warmup_images: int = 0
    """Images over which the rate rises linearly from zero."""


class Muon(torch.optim.Optimizer):
    """torch.optim.Muon for every matrix (embeddings and the last layer too), AdamW for the rest.

    Muon's rate is matched to AdamW's update size (`match_rms_adamw`, Liu et al. 2025, arXiv 2502.16982), so
    both halves share one learning rate.
    """

    def __init__(self, params: Iterable[nn.Parameter], config: OptimiserConfig):
        params = list(params)
        super().__init__(params, {"lr": config.learning_rate})
        matrices = [p for p in params if p.ndim == 2]
        others = [p for p in params if p.ndim != 2]
        self._parts: list[torch.optim.Optimizer] = []
        if matrices:
            muon = torch.optim.Muon(
                matrices,
                lr=config.learning_rate,
                weight_decay=config.weight_decay,
                adjust_lr_fn="match_rms_adamw",
            )
            self._parts.append(muon)
        if others:
            self._parts.append(_adamw(others, config))

    def step(self, closure: Any = None) -> None:
        """Step both halves at the group's current rate."""
        for part in self._parts:
            for group in part.param_groups:
                group["lr"] = self.param_groups[0]["lr"]
            part.step(closure)

    def state_dict(self) -> dict[str, Any]:
        """The halves' states side by side."""
        return {"parts": [part.state_dict() for part in self._parts]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore both halves."""
        for part, state in zip(self._parts, state_dict["parts"], strict=True):
            restore(part, state)


def _adamw(params: Iterable[nn.Parameter], config: OptimiserConfig) -> torch.optim.Optimizer:
    """Fused: one kernel for all tensors, on CPU too."""
    return torch.optim.AdamW(
        params, lr=config.learning_rate, betas=config.betas, weight_decay=config.weight_decay, fused=True
    )


OPTIMISERS = {"adamw": _adamw, "muon": Muon}


def validate(config: OptimiserConfig) -> None:
    """Refuse unknown names and impossible rates."""
    if not 0 < config.learning_rate < math.inf:
        raise ValueError(f"optimiser.learning_rate is {config.learning_rate}; it must be a positive number")
    for name in ("weight_decay", "warmup_images"):
        if not 0 <= getattr(config, name) < math.inf:
            raise ValueError(f"optimiser.{name} is {getattr(config, name)}; give 0 or more")
    lookup(SCHEDULES, config.schedule, "learning-rate schedule")
    lookup(OPTIMISERS, config.name, "optimiser")


def build(params: Iterable[nn.Parameter], config: OptimiserConfig) -> torch.optim.Optimizer:
    """The optimiser named in `config` over `params`."""
    validate(config)
    return lookup(OPTIMISERS, config.name, "optimiser")(params, config)


def restore(optimiser: torch.optim.Optimizer, saved: dict[str, Any]) -> None:
    """Load a state; moments then lie in memory as their parameters do.

    Files hold rows. Fused kernels walk a parameter and its moments as two lines of numbers, and would pair
    those of an NHWC weight with moments of other places, without an error.
    """
    optimiser.load_state_dict(saved)
    for param, state in optimiser.state.items():
        for name, value in state.items():
            if isinstance(value, Tensor) and value.shape == param.shape:
                state[name] = torch.empty_like(param, dtype=value.dtype).copy_(value)


# ---- schedules: progress in [0, 1] -> factor ---------------------------------------------------------------

SCHEDULES = {
    "constant": lambda progress: 1.0,
    "cosine": lambda progress: 0.5 * (1 + math.cos(math.pi * progress)),
    "linear": lambda progress: 1 - progress,
}


def rate_factor(config: OptimiserConfig, images_seen: int, total_images: int) -> float:
    """The factor on the learning rate for the update that starts after `images_seen` images."""
    warmup = min(1.0, (images_seen + 1) / config.warmup_images) if config.warmup_images else 1.0
    return warmup * SCHEDULES[config.schedule](min(1.0, images_seen / max(1, total_images)))
