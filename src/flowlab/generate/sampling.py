"""Sample final latents from a class-conditional flow model, the same image for the same index whatever
the batch.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from flowlab.core.choices import lookup
from flowlab.core.devices import PRECISIONS, autocast
from flowlab.core.seeds import Streams
from flowlab.flow.guidance import cfg
from flowlab.flow.samplers import SAMPLERS, Velocity
from flowlab.flow.schedules import check_shift, sampling_grid

__all__ = ["SamplingConfig", "check", "random_labels", "sample_latents"]


@dataclass(frozen=True, kw_only=True)
class SamplingConfig:
    """From noise to a latent."""

    sampler: str = "euler"
    """A key of flow.samplers.SAMPLERS."""
    num_steps: int = 50
    """Updates; Heun evaluates the model twice per update."""
    shift: float = 1.0
    """Sampling shift alpha, independent of the training shift."""
    guidance: float = 1.0
    """Classifier-free guidance scale; 1 = off."""
    guidance_interval: tuple[float, float] = (0.0, 1.0)
    """Times within which guidance acts."""
    batch_size: int = 250
    """Images at once; changes speed and memory only."""
    precision: str = "float32"
    """Of the network: float32, or bfloat16 by autocast. The state stays float32."""


def random_labels(num_classes: int, indices: Tensor, seed: int) -> Tensor:
    """(B,) classes drawn uniformly, one per image index: the label policy "random"."""
    return Streams.for_samples(seed, indices, purpose="labels").integers(num_classes)


def check(config: SamplingConfig, shift_place: str = "shift") -> None:
    """Refuse what cannot be sampled, before a model is read; `shift_place` is where the shift was given."""
    lookup(SAMPLERS, config.sampler, "sampler")
    lookup(PRECISIONS, config.precision, "precision")
    check_shift(config.shift, shift_place)
    sampling_grid(config.num_steps, config.shift)
    if config.batch_size < 1:
        raise ValueError(f"batch_size is {config.batch_size}; give 1 or more images at once")


@torch.no_grad()
def sample_latents(
    model: nn.Module,
    shape: tuple[int, int, int],
    labels: Tensor,
    indices: Tensor,
    seed: int,
    config: SamplingConfig,
) -> Tensor:
    """Final latents (n, *shape) for `labels` (n,); image i's noise is keyed by (seed, indices[i]).

    `model(x, t, labels)` returns an Output with `.velocity`; its null label is `model.spec.num_classes`.
    """
    check(config)
    sampler, times = SAMPLERS[config.sampler], sampling_grid(config.num_steps, config.shift)
    latents = []
    for rows in torch.arange(len(labels)).split(config.batch_size):
        streams = Streams.for_samples(seed, indices[rows], purpose="initial noise")
        noise = streams.normal(*shape).to(labels.device)
        latents.append(sampler(velocity_of(model, labels[rows], config), noise, times, generators=streams))
    return torch.cat(latents)


def velocity_of(model: nn.Module, labels: Tensor, config: SamplingConfig) -> Velocity:
    """The model's velocity for fixed labels (B,), guided where the configuration asks for it."""
    cond = _conditional(model, labels, config.precision)
    if config.guidance == 1:
        return cond
    null = torch.full_like(labels, model.spec.num_classes)  # pyright: ignore
    uncond = _conditional(model, null, config.precision)
    return cfg(cond, uncond, config.guidance, config.guidance_interval)


def _conditional(model: nn.Module, labels: Tensor, precision: str) -> Velocity:
    def velocity(x: Tensor, t: Tensor) -> Tensor:
        with autocast(x.device, precision):
            return model(x, t, labels).velocity.float()

    return velocity
