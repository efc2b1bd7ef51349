"""RAE's own release in: a decoder's file, the statistics and the encoder that lie elsewhere.

The release (hub: nyu-visionx/RAE-collections) keeps three things in three places. `decoders/<encoder>/<size>/
model.pt` is the decoder alone, `stats/<encoder>/<data>/stat.pt` the latent's mean and variance, and the
encoder is a repository of its own. A decoder that lies in those folders finds the other two; elsewhere they
are named. Names and folders are those of github.com/bytetriper/RAE, whose loader is strict, and of diffusers'
script that converts the release.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import isqrt
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from flowlab.autoencoders import hub
from flowlab.autoencoders.formats import override, read_pickle
from flowlab.autoencoders.rae import PublishedRAESpec, RepresentationAutoencoder
from flowlab.autoencoders.rae_files import name_of
from flowlab.autoencoders.rae_names import join_attention, original_names, our_to_their_names
from flowlab.autoencoders.vit_decoder import DECODERS, ViTDecoderSpec
from flowlab.core.weights import check_finite, load_strict
from flowlab.features import vision

__all__ = ["Elsewhere", "from_decoder", "is_decoder"]

MARKS = ("decoder_embed.weight", "decoder_pred.weight")
ENCODERS = {  # folder of the release: the repository of its encoder
    "dinov2/wReg_base": "facebook/dinov2-with-registers-base",
    "siglip2/base_p16_i256": "google/siglip2-base-patch16-256",
    "mae/base_p16": "facebook/vit-mae-base",
}
STATISTICS = {
    16: ("imagenet1k", "ImageNet1k"),
    32: ("imagenet1k_512",),
}  # tokens per side: folders of stat.pt
EPS = 1e-5  # RAE divides by sqrt(var + 1e-5)


@dataclass(frozen=True, kw_only=True)
class Elsewhere:
    """What the decoder's file does not hold."""

    encoder: str | None = None
    """Folder or hub id of the encoder in transformers' form; by default as ENCODERS says."""
    statistics: str | None = None
    """Path or hub id ("org/name:file") of stat.pt; by default in the release's folders."""
    heads: int | None = None
    """Attention heads of a decoder of a size of its own; those of DECODERS are known."""
    noise_tau: float = 0.0
    """The noise that the decoder was trained with, as a record: 0.8 of the release's ..._n08."""


def is_decoder(tensors: Mapping[str, Tensor]) -> bool:
    """Whether these are the tensors of a decoder of RAE's own release."""
    return all(name in tensors for name in MARKS)


def from_decoder(
    stored: Mapping[str, Tensor], path: Path, overrides: Mapping[str, Any]
) -> RepresentationAutoencoder:
    """A frozen float32 autoencoder from a decoder's tensors; `overrides` are fields of Elsewhere.

    A missing, unknown, misshapen or non-finite tensor, and positions that are not MAE's, are ValueErrors.
    """
    elsewhere, where = override(Elsewhere(), overrides), str(path)
    check_finite(stored, where)
    decoder = _decoder_spec(stored, elsewhere.heads, where)
    encoder = vision.load(elsewhere.encoder or _encoder_beside(path))
    mean, std = _statistics(Path(_located(elsewhere.statistics or _statistics_beside(path, decoder.grid))))
    spec = PublishedRAESpec(
        encoder=replace(encoder.spec, input_size=decoder.grid * encoder.spec.patch),
        decoder=decoder,
        statistics={1: "none", decoder.latent_channels: "channel"}.get(mean.numel(), "position"),
        eps=0.0,  # it is in the std already
        noise_tau=elsewhere.noise_tau,
    )
    model = RepresentationAutoencoder(spec, name_of(spec.encoder))
    load_strict(model.encoder, encoder.state_dict(), where=where)
    load_strict(model.normalise, {"mean": mean, "std": std}, where=f"the statistics of {where}")
    _fill(model, stored, where)
    return model.eval().requires_grad_(False)


