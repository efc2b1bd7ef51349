"""The one training loop: the only owner of accumulation, clipping, EMA, saving and resuming."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from flowlab.core import checkpoints
from flowlab.core.weights import load_strict
from flowlab.data.batch import Batch, Dataset
from flowlab.train.optim import rate_factor, restore
from flowlab.train.state import Objective, Randomness, Recipe, Record, TrainState

__all__ = ["LoopConfig", "load_state", "train"]


@dataclass(frozen=True, kw_only=True)
class LoopConfig:
    """How long, how much at once, how often saved."""

    seed: int = 0
    """Of the weights, the data order and every draw."""
    batch_size: int = 64
    """Images per update."""
    micro_batch_size: int = 0
    """Images per backward pass; 0 means the whole batch. Must divide it."""
    num_steps: int = 1000
    """Updates in all."""
    clip_norm: float = 1.0
    """Gradients of each objective are scaled down to this norm; 0 turns it off."""
    save_steps: tuple[int, ...] = ()
    """Updates after which a checkpoint is written; the last always is."""
    save_every: int = field(default=0, metadata={"in_id": False})
    """Updates between further checkpoints, each with previews; 0 = none but those. Changes no result."""
    keep: int = 0
    """Newest checkpoints to keep; 0 keeps all."""
    check_every: int = 50
    """Updates between reads of the non-finite flag (each read waits for the device)."""


def train(
    recipe: Recipe,
    state: TrainState,
    dataset: Dataset,
    config: LoopConfig,
    folder: Path,
    until_step: int | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> Iterator[Record]:
    """Train from the newest checkpoint under `folder` (or from `state`), yielding a Record after each update.

    Ends at `until_step`, at the end of the configuration, or after the update in which `stop` became true,
    and saves there. The same call continues bit for bit on one device.
    """
    validate(config)
    if until_step is not None and until_step < 1:
        raise ValueError(f"until_step is {until_step}; stop after update 1 at the earliest")
    if (newest := checkpoints.latest(folder)) is not None:
        load_state(state, newest)
    last = config.num_steps if until_step is None else min(config.num_steps, until_step)
    stream = recipe.batches(
        dataset, batch_size=config.batch_size, seed=config.seed, images_seen=state.images_seen
    )
    trouble = {name: torch.zeros((), dtype=torch.int64, device=state.device) for name in state.optimisers}
    stopped = False
    while state.step < last and not stopped:
        torch.manual_seed(
            config.seed * 1_000_003 + state.step
        )  # any draw that is not keyed still resumes exactly
        scalars = update(recipe, state, next(stream)[0].to(state.device), config, trouble)
        stopped = stop()
        due = stopped or _save_is_due(state.step, last, config)
        if due or state.step % config.check_every == 0:
            _stop_if_not_finite(trouble)
        saved = save_state(state, folder, config.keep) if due else None
        yield Record(state.step, state.images_seen, scalars, saved)


def update(
    recipe: Recipe, state: TrainState, batch: Batch, config: LoopConfig, trouble: dict[str, Tensor]
) -> dict[str, Tensor]:
    """One optimiser update per objective over the whole batch, accumulated over micro-batches."""
    size, micro = len(batch), config.micro_batch_size or len(batch)
    scalars: dict[str, Tensor] = {}
    for start in range(0, size, micro):
        rows = slice(start, start + micro)
        first, last = state.images_seen + start, state.images_seen + min(start + micro, size)
        positions = torch.arange(first, last, device=state.device)
        share = len(positions) / size
        for objective in recipe.objectives(state, batch[rows], Randomness(config.seed, positions)):
            loss = _mean_loss(objective, split=micro < size)
            torch.autograd.backward(loss * share, inputs=state.optimisers[objective.optimiser].params())
            for name, value in {f"loss/{objective.optimiser}": loss.detach(), **objective.scalars}.items():
                scalars[name] = scalars.get(name, 0) + value * share
    for name, trainable in state.optimisers.items():
        if f"loss/{name}" not in scalars:  # its objective was not due, as a discriminator before its start
            continue
        params = [param for param in trainable.params() if param.grad is not None]
        norm = torch.nn.utils.clip_grad_norm_(params, config.clip_norm or float("inf"))
        _mask_if_not_finite(params, norm + scalars[f"loss/{name}"], trouble[name], state.step + 1)
        factor = rate_factor(trainable.config, state.images_seen, config.num_steps * config.batch_size)
        trainable.optimiser.param_groups[0]["lr"] = trainable.config.learning_rate * factor
        trainable.optimiser.step()
        trainable.optimiser.zero_grad(set_to_none=True)
        scalars[f"gradient_norm/{name}"] = norm
    state.step += 1
    state.images_seen += size
    for name, ema in state.emas.items():
        ema.update(state.modules[name], state.step)
    return scalars


def validate(config: LoopConfig) -> None:
    """Refuse impossible counts before anything is built."""
    for name in ("batch_size", "num_steps", "check_every"):
        if getattr(config, name) < 1:
            raise ValueError(f"loop.{name} is {getattr(config, name)}; it must be at least 1")
    for name in ("micro_batch_size", "clip_norm", "save_every", "keep"):
        if not 0 <= getattr(config, name) < math.inf:
            raise ValueError(f"loop.{name} is {getattr(config, name)}; 0 turns it off, give that or more")
    if config.micro_batch_size and config.batch_size % config.micro_batch_size:
        raise ValueError(f"{config.micro_batch_size=} does not divide {config.batch_size=}")


# ---- parts of an update ------------------------------------------------------------------------------------


def _mean_loss(objective: Objective, split: bool) -> Tensor:
    """The one place where a loss per example becomes a number."""
    if objective.batch_level and split:
        raise ValueError(
            f"the {objective.optimiser!r} objective mixes the examples of a batch; set micro_batch_size to 0"
        )
    assert objective.batch_level or objective.loss.ndim == 1, f"loss of shape {tuple(objective.loss.shape)}"
    return objective.loss.mean()


def _mask_if_not_finite(
    params: list[torch.nn.Parameter], witness: Tensor, first_bad: Tensor, step: int
) -> None:
    """Zero the gradients and note the step where `witness` is not finite, without leaving the device."""
    finite = torch.isfinite(witness)
    for param in params:
        assert param.grad is not None
        param.grad.copy_(torch.where(finite, param.grad, 0))
    first_bad.copy_(torch.where(finite | (first_bad > 0), first_bad, step))


def _stop_if_not_finite(trouble: dict[str, Tensor]) -> None:
    for name, first_bad in trouble.items():
        if int(first_bad) > 0:
            raise ValueError(
                f"the loss or gradient of {name!r} stopped being finite at step {int(first_bad)}; "
                "lower the learning rate or clip_norm and start again in another folder"
            )


# ---- saving ------------------------------------------------------------------------------------------------


def _save_is_due(step: int, last: int, config: LoopConfig) -> bool:
    in_turn = config.save_every > 0 and step % config.save_every == 0
    return in_turn or step in config.save_steps or step == last


def save_state(state: TrainState, folder: Path, keep: int) -> Path:
    """Write modules, EMAs, optimisers and counters as one checkpoint."""
    groups = {f"module.{name}": module.state_dict() for name, module in state.modules.items()}
    groups |= {f"ema.{name}": ema.module.state_dict() for name, ema in state.emas.items()}
    packed = {}
    for name, trainable in state.optimisers.items():
        tensors: dict[str, Tensor] = {}
        packed[name] = checkpoints.pack(trainable.optimiser.state_dict(), tensors, "state")
        if tensors:  # none before the first step, and a file of no tensors cannot be read
            groups[f"optimiser.{name}"] = tensors
    counters = {"step": state.step, "images_seen": state.images_seen, "optimisers": packed}
    counters["unstepped"] = [name for name in packed if f"optimiser.{name}" not in groups]
    return checkpoints.save(folder, state.step, groups, counters, keep=keep)


def load_state(state: TrainState, path: Path) -> None:
    """Read a checkpoint into `state`; every tensor must find its place."""
    groups, counters = checkpoints.load(path)
    _check_counters(counters, state, path)
    for name, module in state.modules.items():
        load_strict(module, _group(groups, f"module.{name}", path), where=str(path))
    for name, ema in state.emas.items():
        load_strict(ema.module, _group(groups, f"ema.{name}", path), where=str(path))
    for name, trainable in state.optimisers.items():
        unstepped = name in counters.get("unstepped", ())
        tensors = {} if unstepped else _group(groups, f"optimiser.{name}", path)
        restore(trainable.optimiser, checkpoints.unpack(counters["optimisers"][name], tensors))
    state.step, state.images_seen = counters["step"], counters["images_seen"]


def _check_counters(counters: Any, state: TrainState, path: Path) -> None:
    """A state.json that is not this recipe's is a ValueError that names what it lacks."""
    found = counters if isinstance(counters, dict) else {}
    absent = [name for name in ("step", "images_seen", "optimisers") if name not in found]
    absent = absent or [f"optimisers.{name}" for name in state.optimisers if name not in found["optimisers"]]
    if absent:
        raise ValueError(f"{path}/state.json lacks {absent[0]!r}; delete {path} to resume earlier")


def _group(groups: dict[str, dict[str, Tensor]], name: str, path: Path) -> dict[str, Tensor]:
    if name not in groups:
        raise ValueError(f"{path} has no {name}.safetensors; it was written by another recipe")
    return groups[name]
