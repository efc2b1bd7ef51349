"""How far each latent channel moves the pixels.

A latent that is whitened channel by channel hides what its channels are worth: all have unit variance, while
one may set the colour of a whole token and another a trace of its texture. Of the 32 channels of `flux2` one
takes 38 % of what noise in the latent does to the pixels, 92 times the median (docs/log.md).
"""

from __future__ import annotations

import torch
from torch import Tensor

from flowlab.autoencoders.base import Autoencoder
from flowlab.core.seeds import Streams

__all__ = ["channel_sensitivity", "channel_weights"]

STEP = 0.2
"""Standard deviation of the noise on a channel, in units of the latent's own."""


@torch.no_grad()
def channel_sensitivity(model: Autoencoder, latent: Tensor, seed: int = 0) -> Tensor:
    """(C,): mean squared change of the pixels over that of the channel, around final latents (B, C, h, w).

    Each channel alone is moved by Gaussian noise; deterministic in `seed`. One image is decoded at a time,
    C + 1 times, so that the largest decoders fit.
    """
    streams = Streams.for_samples(seed, torch.arange(len(latent)), purpose="sensitivity")
    noise = STEP * streams.normal(*latent.shape[1:]).to(latent)
    changes = torch.stack([_changes(model, *pair) for pair in zip(latent, noise, strict=True)])  # (B, C)
    return changes.mean(0) / noise.square().mean((0, 2, 3))


def _changes(model: Autoencoder, latent: Tensor, noise: Tensor) -> Tensor:
    """(C,): mean squared change of one image's pixels by the noise (C, h, w) of each channel alone."""
    still, found = model.decode(latent[None]), []
    for channel, moved_by in enumerate(noise):
        moved = latent[None].clone()
        moved[:, channel] += moved_by
        found.append((model.decode(moved) - still).square().mean())
    return torch.stack(found)


def channel_weights(sensitivity: Tensor, power: float) -> Tensor:
    """(C,) of mean 1, proportional to sensitivity^power: 0 weighs channels alike, 1 as the pixels do."""
    weights = sensitivity.double() ** power
    return (weights / weights.mean()).float()