def _fill(model: RepresentationAutoencoder, stored: Mapping[str, Tensor], where: str) -> None:
    """The decoder's tensors under our names; its positions are rebuilt, and must be the stored ones."""
    tensors = {name: tensor.float() for name, tensor in stored.items()}
    positions, ours = _tensor(tensors, "decoder_pos_embed", where), model.decoder.get_buffer("positions")
    if positions.shape != ours.shape or not torch.allclose(positions, ours, rtol=0, atol=1e-4):
        raise ValueError(
            f"{where}: 'decoder_pos_embed' is not MAE's table of sines and cosines; give a decoder of RAE"
        )
    del tensors["decoder_pos_embed"]
    depth = len(model.decoder.get_submodule("blocks")._modules)
    current = original_names(depth)
    theirs = {f"decoder.{current.get(name, name)}": tensor for name, tensor in tensors.items()}
    prefix = "decoder."
    renames = {
        their: our.removeprefix(prefix)
        for our, their in our_to_their_names([], depth).items()
        if our.startswith(prefix)
    }
    load_strict(model.decoder, join_attention(theirs, depth), renames, where)


def _decoder_spec(stored: Mapping[str, Tensor], heads: int | None, where: str) -> ViTDecoderSpec:
    """Sizes from the shapes; the heads, which no shape tells, from the table of sizes."""
    width, channels = _tensor(stored, "decoder_embed.weight", where).shape
    layers = {int(found[1]) for name in stored if (found := re.match(r"decoder_layers\.(\d+)\.", name))}
    spec = ViTDecoderSpec(
        latent_channels=channels,
        width=width,
        depth=len(layers),
        heads=heads or 1,
        mlp=len(_tensor(stored, "decoder_layers.0.intermediate.dense.weight", where)),
        patch=isqrt(len(_tensor(stored, "decoder_pred.weight", where)) // 3),
        grid=isqrt(_tensor(stored, "decoder_pos_embed", where).shape[-2] - 1),
    )
    if heads is not None:
        return spec
    for known in DECODERS.values():
        if (known.width, known.depth, known.mlp) == (spec.width, spec.depth, spec.mlp):
            return replace(spec, heads=known.heads)
    raise ValueError(
        f"{where}: a decoder of width {width}, {spec.depth} blocks and MLP {spec.mlp} is none of"
        f" {', '.join(DECODERS)}; give heads="
    )


def _tensor(tensors: Mapping[str, Tensor], name: str, where: str) -> Tensor:
    if name not in tensors:
        raise ValueError(f"{where} lacks {name!r}; a whole decoder of RAE has it")
    return tensors[name]


# ---- what lies elsewhere -----------------------------------------------------------------------------------


def _encoder_beside(path: Path) -> str:
    """The encoder of the folder that the release would keep this decoder in."""
    name = "/".join(path.parts[-4:-2])
    if name not in ENCODERS:
        raise ValueError(
            f"{path} is a decoder of RAE, and does not lie in one of the release's folders"
            f" ({', '.join(ENCODERS)}); give encoder=, a folder or hub id of transformers"
        )
    return ENCODERS[name]


def _statistics_beside(path: Path, grid: int) -> str:
    """decoders/<encoder>/<size>/model.pt => stats/<encoder>/<data>/stat.pt, which must exist."""
    if len(path.parts) > 5 and path.parts[-5] == "decoders":
        beside = path.parents[4].joinpath("stats", *path.parts[-4:-2])
        for data in STATISTICS.get(grid, ()):
            if (beside / data / "stat.pt").is_file():
                return str(beside / data / "stat.pt")
    raise ValueError(
        f"{path} is a decoder of RAE without the latent's statistics beside it; give statistics=, the path of"
        " its stat.pt"
    )


def _located(name: str) -> str:
    return str(hub.fetch(name)) if not Path(name).exists() and hub.is_hub_id(name) else name


def _statistics(path: Path) -> tuple[Tensor, Tensor]:
    """Mean and std, sqrt(var + 1e-5); the axis that they were averaged over is dropped."""
    if not path.is_file():
        raise ValueError(f"no statistics at {path}; give the path of RAE's stat.pt")
    stored = read_pickle(path)
    check_finite(stored, str(path))
    absent = [name for name in ("mean", "var") if name not in stored]
    if absent:
        raise ValueError(f"{path} lacks {absent[0]!r}; RAE's stat.pt holds mean and var")
    mean, var = (
        value[0] if value.ndim == 4 else value for value in (stored["mean"].float(), stored["var"].float())
    )
    if (var < 0).any():
        raise ValueError(f"{path}: 'var' holds negative numbers; fetch the file again")
    return mean, (var + EPS).sqrt()
