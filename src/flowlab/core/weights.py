"""Safetensors in and out, and strict loading through an explicit rename table."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from flowlab.core.choices import lookup
from flowlab.core.files import atomic_path

__all__ = [
    "check_finite",
    "dtype_of",
    "load_strict",
    "read_some",
    "read_weights",
    "tensors_id",
    "write_weights",
]

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
"""What weights may be held in."""


def read_weights(path: Path | str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """All tensors of a safetensors file (memory mapped) and its metadata."""
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"no weights at {path}; give the path of a .safetensors file")
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118
    except (SafetensorError, OSError) as problem:
        raise ValueError(
            f"{path} is not a whole safetensors file ({problem}); delete it, then make or fetch it again"
        ) from problem


def read_some(path: Path | str, names: Sequence[str]) -> list[Tensor]:
    """Some tensors through a mapping of their own, so that their pages are given back with them.

    `read_weights` has one mapping for all, and what was read of it counts as memory until the last is gone.
    """
    with safe_open(path, framework="pt") as file:
        return [file.get_tensor(name) for name in names]


def write_weights(
    path: Path | str, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> None:
    """Write a safetensors file atomically; shared storage is copied apart."""
    whole = {name: tensor.detach().contiguous().clone() for name, tensor in tensors.items()}
    with atomic_path(path) as draft:
        try:
            save_file(whole, draft, dict(metadata or {}))
        except SafetensorError as problem:  # safetensors' own words for a full disk
            raise OSError(f"cannot write {path}: {problem}") from problem


def load_strict(
    module: nn.Module,
    tensors: Mapping[str, Tensor],
    renames: Mapping[str, str] | None = None,
    where: str = "weights",
) -> None:
    """Load every tensor into `module`; a missing, unmatched or misshapen key is a ValueError that names it.

    `renames` maps names in the file to names in the module; names not listed stay.
    """
    renamed = {(renames or {}).get(name, name): tensor for name, tensor in tensors.items()}
    own = module.state_dict()
    missing, unmatched = own.keys() - renamed.keys(), renamed.keys() - own.keys()
    if missing:
        raise ValueError(
            f"{where} lacks {len(missing)} tensors of {type(module).__name__}, first {min(missing)!r}"
        )
    if unmatched:
        raise ValueError(
            f"{where} has {len(unmatched)} tensors unknown to {type(module).__name__}: {min(unmatched)!r}"
        )
    for name, tensor in renamed.items():
        if tensor.shape != own[name].shape:
            raise ValueError(f"{where}: {name!r} is {tuple(tensor.shape)}, expected {tuple(own[name].shape)}")
    module.load_state_dict(renamed)


def dtype_of(name: str | torch.dtype) -> torch.dtype:
    """A key of DTYPES, or torch's own object."""
    return lookup(DTYPES, str(name).removeprefix("torch."), "dtype")


def check_finite(tensors: Mapping[str, Tensor], where: str) -> None:
    """NaN or infinity is a ValueError that names its tensor."""
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise ValueError(f"{where}: {name!r} holds NaN or infinity; fetch or train the weights again")


def tensors_id(tensors: Mapping[str, Tensor]) -> str:
    """Twelve hex digits of the names, shapes and values: the identity of a set of weights."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().float().contiguous()
        digest.update(f"{name}{tuple(tensor.shape)}".encode())
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()[:12]
