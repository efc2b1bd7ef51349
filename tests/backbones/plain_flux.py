"""FLUX written out independently: functions of a state dict in our names, nothing of flowlab's layers.

Every token carries its own id and its own time, so that cached references (which see only each other, at
t = 0) are one mask and one vector of times, with no cache anywhere.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import safe_open
from tests.backbones.plain import State, normalised, rms
from torch import Tensor

from flowlab.backbones.flux1 import Flux1, Flux1Spec
from flowlab.backbones.flux2 import Flux2, Flux2Spec

DATA = Path(__file__).parents[1] / "data"
NAMES = {
    "mlp.0": "mlp.in_layer",
    "mlp.2": "mlp.out_layer",
    "adaLN_modulation.1": "modulation.lin",
}


def golden(family: str) -> tuple[State, dict[str, Tensor], dict[str, Any]]:
    """Weights in our names, inputs and outputs, and the configuration, of the published code's vectors."""
    with safe_open(DATA / f"{family}_transformer.safetensors", "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        config = json.loads(file.metadata()["config"])
    weights = {}
    for name, tensor in tensors.items():
        if name.startswith("weights."):
            for theirs, ours in NAMES.items():
                name = name.replace(theirs, ours)
            weights[name.removeprefix("weights.")] = tensor.float()
    return weights, {n: x for n, x in tensors.items() if not n.startswith("weights.")}, config


def golden_model(family: str) -> tuple[Flux1 | Flux2, dict[str, Tensor]]:
    """The golden weights in our class."""
    weights, vectors, config = golden(family)
    sizes: dict[str, Any] = {
        "width": config["hidden_size"],
        "heads": config["num_heads"],
        "double_blocks": config["depth"],
        "single_blocks": config["depth_single_blocks"],
        "text_width": config["context_in_dim"],
        "axes": tuple(config["axes_dim"]),
        "guidance": True,
        "channels": config["in_channels"],
    }
    if family == "flux2":
        model: Flux1 | Flux2 = Flux2(Flux2Spec(**sizes))
    else:
        sizes |= {"in_channels": config["in_channels"], "pooled_width": config["vec_in_dim"]}
        model = Flux1(Flux1Spec(**sizes))
    model.load_state_dict(weights)
    return model.eval(), vectors


def random_model(spec: Flux1Spec | Flux2Spec, seed: int = 0) -> Flux1 | Flux2:
    """A model in which nothing is zero or one, so that everything shows in the output."""
    torch.manual_seed(seed)
    model = Flux1(spec) if isinstance(spec, Flux1Spec) else Flux2(spec)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.copy_(torch.randn_like(parameter) * parameter.shape[1] ** -0.5)
            else:
                parameter.add_(torch.randn_like(parameter) * 0.2)
    return model.eval()


def ids(rows: int, columns: int, num_axes: int, t: int = 0) -> Tensor:
    """(rows columns, num_axes)."""
    places = [[t, r, c, 0][:num_axes] for r in range(rows) for c in range(columns)]
    return torch.tensor(places)


def plain(
    model: Flux1 | Flux2,
    latent: Tensor,
    t: Tensor,
    text: Tensor,
    *,
    guidance: Tensor | None = None,
    pooled: Tensor | None = None,
    references: Sequence[Tensor] = (),
    concat: Tensor | None = None,
    origin: tuple[int, int] = (0, 0),
) -> Tensor:
    """The velocity (B, C, h, w); `references`, and the row and column `origin`, are those of all samples."""
    s, spec = model.state_dict(), model.spec
    images, where = _sequence(spec, latent if concat is None else torch.cat([latent, concat], 1), references)
    num_text, num_target = text.shape[1], latent.shape[2] * latent.shape[3]
    where[:num_target, 1:3] += torch.tensor(origin)
    text_places = torch.zeros(num_text, len(spec.axes), dtype=torch.int64)
    if isinstance(spec, Flux2Spec):
        text_places[:, 3] = torch.arange(num_text)
    where = torch.cat([text_places, where])

    now = _vector(s, t, guidance, pooled)[:, None].expand(-1, len(where), -1)  # (B, N, width)
    sees = torch.ones(len(where), len(where), dtype=torch.bool)
    if isinstance(spec, Flux2Spec) and spec.variant == "kv":
        alone = torch.arange(len(where)) >= num_text + num_target
        sees = ~(alone[:, None] & ~alone)
        then = _vector(s, torch.zeros_like(t), guidance, pooled)[:, None]
        now = torch.where(alone[None, :, None], then, now)
    c = F.silu(now)

    def attend(qkv: Tensor, norms: list[tuple[str, int]]) -> Tensor:
        q, k, v = qkv.unflatten(-1, (3, spec.heads, -1)).unbind(2)  # (B, N, H, D)
        q_scale = torch.cat([s[f"{name}.query_norm.scale"].expand(n, -1) for name, n in norms])[:, None]
        k_scale = torch.cat([s[f"{name}.key_norm.scale"].expand(n, -1) for name, n in norms])[:, None]
        q, k = (_turned(x, where, spec.axes, spec.theta) for x in (rms(q) * q_scale, rms(k) * k_scale))
        logits = torch.einsum("bnhd,bmhd->bhnm", q, k) * q.shape[-1] ** -0.5
        weights = logits.masked_fill(~sees, -torch.inf).softmax(-1)
        return torch.einsum("bhnm,bmhd->bnhd", weights, v).flatten(2)

    txt, img = _lin(s, "txt_in", text), _lin(s, "img_in", images)
    for i in range(spec.double_blocks):
        txt, img = _double(s, i, txt, img, c, attend)
    x = torch.cat([txt, img], 1)
    for i in range(spec.single_blocks):
        x = _single(s, i, x, c, attend)
    target = slice(num_text, num_text + num_target)
    shift, scale = _lin(s, "final_layer.modulation.lin", c[:, target]).chunk(2, -1)
    out = _lin(s, "final_layer.linear", normalised(x[:, target]) * (1 + scale) + shift)
    return out.mT.reshape(latent.shape)


def _sequence(
    spec: Flux1Spec | Flux2Spec, latent: Tensor, references: Sequence[Tensor]
) -> tuple[Tensor, Tensor]:
    """Image tokens (B, N, C) and their places (N, A)."""
    spacing = spec.reference_t if isinstance(spec, Flux1Spec) else 10
    images, places = [latent.flatten(2).mT], [ids(latent.shape[2], latent.shape[3], len(spec.axes))]
    for k, reference in enumerate(references):
        images.append(reference.flatten(1).T.expand(len(latent), -1, -1))
        places.append(ids(reference.shape[1], reference.shape[2], len(spec.axes), spacing * (k + 1)))
    return torch.cat(images, 1), torch.cat(places)


def _double(s: State, i: int, txt: Tensor, img: Tensor, c: Tensor, attend: Callable) -> tuple[Tensor, Tensor]:
    b, num_text, gelu = f"double_blocks.{i}", txt.shape[1], "vector_in.in_layer.weight" in s
    m = _lin(s, f"{b}.img_mod.lin" if gelu else "double_stream_modulation_img.lin", c[:, num_text:])
    n = _lin(s, f"{b}.txt_mod.lin" if gelu else "double_stream_modulation_txt.lin", c[:, :num_text])
    m, n = m.chunk(6, -1), n.chunk(6, -1)
    qkv_t = _lin(s, f"{b}.txt_attn.qkv", normalised(txt) * (1 + n[1]) + n[0])
    qkv_i = _lin(s, f"{b}.img_attn.qkv", normalised(img) * (1 + m[1]) + m[0])
    norms = [(f"{b}.txt_attn.norm", num_text), (f"{b}.img_attn.norm", img.shape[1])]
    joint = attend(torch.cat([qkv_t, qkv_i], 1), norms)
    txt = txt + n[2] * _lin(s, f"{b}.txt_attn.proj", joint[:, :num_text])
    img = img + m[2] * _lin(s, f"{b}.img_attn.proj", joint[:, num_text:])
    txt = txt + n[5] * _mlp(s, f"{b}.txt_mlp", normalised(txt) * (1 + n[4]) + n[3], gelu)
    return txt, img + m[5] * _mlp(s, f"{b}.img_mlp", normalised(img) * (1 + m[4]) + m[3], gelu)


def _single(s: State, i: int, x: Tensor, c: Tensor, attend: Callable) -> Tensor:
    b, width, gelu = f"single_blocks.{i}", x.shape[-1], "vector_in.in_layer.weight" in s
    shift, scale, gate = _lin(s, f"{b}.modulation.lin" if gelu else "single_stream_modulation.lin", c).chunk(
        3, -1
    )
    fused = _lin(s, f"{b}.linear1", normalised(x) * (1 + scale) + shift)
    attended = attend(fused[..., : 3 * width], [(f"{b}.norm", x.shape[1])])
    inner = _activated(fused[..., 3 * width :], gelu)
    return x + gate * _lin(s, f"{b}.linear2", torch.cat([attended, inner], -1))


def _lin(s: State, name: str, x: Tensor) -> Tensor:
    y = x @ s[f"{name}.weight"].T
    return y + s[f"{name}.bias"] if f"{name}.bias" in s else y


def _activated(x: Tensor, gelu: bool) -> Tensor:
    if gelu:
        return 0.5 * x * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (x + 0.044715 * x**3)))
    half = x.shape[-1] // 2
    return x[..., :half] * torch.sigmoid(x[..., :half]) * x[..., half:]


