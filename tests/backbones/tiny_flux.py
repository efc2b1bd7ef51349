"""Tiny FLUX models with random weights, for tests of files and adapters."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from flowlab.backbones.flux1 import Flux1, Flux1Spec
from flowlab.backbones.flux2 import Flux2, Flux2Spec
from flowlab.backbones.flux_names import Layout, sources

SIZES: dict[str, Any] = {"width": 64, "heads": 2, "double_blocks": 2, "single_blocks": 3, "channels": 8}
TEXT, POOLED = 24, 12
AXES = {"flux1": (8, 12, 12), "flux2": (8, 8, 8, 8)}


def tiny(family: str, **options: Any) -> Flux1 | Flux2:
    """A model of heads 32 wide whose every tensor is random."""
    sizes = {**SIZES, "text_width": TEXT, "guidance": True}
    if family == "flux2":
        model = Flux2(Flux2Spec(**{**sizes, "axes": (8, 8, 8, 8), **options}))
    else:
        own = {"axes": (8, 12, 12), "in_channels": 8, "pooled_width": POOLED}
        model = Flux1(Flux1Spec(**{**sizes, **own, **options}))
    generator = torch.Generator().manual_seed(0)
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.1, generator=generator)
    return model.eval()


def inputs(model: Flux1 | Flux2) -> dict[str, Any]:
    """Arguments of `velocity` for two samples of 3 x 5 tokens."""
    generator = torch.Generator().manual_seed(1)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    spec = model.spec
    given: dict[str, Any] = {
        "latent": normal(2, spec.channels, 3, 5),
        "t": torch.tensor([0.3, 0.9]),
        "text": normal(2, 7, spec.text_width),
    }
    if spec.guidance:
        given["guidance"] = torch.tensor([4.0, 2.5])
    if isinstance(spec, Flux1Spec):
        given["pooled"] = normal(2, spec.pooled_width)
        if spec.in_channels > spec.channels:
            given["concat"] = normal(2, spec.in_channels - spec.channels, 3, 5)
    return given


def official(family: str, **options: Any) -> dict[str, Tensor]:
    """The tensors of an official file, without metadata."""
    return renamed(tiny(family, **options), "official")


def renamed(model: torch.nn.Module, naming: str) -> dict[str, Tensor]:
    assert isinstance(model, (Flux1, Flux2))
    spec = model.spec
    layout = Layout(
        family="flux1" if isinstance(model, Flux1) else "flux2",
        double_blocks=spec.double_blocks,
        single_blocks=spec.single_blocks,
        guidance=spec.guidance,
    )
    own = model.state_dict()
    return {source.names[0]: own[ours].detach() for ours, source in sources(layout, naming).items()}
