"""LoRA files of FLUX, read whatever tool wrote them, and merged into a model.

W' = W + scale * alpha / rank * up @ down (Hu et al. 2021, arXiv 2106.09685). Without an alpha in the file it
is the rank. Adapters of split projections (diffusers' to_q, to_k, to_v) change their rows of the fused
weight; those of diffusers' norm_out have their halves put in our order. (Files that a converter renamed to
diffusers' names without swapping those halves cannot be told from right ones.)
"""

from __future__ import annotations

import json
import math
import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from flowlab.backbones.flux1 import Flux1
from flowlab.backbones.flux2 import Flux2
from flowlab.backbones.flux_names import TITLES
from flowlab.backbones.lora_names import Target, parse, target
from flowlab.core.files import read_json
from flowlab.core.weights import check_finite, read_weights

__all__ = ["Lora", "Piece", "merge", "read"]


@dataclass(frozen=True, kw_only=True)
class Piece:
    """One pair of matrices: scale * up @ down is added to some rows of a weight."""

    down: Tensor
    """(rank, in)."""
    up: Tensor
    """(rows, rank), in our order of rows."""
    scale: float
    """alpha / rank."""
    part: int | None
    """Which run of rows of a fused weight; None: all. Each run but the last is as wide as the model."""
    parts: int
    """How many runs there are."""


@dataclass(frozen=True, kw_only=True)
class Lora:
    """An adapter in our names."""

    pieces: Mapping[str, tuple[Piece, ...]]
    """By module of ours, such as "double_blocks.0.img_attn.qkv"."""
    families: frozenset[str]
    """Keys of TITLES that have all its modules: both, where names do not tell."""
    where: str
    """The file, for messages."""

    @property
    def ranks(self) -> dict[str, int]:
        """Module => the highest rank that the adapter can give to its change."""
        return {name: sum(len(piece.down) for piece in pieces) for name, pieces in self.pieces.items()}


# ---- reading -----------------------------------------------------------------------------------------------


def read(path: Path | str) -> Lora:
    """The adapter in a .safetensors file, or in a folder that PEFT or diffusers wrote.

    Keys in the style of PEFT and diffusers, of kohya, and of BFL and ComfyUI. Other kinds (LoKr, LoHa, DoRA,
    FLUX.1's control LoRAs, text encoders) and keys that match nothing are ValueErrors that name them.
    """
    file = _located(Path(path))
    tensors, metadata = read_weights(file)
    _refuse_other_kinds(tensors, file)
    check_finite(tensors, str(file))
    roles: dict[str, dict[str, Tensor]] = defaultdict(dict)
    targets: dict[str, Target] = {}
    strays = []
    for key, tensor in tensors.items():
        parsed = parse(key)
        found = parsed and target(parsed.module)
        if parsed is None or found is None or parsed.role in roles[parsed.module]:
            strays.append(key)
        else:
            roles[parsed.module][parsed.role] = tensor
            targets[parsed.module] = found
    if strays or not targets:
        first = f", first {min(strays)!r}" if strays else ""
        raise ValueError(f"{file} has {len(strays)} keys of {len(tensors)} that are of no FLUX LoRA{first}")
    settings = _settings(file, metadata)
    pieces: dict[str, list[Piece]] = defaultdict(list)
    for module, found in targets.items():
        pieces[found.module].append(_piece(module, roles[module], found, settings, file))
    return Lora(
        pieces={name: tuple(pieces[name]) for name in sorted(pieces)},
        families=_families(targets, file),
        where=str(file),
    )


def _piece(
    module: str, roles: Mapping[str, Tensor], found: Target, settings: Mapping[str, Any], file: Path
) -> Piece:
    for role in ("down", "up"):
        if role not in roles:
            raise ValueError(f"{file} has no {role!r} matrix for {module!r}; fetch the whole file")
    down, up = roles["down"], roles["up"]
    if down.ndim != 2 or up.ndim != 2 or len(down) != up.shape[1]:
        shapes = f"{tuple(up.shape)} and {tuple(down.shape)}"
        raise ValueError(f"{file}: the matrices of {module!r} are {shapes}; their ranks should agree")
    if found.swapped:
        up = torch.cat(list(reversed(up.chunk(2))))
    rank = len(down)
    alpha = float(roles["alpha"]) if "alpha" in roles else _alpha(module, rank, settings)
    scale = alpha / (math.sqrt(rank) if settings.get("use_rslora") else rank)
    return Piece(down=down, up=up, scale=scale, part=found.part, parts=found.parts)


def _families(targets: Mapping[str, Target], file: Path) -> frozenset[str]:
    families = reduce(frozenset.intersection, (found.families for found in targets.values()))
    if not families:
        mixed = [next(m for m, found in targets.items() if found.families == {name}) for name in TITLES]
        raise ValueError(f"{file} mixes FLUX.1 ({mixed[0]!r}) and FLUX.2 ({mixed[1]!r}); it fits neither")
    return families


