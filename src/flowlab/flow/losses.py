"""Conditional flow matching (Lipman et al. 2023, arXiv 2210.02747, Eq. 9)."""

from __future__ import annotations

from torch import Tensor

__all__ = ["flow_loss"]


def flow_loss(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean squared error of each example: two (B, ...) => (B,), in float32 whatever the inputs."""
    assert prediction.shape == target.shape, f"{tuple(prediction.shape)} against {tuple(target.shape)}"
    return (prediction.float() - target.float()).square().flatten(1).mean(dim=1)
