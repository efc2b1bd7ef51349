"""The tensors of a checkpoint: a safetensors or PyTorch file, or a folder, in shards or whole."""

from __future__ import annotations

import argparse
import pickle
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from flowlab.core.files import read_json
from flowlab.core.weights import read_some, read_weights

__all__ = ["Stored", "read"]

PICKLES = (".pt", ".pth", ".ckpt")
INDEX = ".safetensors.index.json"


@dataclass(frozen=True, kw_only=True)
class Stored:
    """What a file or folder holds."""

    tensors: dict[str, Tensor]
    """Mapped where the file is safetensors: a tensor costs memory when it is first read."""
    metadata: dict[str, str]
    """Of a safetensors file; empty elsewhere."""
    reread: Callable[[Sequence[str]], list[Tensor]]
    """Some of them anew, in memory that is given back with them."""
    config: dict[str, Any] | None = None
    """config.json of a folder; None where it has none."""


def read(path: Path, part: str = "transformer") -> Stored:
    """A .safetensors or PyTorch file, the index of shards, or a folder that holds one set of safetensors.

    Of a whole pipeline of diffusers it is the folder `part`.
    """
    if path.is_dir():
        return _folder(path / part if (path / "model_index.json").is_file() else path)
    if path.name.endswith(INDEX) and path.is_file():
        return _shards(path)
    if path.suffix == ".gguf":
        raise ValueError(f"{path} is a GGUF file, quantised for another program; give the .safetensors file")
    if path.suffix in PICKLES:
        tensors = _pickled(path)
        return Stored(tensors=tensors, metadata={}, reread=lambda names: [tensors[name] for name in names])
    tensors, metadata = read_weights(path)
    return Stored(tensors=tensors, metadata=metadata, reread=lambda names: read_some(path, names))


# ---- folders -----------------------------------------------------------------------------------------------


def _folder(folder: Path) -> Stored:
    config = read_json(folder / "config.json") if (folder / "config.json").is_file() else None
    if not isinstance(config, dict | None):
        raise ValueError(f"{folder / 'config.json'} holds no settings by name; fetch it again")
    indices = _of_full_precision(folder, INDEX)
    files = indices or _of_full_precision(folder, ".safetensors")
    if len(files) != 1:
        found = ", ".join(file.name for file in files) or "none"
        raise ValueError(f"{folder} should hold one set of safetensors, but has {found}; give the file")
    stored = _shards(files[0]) if indices else read(files[0])
    return Stored(tensors=stored.tensors, metadata=stored.metadata, reread=stored.reread, config=config)


def _of_full_precision(folder: Path, suffix: str) -> list[Path]:
    """Files of that ending, without variants such as model.fp16.safetensors where there are others."""
    files = sorted(folder.glob(f"*{suffix}"))
    return [file for file in files if "." not in file.name.removesuffix(suffix)] or files


def _shards(index: Path) -> Stored:
    """Every shard that an index names, each holding just the tensors that the index places there."""
    content = read_json(index)
    places = content.get("weight_map") if isinstance(content, dict) else None
    if not (isinstance(places, dict) and places and all(_beside(file) for file in places.values())):
        raise ValueError(f"{index} places no tensors in files beside it; fetch it again")
    files = sorted(set(places.values()))
    for file in files:
        if not (index.parent / file).is_file():
            raise ValueError(f"{index.parent} lacks the shard {file}; fetch it")
    tensors: dict[str, Tensor] = {}
    for file in files:
        part, _ = read_weights(index.parent / file)
        strays = part.keys() ^ {name for name, place in places.items() if place == file}
        if strays:
            raise ValueError(f"{index} and {file} disagree on {len(strays)} tensors, first {min(strays)!r}")
        tensors |= part
    return Stored(
        tensors=tensors,
        metadata={},
        reread=lambda names: [read_some(index.parent / places[name], [name])[0] for name in names],
    )


def _beside(file: Any) -> bool:
    """Whether an index names a file of its own folder."""
    return isinstance(file, str) and Path(file).name == file


# ---- PyTorch files -----------------------------------------------------------------------------------------


def _pickled(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise ValueError(f"no weights at {path}; give the path of a .pt or .safetensors file")
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):  # training files hold their arguments
            content = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, zipfile.BadZipFile) as problem:
        reason = (str(problem).strip() or type(problem).__name__).splitlines()[0]
        raise ValueError(f"{path} is no whole file of plain tensors ({reason}); fetch it again") from problem
    return _state_dict(content, path)


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
