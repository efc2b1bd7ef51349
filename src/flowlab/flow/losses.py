"""Conditional flow matching (Lipman et al. 2023, arXiv 2210.02747, Eq. 9)."""

from __future__ import annotations

from torch import Tensor

__all__ = ["flow_loss"]


def flow_loss(prediction: Tensor, target: Tensor, channel_weights: Tensor | None = None) -> Tensor:
    """Mean squared error of each example: two (B, C, ...) => (B,), in float32 whatever the inputs.

    `channel_weights` (C,) weighs the channels. The minimiser, E[target | x_t] in each channel, is the same
    for all positive weights; what a model that falls short of it gets right first is not.
    """
    assert prediction.shape == target.shape, f"{tuple(prediction.shape)} against {tuple(target.shape)}"
    error = (prediction.float() - target.float()).square()
    if channel_weights is not None:
        error = error * channel_weights.view(-1, *[1] * (error.ndim - 2))
    return error.flatten(1).mean(dim=1)
