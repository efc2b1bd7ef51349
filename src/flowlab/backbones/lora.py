"""LoRA files of FLUX, read whatever tool wrote them, and merged into a model.

W' = W + scale * alpha / rank * up @ down (Hu et al. 2021, arXiv 2106.09685). Without an alpha in the file it
is the rank. Adapters of split projections (diffusers' to_q, to_k, to_v) change their rows of the fused
weight; those of diffusers' norm_out have their halves put in our order. (Files that a converter renamed to
diffusers' names without swapping those halves cannot be told from right ones.)

FLUX.1's control LoRAs (Canny, Depth) change more: each B has a bias, norm scales are replaced whole, and the
first layer reads twice the channels, the new ones from zero.
"""

from __future__ import annotations

import json
import math
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import reduce
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from flowlab.backbones.flux1 import Flux1
from flowlab.backbones.flux2 import Flux2
from flowlab.backbones.flux_names import TITLES
from flowlab.backbones.lora_names import Target, norm_of, parse, target
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
    bias: Tensor | None = None
    """(rows,), times the caller's scale alone added to those rows of the bias."""


@dataclass(frozen=True, kw_only=True)
class Lora:
    """An adapter in our names."""

    pieces: Mapping[str, tuple[Piece, ...]]
    """By module of ours, such as "double_blocks.0.img_attn.qkv"."""
    families: frozenset[str]
    """Keys of TITLES that have all its modules: both, where names do not tell."""
    where: str
    """The file, for messages."""
    norms: Mapping[str, Tensor] = field(default_factory=dict)
    """Norm scales of ours => what replaces them."""

    @property
    def ranks(self) -> dict[str, int]:
        """Module => the highest rank that the adapter can give to its change."""
        return {name: sum(len(piece.down) for piece in pieces) for name, pieces in self.pieces.items()}


# ---- reading -----------------------------------------------------------------------------------------------


def read(path: Path | str) -> Lora:
    """The adapter in a .safetensors file, or in a folder that PEFT or diffusers wrote.

    Keys in the style of PEFT and diffusers, of kohya, and of BFL and ComfyUI (control LoRAs, too). Other
    kinds (LoKr, LoHa, DoRA, text encoders) and keys that match nothing are ValueErrors that name them.
    """
    file = _located(Path(path))
    tensors, metadata = read_weights(file)
    _refuse_other_kinds(tensors, file)
    check_finite(tensors, str(file))
    norms = {ours: tensor for key, tensor in tensors.items() if (ours := norm_of(key)) is not None}
    roles: dict[str, dict[str, Tensor]] = defaultdict(dict)
    targets: dict[str, Target] = {}
    strays = []
    for key, tensor in tensors.items():
        if norm_of(key) is not None:
            continue
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
    settings = _settings(file, tensors, metadata)
    pieces: dict[str, list[Piece]] = defaultdict(list)
    for module, found in targets.items():
        pieces[found.module].append(_piece(module, roles[module], found, settings, file))
    return Lora(
        pieces={name: tuple(pieces[name]) for name in sorted(pieces)},
        families=_families(targets, file),
        where=str(file),
        norms=norms,
    )


def _piece(
    module: str, roles: Mapping[str, Tensor], found: Target, settings: Mapping[str, Any], file: Path
) -> Piece:
    for role in ("down", "up"):
        if role not in roles:
            raise ValueError(f"{file} has no {role!r} matrix for {module!r}; fetch the whole file")
    down, up, bias = roles["down"], roles["up"], roles.get("bias")
    if down.ndim != 2 or up.ndim != 2 or len(down) != up.shape[1]:
        shapes = f"{tuple(up.shape)} and {tuple(down.shape)}"
        raise ValueError(f"{file}: the matrices of {module!r} are {shapes}; their ranks should agree")
    if bias is not None and bias.shape != up.shape[:1]:
        raise ValueError(
            f"{file}: the bias of {module!r} is {tuple(bias.shape)}; its matrix has {len(up)} rows"
        )
    if found.swapped:
        up = torch.cat(list(reversed(up.chunk(2))))
        bias = bias if bias is None else torch.cat(list(reversed(bias.chunk(2))))
    rank = len(down)
    alpha = float(roles["alpha"]) if "alpha" in roles else _alpha(module, rank, settings)
    scale = alpha / (math.sqrt(rank) if settings.get("use_rslora") else rank)
    return Piece(down=down, up=up, scale=scale, part=found.part, parts=found.parts, bias=bias)


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


