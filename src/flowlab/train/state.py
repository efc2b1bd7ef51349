"""What a recipe and the loop hand each other: state, objectives, per-image randomness, records."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from flowlab.core.devices import default_device
from flowlab.core.seeds import Streams
from flowlab.data.batch import Batch, Dataset
from flowlab.data.loader import batches
from flowlab.train.ema import Ema
from flowlab.train.optim import OptimiserConfig

__all__ = ["Objective", "Randomness", "Recipe", "Record", "Trainable", "TrainState"]


@dataclass(frozen=True)
class Trainable:
    """An optimiser with the configuration that sets its rate."""

    optimiser: torch.optim.Optimizer
    config: OptimiserConfig

    def params(self) -> list[nn.Parameter]:
        """The parameters it updates."""
        return [param for group in self.optimiser.param_groups for param in group["params"]]


@dataclass(kw_only=True)
class TrainState:
    """Everything that changes while training, and the recipe's fixed parts beside it."""

    modules: dict[str, nn.Module]
    """Trained modules by name; saved and resumed."""
    optimisers: dict[str, Trainable]
    """By name; an Objective names the one that it steps."""
    emas: dict[str, Ema] = field(default_factory=dict)
    """By the name of the module that each follows."""
    device: torch.device = field(default_factory=default_device)
    """Where the modules are and batches go."""
    fixed: Any = None
    """What the recipe built and never trains: configuration, frozen networks."""
    step: int = 0
    """Optimiser updates made."""
    images_seen: int = 0
    """Training images consumed, repeats counted."""


@dataclass(frozen=True)
class Objective:
    """One loss and the optimiser that it drives."""

    optimiser: str
    loss: Tensor
    """(B,) one value per example, or a scalar with `batch_level`."""
    scalars: Mapping[str, Tensor] = field(default_factory=dict)
    """Detached values to record, scalars."""
    batch_level: bool = False
    """True where the loss mixes examples, so that accumulation would change it."""


@dataclass(frozen=True)
class Randomness:
    """`randomness("noise")` gives one stream per image of a micro-batch, keyed by (seed, global sample
    number)."""

    seed: int
    positions: Tensor
    """(B,) int64, the global number of each sample since the start of training."""

    def __call__(self, purpose: str) -> Streams:
        return Streams.for_samples(self.seed, self.positions, purpose=purpose)


@dataclass(frozen=True)
class Record:
    """What one update leaves for the caller, after the update."""

    step: int
    images_seen: int
    scalars: Mapping[str, Tensor]
    """On the device; reading one synchronises, so the caller decides how often."""
    saved: Path | None
    """The checkpoint written at this step, if any."""


@dataclass(frozen=True)
class Recipe:
    """The functions that make one kind of training; the loop knows nothing else of it."""

    validate: Callable[[Any], None]
    """Refuse names and numbers that cannot work, before anything is read, built or written."""
    dataset: Callable[[Any], Dataset]
    """config => training data."""
    setup: Callable[[Any, Any], TrainState]
    """(config, data) => fresh state."""
    objectives: Callable[[TrainState, Batch, Randomness], Iterator[Objective]]
    """Yields objectives in the order in which they step; an optimiser without one rests in that update."""
    preview: Callable[[TrainState], dict[str, Tensor]]
    """state => named uint8 image batches for people to look at."""
    export: Callable[[TrainState, Path], Path]
    """(state, folder) => the file that other verbs load."""
    batches: Callable[..., Iterator[tuple[Batch, int]]] = batches
    """(data, batch_size=, seed=, images_seen=) => the endless stream; grouped data bring their own."""
