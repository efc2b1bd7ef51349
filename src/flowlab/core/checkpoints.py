"""Checkpoint folders: safetensors for tensors, JSON for the rest, whole or absent.

A checkpoint is a folder `step_00000500` that holds one `<group>.safetensors` per group (weights, ema,
optimiser) and `state.json`. It is written under another name and renamed, so an interrupted save leaves the
previous checkpoint as the latest. Nothing is pickled.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from flowlab.core.files import atomic_folder, read_json, write_json
from flowlab.core.weights import read_weights, write_weights

__all__ = ["all_checkpoints", "latest", "load", "pack", "save", "step_of", "unpack"]

_NAME = re.compile(r"step_(\d{8,})$")


def save(
    folder: Path | str,
    step: int,
    groups: Mapping[str, Mapping[str, Tensor]],
    state: Mapping[str, Any],
    *,
    keep: int = 0,
) -> Path:
    """Write checkpoint `step` under `folder`; with `keep` > 0 only the newest `keep` remain."""
    path = Path(folder) / f"step_{step:08d}"
    with atomic_folder(path) as draft:
        for name, tensors in groups.items():
            write_weights(draft / f"{name}.safetensors", tensors)
        write_json(draft / "state.json", dict(state))
    for old in all_checkpoints(folder)[:-keep] if keep > 0 else []:
        shutil.rmtree(old)
    return path


def load(path: Path | str) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
    """(groups of tensors, state) of one checkpoint folder; damage is a ValueError that names the file."""
    path = Path(path)
    if not (path / "state.json").is_file():
        raise ValueError(f"{path} is not a checkpoint folder (no state.json); give one named step_<number>")
    try:
        groups = {file.stem: read_weights(file)[0] for file in sorted(path.glob("*.safetensors"))}
        return groups, read_json(path / "state.json")
    except ValueError as problem:
        raise ValueError(f"damaged checkpoint: {problem} (delete {path} to resume earlier)") from problem


def latest(folder: Path | str) -> Path | None:
    """The checkpoint of the highest step, or None."""
    found = all_checkpoints(folder)
    return found[-1] if found else None


def all_checkpoints(folder: Path | str) -> list[Path]:
    """Every whole checkpoint under `folder`, by step."""
    found = [path for path in Path(folder).glob("step_*") if _NAME.match(path.name)]
    return sorted(found, key=step_of)


def step_of(path: Path) -> int:
    """The step in a checkpoint folder's name."""
    match = _NAME.match(path.name)
    if match is None:
        raise ValueError(f"{path} is not a checkpoint folder; expected a name such as step_00000500")
    return int(match.group(1))


# ---- nested state to flat tensors --------------------------------------------------------------------------


def pack(value: Any, tensors: dict[str, Tensor], prefix: str = "") -> Any:
    """Replace every tensor in nested dicts and lists by its key in `tensors`; the rest must fit JSON.

    Dicts become lists of pairs, so that integer keys (an optimiser's) survive.
    """
    if isinstance(value, Tensor):
        tensors[prefix] = value
        return {"tensor": prefix}
    if isinstance(value, dict):
        return {"items": [[key, pack(item, tensors, f"{prefix}.{key}")] for key, item in value.items()]}
    if isinstance(value, (list, tuple)):
        return {"list": [pack(item, tensors, f"{prefix}.{i}") for i, item in enumerate(value)]}
    assert value is None or isinstance(value, (bool, int, float, str)), (
        f"cannot save {type(value).__name__} {prefix}"
    )
    return {"value": value}


def unpack(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    """The inverse of `pack` (tuples come back as lists)."""
    kind, content = next(iter(value.items()))
    if kind == "tensor":
        return tensors[content]
    if kind == "items":
        return {key: unpack(item, tensors) for key, item in content}
    if kind == "list":
        return [unpack(item, tensors) for item in content]
    return content
