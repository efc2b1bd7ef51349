"""The MLPs of a block."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["MLPS", "GeluMLP", "SwiGLU"]


class GeluMLP(nn.Module):
    """Linear, GELU, linear: (..., width) => (..., width). `approximate` is torch's: "tanh" or "none"."""

    def __init__(self, width: int, hidden: int, bias: bool = True, approximate: str = "tanh"):
        super().__init__()
        self.approximate = approximate
        self.in_layer = nn.Linear(width, hidden, bias=bias)
        self.out_layer = nn.Linear(hidden, width, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.out_layer(F.gelu(self.in_layer(x), approximate=self.approximate))


class SwiGLU(nn.Module):
    """Linear to two halves, SiLU(first) times second, linear (Shazeer 2020, arXiv 2002.05202)."""

    def __init__(self, width: int, hidden: int, bias: bool = True):
        super().__init__()
        self.in_layer = nn.Linear(width, 2 * hidden, bias=bias)
        self.out_layer = nn.Linear(hidden, width, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.in_layer(x).chunk(2, dim=-1)  # (..., hidden) each
        return self.out_layer(F.silu(gate) * value)


MLPS: dict[str, Callable[[int, int], nn.Module]] = {
    "gelu": GeluMLP,  #                                     DiT, SiT, FLUX.1: the tanh form
    "gelu_exact": partial(GeluMLP, approximate="none"),  #  within 5e-4 of it; on a CPU a quarter of its cost
    "swiglu": SwiGLU,  #                                    LightningDiT, FLUX.2: 3 matrices where GELU has 2
}
