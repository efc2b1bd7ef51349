"""Published convolutional autoencoders in and out: official single files, and files and folders of diffusers.

Everything is strict: a missing, unknown or misshapen tensor, and one that is not finite, is a ValueError that
names it as the file does.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from pickle import UnpicklingError
from typing import Any
from zipfile import is_zipfile

import torch
from torch import Tensor

from flowlab.autoencoders import diffusers_config
from flowlab.autoencoders.detect import naming_of, spec_of
from flowlab.autoencoders.families import FAMILIES, choose, family_of
from flowlab.autoencoders.kl import KLAutoencoder, KLSpec
from flowlab.autoencoders.names import COUNTER, attention_weights, table
from flowlab.autoencoders.normalise import BatchStatistics
from flowlab.autoencoders.sizes import name_of
from flowlab.core.choices import lookup
from flowlab.core.config import to_dict
from flowlab.core.files import write_json
from flowlab.core.stored import read
from flowlab.core.weights import check_finite, load_strict, write_weights

__all__ = [
    "PICKLES",
    "check_finite",
    "empty",
    "from_folder",
    "from_tensors",
    "override",
    "read_pickle",
    "to_folder",
    "to_official",
]

WEIGHTS = "diffusion_pytorch_model.safetensors"
PICKLES = (".pt", ".pth", ".ckpt", ".bin")
PREFIXES = ("first_stage_model.", "vae.")
"""Of the autoencoder inside a checkpoint of a whole image generator; the rest of it is not read."""
TRAINING_ONLY = ("loss.", "model_ema.", "foundation_model.", "linear_proj.")
"""What latent-diffusion's and VA-VAE's training checkpoints hold beside the autoencoder."""


# ---- reading -----------------------------------------------------------------------------------------------


def from_tensors(
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, str],
    where: str,
    variant: str | None,
    dtype: torch.dtype,
    overrides: Mapping[str, Any],
) -> KLAutoencoder:
    """The autoencoder of a single file, in official or diffusers naming; `variant` is a key of FAMILIES."""
    tensors = _autoencoder_part(tensors)
    naming = naming_of(tensors, where)
    spec = spec_of(tensors, naming, where)
    family = choose(spec, variant, where)
    if family == "vavae":
        spec = replace(spec, normalisation="batchnorm")
    if spec.normalisation == "scale_shift":
        spec = replace(spec, scale=FAMILIES[family].scale, shift=FAMILIES[family].shift)
        if "scale_shift" in metadata:  # written by to_official: a scale of its own
            spec = replace(spec, **json.loads(metadata["scale_shift"]))
    return _filled(override(spec, overrides), tensors, naming, where, dtype)


def from_folder(
    config: dict[str, Any], folder: Path, dtype: torch.dtype, overrides: Mapping[str, Any]
) -> KLAutoencoder:
    """The autoencoder of a diffusers folder; diffusers_config.is_ours(config) holds."""
    where, stored = str(folder), read_folder(folder)
    naming = naming_of(stored, where)
    spec = diffusers_config.complete(spec_of(stored, naming, where), config, where)
    statistics = diffusers_config.statistics(config)
    return _filled(override(spec, overrides), stored, naming, where, dtype, statistics)


def read_folder(folder: Path) -> dict[str, Tensor]:
    """The weights in a folder: safetensors, whole or in shards, or the .bin of older diffusers."""
    old = (folder / WEIGHTS).with_suffix(".bin")
    only_old = old.is_file() and not any(folder.glob("*.safetensors*"))
    return read_pickle(old) if only_old else read(folder).tensors


def read_pickle(path: Path) -> dict[str, Tensor]:
    """The tensors of a PyTorch file; nothing but tensors and plain values is unpickled."""
    mappable = is_zipfile(path)  # files of before PyTorch 1.6 are not
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=mappable)
    except (UnpicklingError, RuntimeError, EOFError) as problem:
        reason = (str(problem) or "it is empty").splitlines()[0]
        raise ValueError(
            f"{path} cannot be read safely ({reason}); fetch it again, or convert it to .safetensors"
        ) from problem
    content = content.get("state_dict", content) if isinstance(content, dict) else {}
    return {name: value for name, value in content.items() if isinstance(value, Tensor)}


def override(spec: Any, overrides: Mapping[str, Any]) -> Any:
    """`spec` with some fields replaced; an unknown one is a ValueError that lists them."""
    for field in overrides:
        lookup(to_dict(spec), field, f"field of {type(spec).__name__}")
    return replace(spec, **overrides)


def empty(spec: KLSpec, name: str, dtype: torch.dtype) -> KLAutoencoder:
    """A model whose every tensor is yet to be loaded: no time spent on random weights."""
    with torch.device("meta"):
        model = KLAutoencoder(spec, name)
    for part in (model.encoder, model.decoder, model.linear):  # the normalisation stays float32
        if part is not None:
            part.to(dtype)
    return model.to_empty(device="cpu")


def _autoencoder_part(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The autoencoder's tensors under plain names, out of whatever else the file holds."""
    for prefix in PREFIXES:
        part = {name[len(prefix) :]: tensor for name, tensor in tensors.items() if name.startswith(prefix)}
        if part:
            return part
    return {name: tensor for name, tensor in tensors.items() if not name.startswith(TRAINING_ONLY)}


