"""REPA-E's scaffold (Leng et al. 2025, arXiv 2504.10483): a flow model that trains beside an autoencoder.

The encoder feels it through the alignment loss only. The flow loss sees detached latents: back-propagated
into the encoder it would make the latent trivial to predict, and empty.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from flowlab.autoencoders.base import LatentSpec
from flowlab.backbones.sit import SiT
from flowlab.backbones.sizes import build
from flowlab.core.devices import autocast
from flowlab.flow import path
from flowlab.flow.alignment import Projector, alignment_loss
from flowlab.flow.losses import flow_loss
from flowlab.train.autoencoder_config import EndToEndConfig
from flowlab.train.flow import draw_times
from flowlab.train.state import Randomness

__all__ = ["Draw", "alignment", "flow_objective", "modules"]

EPS, MOMENTUM = 1e-4, 0.1  # of the BatchNorm in front of the flow model, as REPA-E and FLUX.2


@dataclass(frozen=True, kw_only=True)
class Draw:
    """One step's noise and times; both objectives see the same, as published."""

    tokens: Tensor
    """(B, C, h, w) latent before normalisation, attached to the encoder."""
    noise: Tensor
    """(B, C, h, w)."""
    t: Tensor
    """(B,)"""
    labels: Tensor
    """(B,) int64 classes."""
    target: Tensor
    """(B, N, D) teacher tokens."""


def modules(
    config: EndToEndConfig, spec: LatentSpec, num_classes: int, teacher_channels: int, tokens: Tensor
) -> dict[str, nn.Module]:
    """The flow model, the BatchNorm before it and the projector after its block, by their checkpoint names.

    The BatchNorm starts from the statistics of `tokens` (n, C, h, w). Without labels all are one class.
    """
    model = build(config.backbone, channels=spec.channels, grid=spec.grid, num_classes=max(1, num_classes))
    norm = nn.BatchNorm2d(spec.channels, eps=EPS, momentum=MOMENTUM, affine=False)
    assert norm.running_mean is not None and norm.running_var is not None
    norm.running_mean.copy_(tokens.mean((0, 2, 3)))
    norm.running_var.copy_(tokens.var((0, 2, 3)))
    projector = Projector(model.spec.width, config.hidden, teacher_channels)
    return {"flow": model, "flow_norm": norm, "flow_projector": projector}


def draw(
    config: EndToEndConfig, tokens: Tensor, labels: Tensor | None, target: Tensor, randomness: Randomness
) -> Draw:
    """Noise, times and labels for latents (B, C, h, w) before normalisation."""
    return Draw(
        tokens=tokens,
        noise=randomness("flow noise").normal(*tokens.shape[1:]),
        t=draw_times(config.times, randomness("flow time")),
        labels=torch.zeros(len(tokens), dtype=torch.int64, device=tokens.device)
        if labels is None
        else labels,
        target=target,
    )


def alignment(
    config: EndToEndConfig, parts: Mapping[str, nn.Module], drawn: Draw, device: torch.device, precision: str
) -> Tensor:
    """(B,) alignment loss through the flow model as it stands, with the running statistics: the encoder's."""
    x0 = parts["flow_norm"].eval()(drawn.tokens.float())
    return _forward(config, parts, drawn, x0, drawn.labels, device, precision)[1]


def flow_objective(
    config: EndToEndConfig,
    parts: Mapping[str, nn.Module],
    drawn: Draw,
    randomness: Randomness,
    device: torch.device,
    precision: str,
) -> tuple[Tensor, Tensor]:
    """(B,) flow loss and (B,) alignment loss on the detached latent, normalised by its own batch."""
    x0 = parts["flow_norm"].train()(drawn.tokens.detach().float())
    dropped = randomness("flow class dropout").uniform() < config.class_dropout
    model = parts["flow"]
    assert isinstance(model, SiT)
    labels = torch.where(dropped, model.spec.num_classes, drawn.labels)
    velocity, aligned = _forward(config, parts, drawn, x0, labels, device, precision)
    return flow_loss(velocity, path.target(x0, drawn.noise)), aligned


def _forward(
    config: EndToEndConfig,
    parts: Mapping[str, nn.Module],
    drawn: Draw,
    x0: Tensor,
    labels: Tensor,
    device: torch.device,
    precision: str,
) -> tuple[Tensor, Tensor]:
    x_t = path.interpolate(x0, drawn.noise, drawn.t)
    with autocast(device, precision):
        output = parts["flow"](x_t, drawn.t, labels, keep=(config.block,))
        projected = parts["flow_projector"](output.hidden[config.block])
    return output.velocity, alignment_loss(projected, drawn.target)
