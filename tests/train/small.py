"""Short runs of small autoencoders, shared by the tests of their terms."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from flowlab.data.batch import Batch
from flowlab.data.embedded import digits
from flowlab.train.autoencoder import (
    AdversaryConfig,
    AutoencoderConfig,
    EndToEndConfig,
    EquivarianceConfig,
)
from flowlab.train.loop import LoopConfig
from flowlab.train.run import recipe_of, start
from flowlab.train.state import Randomness, TrainState

SHORT = LoopConfig(batch_size=8, num_steps=4, save_steps=(2,))
JOINT = EndToEndConfig(weight=1.5)
PATCH = AdversaryConfig(weight=0.5, channels=8)
HEADS = AdversaryConfig(weight=0.75, kind="features", augment=True, round_fakes=True, blocks=(0, 3))
ALWAYS = EquivarianceConfig(probability=1.0)


def config(**changes) -> AutoencoderConfig:
    return AutoencoderConfig(**({"autoencoder": "flux2", "num_images": 32, "loop": SHORT} | changes))


def part(state: TrainState, name: str) -> Any:
    """A module whose attributes the type checker need not know."""
    return state.modules[name]


def fresh(settings: AutoencoderConfig) -> tuple[TrainState, Batch, Randomness]:
    """An untrained state with its first batch."""
    recipe = recipe_of(settings)
    state = recipe.setup(settings, recipe.dataset(settings))
    return state, digits("train", num_images=8).read(torch.arange(8)), Randomness(0, torch.arange(8))


def equal(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    own, other = a.state_dict(), b.state_dict()
    return own.keys() == other.keys() and all(torch.equal(own[name], other[name]) for name in own)


def steps(settings: AutoencoderConfig, folder: Path, until: int | None = None):
    state, records = start(settings, folder, until)
    return state, list(records)