def _filled(
    spec: KLSpec,
    tensors: Mapping[str, Tensor],
    naming: str,
    where: str,
    dtype: torch.dtype,
    statistics: Mapping[str, Tensor] | None = None,
) -> KLAutoencoder:
    """A frozen model of `spec`: the weights of a file and, where it has none, `statistics` (our names)."""
    tensors = {name: tensor for name, tensor in tensors.items() if name != COUNTER}
    flat = attention_weights(spec, naming)
    tensors = {k: t[..., None, None] if k in flat and t.ndim == 2 else t for k, t in tensors.items()}
    renames = table(spec, naming, "ours")
    model = empty(spec, name_of(spec), dtype)
    ready = statistics or _unit_statistics(model, spec)
    if not ready.keys().isdisjoint(renames.get(name) for name in tensors):
        ready = {}
    theirs = {ours: name for name, ours in renames.items()}
    missing = [
        theirs[name] for name in model.state_dict() if name not in ready and theirs[name] not in tensors
    ]
    unknown = [name for name in tensors if name not in renames]
    if missing or unknown:
        what = f"lacks {min(missing)!r}" if missing else f"has the unknown tensor {min(unknown)!r}"
        title = FAMILIES[family_of(spec)].title
        raise ValueError(
            f"{where} {what} of a {title} autoencoder; {len(missing)} are missing, {len(unknown)} unknown"
        )
    check_finite(tensors, where)
    load_strict(model, {**tensors, **ready}, renames, where)
    return model.eval().requires_grad_(False)


def _unit_statistics(model: KLAutoencoder, spec: KLSpec) -> dict[str, Tensor]:
    """What a file without statistics leaves: its family's scale and shift, or mean 0 and variance 1."""
    if spec.normalisation == "scale_shift":
        return {"normalise.scale": torch.tensor(spec.scale), "normalise.shift": torch.tensor(spec.shift)}
    channels = model.spec.channels
    return {"normalise.running_mean": torch.zeros(channels), "normalise.running_var": torch.ones(channels)}


# ---- writing -----------------------------------------------------------------------------------------------


def to_official(model: KLAutoencoder, path: Path) -> None:
    """One file in the naming of the family's own code; a scale and shift travel in its metadata."""
    spec = _checked(model)
    family = family_of(spec)
    naming = "official" if family == "flux2" else "official_ldm"
    metadata = {}
    if spec.normalisation == "scale_shift":
        metadata["scale_shift"] = json.dumps(diffusers_config.scale_shift(model))
    write_weights(path, _renamed(model, naming), metadata)


def to_folder(model: KLAutoencoder, folder: Path) -> None:
    """config.json and weights that diffusers' AutoencoderKL, or AutoencoderKLFlux2 for FLUX.2, loads."""
    spec = _checked(model)
    config = diffusers_config.written(model)
    tensors = _renamed(model, "diffusers")
    if config["_class_name"] == "AutoencoderKL":  # its statistics are settings
        tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith("bn.")}
    flat = attention_weights(spec, "diffusers")
    tensors = {name: t[:, :, 0, 0] if name in flat else t for name, t in tensors.items()}
    folder.mkdir(parents=True, exist_ok=True)
    write_weights(folder / WEIGHTS, tensors, {"format": "pt"})
    write_json(folder / "config.json", config)


def _checked(model: KLAutoencoder) -> KLSpec:
    spec = model.options
    if spec.linear_path or spec.normalisation == "whitening":
        what = "a linear path" if spec.linear_path else "a whitening per position"
        raise ValueError(
            f"{model.spec.name} has {what}, which no published format holds; use autoencoders.save"
        )
    return spec


def _renamed(model: KLAutoencoder, naming: str) -> dict[str, Tensor]:
    own = model.state_dict()
    tensors = {name: own[ours] for ours, name in table(model.options, "ours", naming).items()}
    if isinstance(model.normalise, BatchStatistics):
        tensors[COUNTER] = torch.tensor(0)
    return tensors
