"""Less memory for the same numbers: recomputed activations and NHWC tensors, applied from outside a model."""

from __future__ import annotations

from functools import partial

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

__all__ = ["channels_last", "recompute"]


def recompute(model: nn.Module) -> int:
    """Let every block forget its activations and compute them again in the backward pass; how many there are.

    A block is a member of a list named `block` or `blocks`, or a whole middle named `mid`. Names of weights
    stay; copy the model before (an EMA needs none of it).
    """
    found = [module for name, module in model.named_modules() if _is_block(name)]
    for module in found:
        module.forward = partial(checkpoint, module.forward, use_reentrant=False)
    return len(found)


def channels_last(model: nn.Module) -> None:
    """Store 4-D weights as NHWC; convolutions then keep their activations so."""
    model.to(memory_format=torch.channels_last)  # pyright: ignore


def _is_block(name: str) -> bool:
    parts = name.split(".")
    return parts[-1] == "mid" or (len(parts) > 1 and parts[-1].isdigit() and parts[-2] in ("block", "blocks"))
