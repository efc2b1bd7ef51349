"""Published SiT, REPA and DiT weights as models of ours: names, channel orders, time, output.

The files differ from our conventions in five ways, and every one is folded into the weights here, so that
what comes out is an ordinary model of ours for final latents:

* their patch convolution is a linear map of (c, row, column), so a patch-2 model of C channels is a patch-1
  model of 4 C;
* their output rows are (row, column, channel) and become (channel, row, column);
* their learned sigma, the second half of the output channels, is dropped;
* SiT's time is 1 at data: a sinusoid of 1 - t is a rotation of the sinusoid of t, which the first time layer
  absorbs, and the velocity changes sign, which the last layer absorbs;
* DiT predicts noise on a curved path, which no weights can absorb: `NoisePrediction` wraps it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn

from flowlab.backbones.output import Output
from flowlab.backbones.sit import SiT, SiTSpec, empty
from flowlab.backbones.sizes import SIZES
from flowlab.core.choices import lookup
from flowlab.core.config import from_dict
from flowlab.core.weights import load_strict

__all__ = ["MARKER", "VARIANTS", "NoisePrediction", "Variant", "from_official", "official_spec"]

MARKER = "x_embedder.proj.weight"
"""The tensor by which an official file of the family is known."""


@dataclass(frozen=True)
class Variant:
    """What the shapes of a file cannot tell."""

    data_at_one: bool = False
    """Time is 1 at data and the velocity points from noise to data."""
    predicts_noise: bool = False
    """The output is the noise of a variance-preserving diffusion of 1000 steps."""
    time_scale: float = 1.0
    """Factor on t before the sinusoid."""


VARIANTS = {
    "sit": Variant(data_at_one=True),  #                         willisma/SiT: the default
    "repa": Variant(),  #                                        sihyun-yu/REPA: known by its projectors
    "dit": Variant(predicts_noise=True, time_scale=1000.0),  #   facebookresearch/DiT
}


def from_official(
    tensors: Mapping[str, Tensor], *, variant: str | None = None, where: str = "checkpoint", **overrides: Any
) -> nn.Module:
    """A model of ours, in eval mode and float32, from an official state dict.

    `variant` is a key of VARIANTS; without one a file with REPA's projectors is "repa", any other "sit".
    `overrides` are fields of SiTSpec that shapes cannot tell (heads, where the size is not a published one).
    A missing, unmatched or misshapen tensor is a ValueError that names it.
    """
    projectors = [name for name in tensors if name.startswith("projectors.")]
    chosen = lookup(VARIANTS, variant or ("repa" if projectors else "sit"), "SiT variant")
    spec = official_spec(tensors, where=where, **{"time_scale": chosen.time_scale, **overrides})
    ours = {name: tensor.float() for name, tensor in tensors.items() if name not in projectors}
    ours = _permuted(ours, where)
    if chosen.data_at_one:
        _turn_time(ours, spec.time_scale)
    model = empty(spec)
    load_strict(model, ours, renames(spec.depth), where)
    return (NoisePrediction(model) if chosen.predicts_noise else model).eval()


def official_spec(tensors: Mapping[str, Tensor], *, where: str = "checkpoint", **overrides: Any) -> SiTSpec:
    """The spec, for final latents (patch 1), that the shapes of an official state dict imply."""
    for name in (MARKER, "pos_embed", "y_embedder.embedding_table.weight", _TIME, *_OUTPUT):
        if name not in tensors:
            raise ValueError(f"{where} lacks {name!r}; it is not a SiT or DiT checkpoint")
    width, channels, patch, _ = tensors[MARKER].shape
    blocks = {int(found[1]) for name in tensors if (found := re.match(r"blocks\.(\d+)\.", name))}
    sizes = {(size.width, size.depth): size.heads for size in SIZES.values()}
    depth = len(blocks)
    if (width, depth) not in sizes and "heads" not in overrides:
        raise ValueError(f"{where}: width {width}, depth {depth} is no published size; say heads=<number>")
    known = {name: name for name in SiTSpec.__dataclass_fields__}
    for name in overrides:
        lookup(known, name, "override of a SiT")
    fields: dict[str, Any] = {
        "channels": channels * patch**2,
        "grid": math.isqrt(tensors["pos_embed"].shape[1]),
        "num_classes": len(tensors["y_embedder.embedding_table.weight"]) - 1,
        "width": width,
        "depth": depth,
        "heads": sizes.get((width, depth), 0),
    }
    return from_dict(SiTSpec, {**fields, **overrides}, f"{where} spec")


def renames(depth: int) -> dict[str, str]:
    """Official name => ours, every tensor listed."""
    modules = {
        "x_embedder.proj": "patch_in",
        "t_embedder.mlp.0": "time_in.in_layer",
        "t_embedder.mlp.2": "time_in.out_layer",
        "final_layer.linear": "final.linear",
        "final_layer.adaLN_modulation.1": "final.modulation.lin",
    }
    for i in range(depth):
        modules |= {f"blocks.{i}.{theirs}": f"blocks.{i}.{ours}" for theirs, ours in _BLOCK.items()}
    table = {"pos_embed": "position", "y_embedder.embedding_table.weight": "label_in.weight"}
    for kind in ("weight", "bias"):
        table |= {f"{theirs}.{kind}": f"{ours}.{kind}" for theirs, ours in modules.items()}
    return table


_BLOCK = {
    "attn.qkv": "attention.qkv",
    "attn.proj": "attention.proj",
    "mlp.fc1": "mlp.in_layer",
    "mlp.fc2": "mlp.out_layer",
    "adaLN_modulation.1": "modulation.lin",
}
_TIME = "t_embedder.mlp.0.weight"
_OUTPUT = ("final_layer.linear.weight", "final_layer.linear.bias")


# ---- what the weights absorb -------------------------------------------------------------------------------


def _permuted(tensors: dict[str, Tensor], where: str) -> dict[str, Tensor]:
    """Convolution to linear, output rows to (c, row, column), learned sigma dropped."""
    channels, patch = tensors[MARKER].shape[1:3]
    moved = {MARKER: tensors[MARKER].flatten(1)}  # (width, c p q)
    moved["pos_embed"] = tensors["pos_embed"].squeeze(0)  # (N, width)
    for name in _OUTPUT:
        per_pixel = len(tensors[name]) // patch**2
        if per_pixel not in (channels, 2 * channels):
            raise ValueError(f"{where}: {name!r} has {per_pixel} rows a pixel, expected {channels} or twice")
        rows = rearrange(tensors[name], "(p q c) ... -> c p q ...", p=patch, q=patch)[:channels]
        moved[name] = rearrange(rows, "c p q ... -> (c p q) ...")
    return {**tensors, **moved}


def _turn_time(tensors: dict[str, Tensor], time_scale: float) -> None:
    """Replace f(1 - t) by its equal in t, and -v by v, in place.

    With w = rate * time_scale: cos(w (1 - t)) = cos w cos wt + sin w sin wt and sin(w (1 - t)) = sin w cos wt
    - cos w sin wt, so the columns of the first layer that read (cos, sin) turn by w.
    """
    weight = tensors[_TIME].double()
    half = weight.shape[1] // 2
    angle = time_scale * torch.exp(-math.log(10000.0) / half * torch.arange(half, dtype=torch.float64))
    on_cos, on_sin = weight[:, :half], weight[:, half:]
    turned = [on_cos * angle.cos() + on_sin * angle.sin(), on_cos * angle.sin() - on_sin * angle.cos()]
    tensors[_TIME] = torch.cat(turned, dim=1).float()
    for name in _OUTPUT:
        tensors[name] = -tensors[name]


# ---- what they cannot --------------------------------------------------------------------------------------


class NoisePrediction(nn.Module):
    """A model that predicts the noise of DDPM's diffusion, answering as one that predicts our velocity.

    The diffusion's state sqrt(a) x0 + sqrt(1 - a) noise (Ho et al. 2020, arXiv 2006.11239, linear betas 1e-4
    to 0.02 over 1000 steps) is x_t / sqrt((1 - t)^2 + t^2) at the step where the noise ratios agree, (1 - a)
    / a = t^2 / (1 - t)^2. Steps between the 1000 are interpolated in the logarithm of the ratio; t is held
    within the ratios it was trained on, 0.01 to 0.9937.
    """

    def __init__(self, model: SiT):
        super().__init__()
        self.model = model
        self.spec = model.spec

    def forward(self, x_t: Tensor, t: Tensor, condition: Tensor, keep: Collection[int] = ()) -> Output:
        """As SiT's; t is (B,)."""
        kept = torch.cumprod(
            1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64, device=t.device), dim=0
        )
        ratio = ((1 - kept) / kept).log() / 2  # ln t / (1 - t) of each step, rising
        wanted = t.double().logit().clamp(ratio[0], ratio[-1])
        after = torch.searchsorted(ratio, wanted).clamp(1, 999)
        before = after - 1
        step = before + (wanted - ratio[before]) / (ratio[after] - ratio[before])  # 0..999
        held = torch.sigmoid(wanted).to(x_t.dtype).view(-1, 1, 1, 1)
        scaled = x_t / ((1 - held).square() + held.square()).sqrt()
        out = self.model(scaled, step / self.spec.time_scale, condition, keep)
        noise = out.velocity
        return Output((noise - x_t) / (1 - held), out.hidden)  # noise - x0, as x_t = (1 - t) x0 + t noise
