"""Autoencoders from and to safetensors files; the spec travels in the metadata."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from flowlab.autoencoders.base import Autoencoder
from flowlab.autoencoders.kl import KLAutoencoder, KLSpec
from flowlab.autoencoders.rae import RAESpec, RepresentationAutoencoder
from flowlab.autoencoders.sizes import AUTOENCODERS, weights_path
from flowlab.core.choices import lookup
from flowlab.core.config import from_dict, to_dict
from flowlab.core.weights import load_strict, read_weights, write_weights

__all__ = ["load", "save"]


def load(name_or_path: str | Path, **overrides: Any) -> Autoencoder:
    """A frozen autoencoder by its name in AUTOENCODERS or by the path of its weights.

    `overrides` replace fields of the file's KLSpec or RAESpec that its tensors cannot tell, such as
    `resolution`.
    """
    path = Path(name_or_path)
    if path.suffix != ".safetensors":
        lookup(AUTOENCODERS, str(name_or_path), "autoencoder (or path to .safetensors)")
        path = weights_path(str(name_or_path))
    tensors, metadata = read_weights(path)
    if "autoencoder" not in metadata:
        raise ValueError(f"{path} is not a flowlab autoencoder (no 'autoencoder' in its metadata)")
    model = _build(json.loads(metadata["autoencoder"]), overrides, path)
    load_strict(model, {name: tensor.float() for name, tensor in tensors.items()}, where=str(path))
    return model.eval().requires_grad_(False)


def save(model: Autoencoder, path: Path) -> None:
    """Write weights (float16, the normalisation's statistics float32) with the spec beside them."""
    assert isinstance(model, (KLAutoencoder, RepresentationAutoencoder)), type(model).__name__
    tensors = {
        name: tensor.float() if name.startswith("normalise.") else tensor.half()
        for name, tensor in model.state_dict().items()
    }
    description = {"name": model.spec.name, "family": model.spec.family, "options": to_dict(model.options)}
    write_weights(path, tensors, {"autoencoder": json.dumps(description)})


def _build(description: dict[str, Any], overrides: dict[str, Any], path: Path) -> Autoencoder:
    family, name = description["family"], description["name"]
    if family == "kl":
        options = from_dict(KLSpec, description["options"], str(path))
        return KLAutoencoder(_override(options, overrides), name)
    if family == "rae":
        options = from_dict(RAESpec, description["options"], str(path))
        return RepresentationAutoencoder(_override(options, overrides), name)
    raise ValueError(f"{path} holds an autoencoder of the unknown family {family!r}; choose from: kl, rae")


def _override(options: Any, overrides: dict[str, Any]) -> Any:
    for field in overrides:
        lookup(to_dict(options), field, f"field of {type(options).__name__}")
    return replace(options, **overrides)