def _settings(file: Path, keys: Iterable[str], metadata: Mapping[str, str]) -> dict[str, Any]:
    """PEFT's: of adapter_config.json beside a file in its naming, or of diffusers' metadata in the file."""
    config = file.with_name("adapter_config.json")
    of_peft = all(key.startswith("base_model.model.") for key in keys)
    if (of_peft or file.name == "adapter_model.safetensors") and config.is_file():
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
    wider = _wider(model, lora)
    if wider is not None:
        state["img_in.weight"] = wider
    _check_present(model, lora, state, TITLES[family])
    pieces = [(name, piece) for name, pieces in lora.pieces.items() for piece in pieces]
    weights = [(_rows(state, f"{name}.weight", piece, model, lora), piece) for name, piece in pieces]
    biases = [
        (_rows(state, f"{name}.bias", piece, model, lora), piece.bias)
        for name, piece in pieces
        if piece.bias is not None
    ]
    for rows, piece in weights:
        up, down = (side.to(rows.device, torch.float32) for side in (piece.up, piece.down))
        rows.copy_(rows.float() + scale * piece.scale * (up @ down))
    for rows, bias in biases:
        rows.copy_(rows.float() + scale * bias.to(rows.device, torch.float32))
    for name, norm in lora.norms.items():
        state[name].copy_(norm)
    if wider is not None:
        _widen(model, wider)


def _check_present(model: Flux1 | Flux2, lora: Lora, state: Mapping[str, Tensor], title: str) -> None:
    """Every tensor that the adapter changes is in the model, and norms have its width."""
    needed = {f"{name}.weight": name for name in lora.pieces}
    needed |= {f"{n}.bias": n for n, pieces in lora.pieces.items() if any(p.bias is not None for p in pieces)}
    needed |= {name: name for name in lora.norms}
    absent = list(dict.fromkeys(name for tensor, name in needed.items() if tensor not in state))
    if absent:
        raise ValueError(
            f"{lora.where}: {len(absent)} of its {len(lora.pieces)} modules are not in this {title}"
            f" of {model.spec.double_blocks} + {model.spec.single_blocks} blocks, first {absent[0]!r}"
        )
    for name, norm in lora.norms.items():
        if norm.shape != state[name].shape:
            shapes = f"{tuple(state[name].shape)} in this model, {tuple(norm.shape)} in the LoRA"
            raise ValueError(f"{lora.where}: {name!r} is {shapes}; it was made for another model")


def _rows(state: Mapping[str, Tensor], tensor: str, piece: Piece, model: Flux1 | Flux2, lora: Lora) -> Tensor:
    """The rows of a weight or bias that a piece changes."""
    name, _, leaf = tensor.rpartition(".")
    rows, width = state[tensor], model.spec.width
    if piece.part is not None:
        last = piece.part == piece.parts - 1
        rows = rows[piece.part * width : None if last else (piece.part + 1) * width]
    change = (len(piece.up), piece.down.shape[1]) if leaf == "weight" else (len(piece.up),)
    if rows.shape != change:
        raise ValueError(
            f"{lora.where}: {name!r} is {tuple(rows.shape)} in this model, {change} in the LoRA;"
            " it was made for another model"
        )
    return rows


# ---- control LoRAs -----------------------------------------------------------------------------------------


def _wider(model: Flux1 | Flux2, lora: Lora) -> Tensor | None:
    """FLUX.1's first weight with zeros for the control's channels, where the adapter reads those, too."""
    weight = model.img_in.weight
    columns = max((piece.down.shape[1] for piece in lora.pieces.get("img_in", ())), default=0)
    if not isinstance(model, Flux1) or model.spec.in_channels > model.spec.channels:
        return None
    if columns != 2 * model.spec.channels:
        return None
    return torch.cat([weight, torch.zeros_like(weight)], dim=1)


def _widen(model: Flux1 | Flux2, weight: Tensor) -> None:
    """The model then takes concat: latents of the control's map."""
    model.img_in.weight = nn.Parameter(weight, requires_grad=model.img_in.weight.requires_grad)
    model.img_in.in_features = weight.shape[1]
    model.spec = replace(model.spec, in_channels=weight.shape[1])  # pyright: ignore
