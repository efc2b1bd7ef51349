"""Final latents from a FLUX model: noise and conditions in, one prepared condition for all steps."""

from __future__ import annotations

import torch
from torch import Tensor

from flowlab.backbones.condition import Condition
from flowlab.backbones.flux import Flux
from flowlab.core.seeds import Streams
from flowlab.flow.guidance import cfg
from flowlab.flow.samplers import OnStep, Velocity, euler

__all__ = ["initial_noise", "sample"]


def initial_noise(seeds: list[int], indices: list[int], shape: tuple[int, int, int]) -> Tensor:
    """(B, *shape) float32, on the CPU and so the same for every device; row i is keyed by (seed, index)."""
    rows = [
        Streams.for_samples(seed, torch.tensor([index]), purpose="initial noise").normal(*shape)
        for seed, index in zip(seeds, indices, strict=True)
    ]
    return torch.cat(rows)


@torch.no_grad()
def sample(
    model: Flux,
    condition: Condition,
    negative: Condition | None,
    x: Tensor,
    times: Tensor,
    *,
    scale: float = 1.0,
    on_step: OnStep | None = None,
) -> Tensor:
    """Integrate x (B, C, h, w) float32 from times[0] to times[-1] by Euler's method; float32 again.

    `negative` is the other side of classifier-free guidance, used where `scale` is not 1. The state stays
    float32; the network computes in the precision of its weights.
    """
    size = (x.shape[-2], x.shape[-1])
    velocity = _prepared(model, condition, size, times)
    if negative is not None and scale != 1:
        velocity = cfg(velocity, _prepared(model, negative, size, times), scale)
    return euler(velocity, x, times, on_step=on_step)


def _prepared(model: Flux, condition: Condition, size: tuple[int, int], times: Tensor) -> Velocity:
    """The velocity under a fixed condition; text, references and modulations of all times are run once."""
    prepared = model.prepare(
        size,
        condition.text,
        pooled=condition.pooled,
        guidance=condition.guidance,
        references=condition.references,
        origin=condition.origin,
        concat=condition.concat,
        times=times.to(torch.float32),
    )
    return lambda x, t: model.denoise(x, t, prepared).velocity
