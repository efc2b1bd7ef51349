"""Backbone files: ours (safetensors that carry their spec) and official state dicts."""

from __future__ import annotations

import argparse
import json
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from flowlab.backbones import adapters
from flowlab.backbones.sit import SiT, SiTSpec, empty
from flowlab.core.config import from_dict, to_dict
from flowlab.core.weights import load_strict, read_weights, write_weights

__all__ = ["load", "save"]

METADATA = "backbone"
"""The metadata key of our files; its value is JSON: {"family": "sit", "spec": {...}}."""


def load(path: Path | str, **overrides: Any) -> nn.Module:
    """The model in a file, in eval mode and the precision of its weights, whatever project wrote it.

    Known: our own .safetensors (`save`), and SiT, REPA or DiT state dicts as .safetensors or .pt (EMA weights
    where a training checkpoint has them; read without running any code in the file). `overrides` say what
    shapes cannot tell: variant="dit", heads=8. Anything else is a ValueError of one line.
    """
    path = Path(path)
    tensors, metadata = _read(path)
    if METADATA in metadata:
        return _ours(tensors, metadata[METADATA], path, overrides)
    if adapters.MARKER in tensors:
        return adapters.from_official(tensors, where=str(path), **overrides)
    raise ValueError(f"{path} is no backbone that flowlab knows; give one of its own, or of SiT, REPA or DiT")


def save(model: nn.Module, path: Path | str, metadata: Mapping[str, str] | None = None) -> None:
    """Write a SiT's weights and spec, beside other `metadata`, as one safetensors file that `load` reads."""
    assert isinstance(model, SiT), f"only SiT is saved so, got {type(model).__name__}"
    described = json.dumps({"family": "sit", "spec": to_dict(model.spec)})
    write_weights(path, model.state_dict(), {**(metadata or {}), METADATA: described})


# ---- reading -----------------------------------------------------------------------------------------------


def _ours(tensors: dict[str, Tensor], described: str, path: Path, overrides: dict[str, Any]) -> SiT:
    if overrides:
        raise ValueError(f"{path} states its own spec; it takes no overrides, got: {', '.join(overrides)}")
    try:
        content = json.loads(described)
    except json.JSONDecodeError as problem:
        raise ValueError(f"{path}: its metadata {METADATA!r} is not JSON; write the file again") from problem
    if not isinstance(content, dict) or content.get("family") != "sit":
        raise ValueError(f"{path} holds an unknown backbone family: {described[:80]}; choose from: sit")
    model = empty(from_dict(SiTSpec, content.get("spec"), f"{path} spec"))
    model = model.to(tensors["patch_in.weight"].dtype) if "patch_in.weight" in tensors else model
    load_strict(model, tensors, where=str(path))
    return model.eval()


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    if path.suffix not in (".pt", ".pth", ".ckpt"):
        return read_weights(path)
    if not path.is_file():
        raise ValueError(f"no weights at {path}; give the path of a .pt or .safetensors file")
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):  # training files hold their arguments
            content = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, zipfile.BadZipFile) as problem:
        reason = (str(problem).strip() or type(problem).__name__).splitlines()[0]
        raise ValueError(f"{path} is no whole file of plain tensors ({reason}); fetch it again") from problem
    return _state_dict(content, path), {}


def _state_dict(content: Any, path: Path) -> dict[str, Tensor]:
    """The EMA weights, else the model's, else the file itself."""
    if isinstance(content, Mapping):
        for name in ("ema", "model"):
            if isinstance(content.get(name), Mapping):
                content = content[name]
                break
        tensors = {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
        if tensors and len(tensors) == len(content):
            return {name.removeprefix("module."): value for name, value in tensors.items()}
    raise ValueError(f"{path} holds no state dict; expected tensors by name, or such under 'ema' or 'model'")