def _mlp(s: State, name: str, x: Tensor, gelu: bool) -> Tensor:
    return _lin(s, f"{name}.out_layer", _activated(_lin(s, f"{name}.in_layer", x), gelu))


def _vector(s: State, t: Tensor, guidance: Tensor | None, pooled: Tensor | None) -> Tensor:
    def two(name: str, x: Tensor) -> Tensor:
        return _lin(s, f"{name}.out_layer", F.silu(_lin(s, f"{name}.in_layer", x)))

    vector = two("time_in", _waves(1000 * t))
    if guidance is not None:
        vector = vector + two("guidance_in", _waves(1000 * guidance))
    return vector if pooled is None else vector + two("vector_in", pooled)


def _waves(t: Tensor) -> Tensor:
    """Rates rounded to float32, as published: at 4000 their last digit moves an angle by 2e-4."""
    rates = torch.exp(-torch.log(torch.tensor(10000.0)) * torch.arange(128) / 128)
    return torch.cat([(t[:, None] * rates).cos(), (t[:, None] * rates).sin()], 1)


def _turned(x: Tensor, where: Tensor, axes: tuple[int, ...], theta: float) -> Tensor:
    """x (B, N, H, D)."""
    angle = torch.cat(
        [
            where[:, a, None] * theta ** -(torch.arange(0, width, 2).double() / width)
            for a, width in enumerate(axes)
        ],
        1,
    )
    cos, sin = angle.cos().float()[:, None], angle.sin().float()[:, None]
    a, b = x[..., 0::2], x[..., 1::2]
    return torch.stack([a * cos - b * sin, a * sin + b * cos], -1).flatten(-2)