_OTHER_KINDS = {
    "LoKr": (".lokr_",),
    "LoHa": (".hada_",),
    "DoRA": (".dora_scale", ".lora_magnitude_vector"),
    "OFT": (".oft_",),
    "LoCon": (".lora_mid.",),
    "LoRA that changes biases, as FLUX.1's control LoRAs do": (".lora_A.bias", ".lora_B.bias"),
    "set of full differences": (".diff.", ".diff_b."),
}


def _refuse_other_kinds(tensors: Mapping[str, Tensor], file: Path) -> None:
    for key in tensors:
        for kind, fragments in _OTHER_KINDS.items():
            if any(fragment in f"{key}." for fragment in fragments):
                raise ValueError(f"{file} is a {kind}: {key!r}; flowlab reads plain LoRA only")
        if key.startswith(("lora_te", "text_encoder")):
            raise ValueError(f"{file} changes a text encoder, too: {key!r}; give one without those keys")


# ---- what is written beside the matrices -------------------------------------------------------------------


def _located(path: Path) -> Path:
    if not path.is_dir():
        return path
    for name in ("adapter_model.safetensors", "pytorch_lora_weights.safetensors"):
        if (path / name).is_file():
            return path / name
    raise ValueError(f"{path} has neither adapter_model nor pytorch_lora_weights.safetensors; give the file")


def _settings(file: Path, metadata: Mapping[str, str]) -> dict[str, Any]:
    """PEFT's: of adapter_config.json beside the file, or of diffusers' metadata in it."""
    config = file.with_name("adapter_config.json")
    if file.name == "adapter_model.safetensors" and config.is_file():
        settings = read_json(config)
    else:
        packed = _unpacked(metadata.get("lora_adapter_metadata", "{}"), file)
        settings = {name.removeprefix("transformer."): value for name, value in packed.items()}
    if settings.get("use_dora"):
        raise ValueError(f"{file} is a DoRA, says its configuration; flowlab reads plain LoRA only")
    return settings


def _unpacked(text: str, file: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(text))
    except (TypeError, ValueError) as problem:
        raise ValueError(
            f"{file}: its metadata lora_adapter_metadata is no JSON; fetch it again"
        ) from problem


def _alpha(module: str, rank: int, settings: Mapping[str, Any]) -> float:
    """By PEFT's rule: the pattern that the module's name ends in, else lora_alpha, else the rank."""
    for pattern, alpha in (settings.get("alpha_pattern") or {}).items():
        if re.fullmatch(rf"(?:.*\.)?(?:{pattern})", module):
            return float(alpha)
    alpha = settings.get("lora_alpha")
    return float(rank if alpha is None else alpha)


# ---- merging -----------------------------------------------------------------------------------------------


@torch.no_grad()
def merge(model: nn.Module, lora: Lora, scale: float = 1.0) -> None:
    """Add the adapter, times `scale`, to the model's weights in place; summed in float32.

    An adapter of another family or size is a ValueError, raised before any weight changes.
    """
    if not isinstance(model, (Flux1, Flux2)):
        raise ValueError(f"{lora.where} is a LoRA of FLUX; a {type(model).__name__} takes none")
    family = "flux1" if isinstance(model, Flux1) else "flux2"
    if family not in lora.families:
        (own,) = lora.families
        raise ValueError(f"{lora.where} is a LoRA of {TITLES[own]}; this model is a {TITLES[family]}")
    state = model.state_dict()
    weights = {name.removesuffix(".weight"): tensor for name, tensor in state.items() if tensor.ndim == 2}
    absent = [name for name in lora.pieces if name not in weights]
    if absent:
        raise ValueError(
            f"{lora.where}: {len(absent)} of its {len(lora.pieces)} modules are not in this {TITLES[family]}"
            f" of {model.spec.double_blocks} + {model.spec.single_blocks} blocks, first {absent[0]!r}"
        )
    changes = [
        (_rows(weights[name], piece, model.spec.width, name, lora), piece)
        for name, pieces in lora.pieces.items()
        for piece in pieces
    ]
    for rows, piece in changes:
        up, down = (side.to(rows.device, torch.float32) for side in (piece.up, piece.down))
        rows.copy_(rows.float() + scale * piece.scale * (up @ down))


def _rows(weight: Tensor, piece: Piece, width: int, name: str, lora: Lora) -> Tensor:
    """The rows of a weight that a piece changes."""
    rows = weight
    if piece.part is not None:
        last = piece.part == piece.parts - 1
        rows = weight[piece.part * width : None if last else (piece.part + 1) * width]
    change = (len(piece.up), piece.down.shape[1])
    if rows.shape != change:
        raise ValueError(
            f"{lora.where}: {name!r} is {tuple(rows.shape)} in this model, {change} in the LoRA;"
            " it was made for another model"
        )
    return rows
