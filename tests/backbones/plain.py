"""SiT written out independently: as functions of a state dict, with nothing of flowlab's layers."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

State = dict[str, Tensor]


def linear(state: State, name: str, x: Tensor) -> Tensor:
    return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]


def normalised(x: Tensor) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + 1e-6).sqrt()


def rms(x: Tensor) -> Tensor:
    return x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt()


def waves(t: Tensor) -> Tensor:
    angle = t[:, None] * torch.tensor([10000 ** (-k / 128) for k in range(128)])
    return torch.cat([angle.cos(), angle.sin()], 1)


def heads_attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    weights = torch.einsum("bnhd,bmhd->bhnm", q, k) / math.sqrt(q.shape[-1])
    return torch.einsum("bhnm,bmhd->bnhd", weights.softmax(-1), v).flatten(2)


def official(
    state: State, x: Tensor, t: Tensor, labels: Tensor, heads: int, *, learned_sigma: bool
) -> Tensor:
    """SiT and DiT as published, with the published names: (B, C, h, w), t as their sinusoid takes it."""
    patch_weight = state["x_embedder.proj.weight"]
    p, channels = patch_weight.shape[-1], x.shape[1]
    h = F.conv2d(x, patch_weight, state["x_embedder.proj.bias"], stride=p).flatten(2).transpose(1, 2)
    h = h + state["pos_embed"]
    c = linear(state, "t_embedder.mlp.2", F.silu(linear(state, "t_embedder.mlp.0", waves(t))))
    c = F.silu(c + state["y_embedder.embedding_table.weight"][labels])
    depth = 1 + max(int(name.split(".")[1]) for name in state if name.startswith("blocks."))
    for block in (f"blocks.{i}" for i in range(depth)):
        m = linear(state, f"{block}.adaLN_modulation.1", c)[:, None].chunk(6, -1)
        inner = normalised(h) * (1 + m[1]) + m[0]
        q, k, v = linear(state, f"{block}.attn.qkv", inner).unflatten(-1, (3, heads, -1)).unbind(2)
        h = h + m[2] * linear(state, f"{block}.attn.proj", heads_attend(q, k, v))
        inner = linear(state, f"{block}.mlp.fc1", normalised(h) * (1 + m[4]) + m[3])
        h = h + m[5] * linear(state, f"{block}.mlp.fc2", F.gelu(inner, approximate="tanh"))
    shift, scale = linear(state, "final_layer.adaLN_modulation.1", c)[:, None].chunk(2, -1)
    out = linear(state, "final_layer.linear", normalised(h) * (1 + scale) + shift)
    side = x.shape[-1] // p
    out = out.view(len(x), side, side, p, p, -1).permute(0, 5, 1, 3, 2, 4).reshape(len(x), -1, *x.shape[2:])
    return out[:, :channels] if learned_sigma else out


def official_state(
    *, width=32, depth=2, channels=4, patch=2, side=4, classes=10, learned_sigma=True
) -> State:
    """Random weights with the names and shapes of a published file."""
    out = patch**2 * channels * (2 if learned_sigma else 1)
    shapes = {
        "x_embedder.proj": (width, channels, patch, patch),
        "t_embedder.mlp.0": (width, 256),
        "t_embedder.mlp.2": (width, width),
        "final_layer.linear": (out, width),
        "final_layer.adaLN_modulation.1": (2 * width, width),
    }
    for i in range(depth):
        shapes[f"blocks.{i}.attn.qkv"] = (3 * width, width)
        shapes[f"blocks.{i}.attn.proj"] = (width, width)
        shapes[f"blocks.{i}.mlp.fc1"] = (4 * width, width)
        shapes[f"blocks.{i}.mlp.fc2"] = (width, 4 * width)
        shapes[f"blocks.{i}.adaLN_modulation.1"] = (6 * width, width)
    generator = torch.Generator().manual_seed(0)
    state: State = {}
    for name, shape in shapes.items():
        fan = math.prod(shape[1:])
        state[f"{name}.weight"] = torch.randn(shape, generator=generator) / fan**0.5
        state[f"{name}.bias"] = torch.randn(shape[0], generator=generator) * 0.1
    state["pos_embed"] = torch.randn(1, side**2, width, generator=generator)
    state["y_embedder.embedding_table.weight"] = torch.randn(classes + 1, width, generator=generator)
    return state
