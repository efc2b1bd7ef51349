"""Where a model's weights lie while it runs: all on the device, or one layer at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from flowlab.backbones.flux import Flux
from flowlab.layers.packed import pack_linears

__all__ = ["OFFLOADS", "offload_blocks", "to_device"]


def to_device(model: Flux, device: torch.device) -> None:
    """Everything on the device; on a CPU blocks are a sixth faster in its own layout, and stay in it."""
    model.to(device)
    for blocks in (model.double_blocks, model.single_blocks):
        pack_linears(blocks)


def offload_blocks(model: nn.Module, device: torch.device) -> None:
    """The linear layers of all blocks stay in main memory; each visits the device while it computes.

    The device then holds one layer and what is not in a block. Every step copies the whole model once: slow,
    and the way to run a model that does not fit. In pinned memory, where the device is a GPU.
    """
    inside = [
        layer
        for name, layer in model.named_modules()
        if isinstance(layer, nn.Linear) and name.startswith(("double_blocks.", "single_blocks."))
    ]
    homes = [{name: _pinned(one, device) for name, one in layer.named_parameters()} for layer in inside]
    for layer in inside:
        _put(layer, {})  # out of the way of what moves for good
    model.to(device)
    for layer, home in zip(inside, homes, strict=True):
        layer.register_forward_pre_hook(partial(_visit, home, device))
        layer.register_forward_hook(partial(_leave, home))
        _put(layer, home)


def _visit(home: Mapping[str, Tensor], device: torch.device, layer: nn.Module, *_: Any) -> None:
    _put(layer, {name: one.to(device, non_blocking=True) for name, one in home.items()})


def _leave(home: Mapping[str, Tensor], layer: nn.Module, *_: Any) -> None:
    _put(layer, home)


def _put(layer: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """These as the layer's frozen parameters, the same memory; a name that is not given becomes None."""
    for name in ("weight", "bias"):
        one = tensors.get(name)
        layer.register_parameter(name, None if one is None else nn.Parameter(one, requires_grad=False))


def _pinned(tensor: Tensor, device: torch.device) -> Tensor:
    tensor = tensor.detach()
    return tensor.pin_memory() if device.type == "cuda" else tensor


OFFLOADS: dict[str, Callable[[Flux, torch.device], None]] = {"none": to_device, "blocks": offload_blocks}
