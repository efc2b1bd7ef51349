"""Backbone files: ours (safetensors that carry their spec), and official and diffusers' checkpoints."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from flowlab.backbones import adapters, flux_files
from flowlab.backbones.flux1 import Flux1, Flux1Spec
from flowlab.backbones.flux2 import Flux2, Flux2Spec
from flowlab.backbones.sit import SiT, SiTSpec, empty
from flowlab.core import stored
from flowlab.core.choices import lookup
from flowlab.core.config import from_dict, to_dict
from flowlab.core.weights import load_strict, write_weights

__all__ = ["load", "save", "save_diffusers", "save_official"]

METADATA = "backbone"
"""The metadata key of our files; its value is JSON: {"family": a key of FAMILIES, "spec": {...}}."""
FAMILIES: dict[str, tuple[type[nn.Module], type[Any]]] = {
    "sit": (SiT, SiTSpec),
    "flux1": (Flux1, Flux1Spec),
    "flux2": (Flux2, Flux2Spec),
}


def load(path: Path | str, **overrides: Any) -> nn.Module:
    """The model in a file or folder, in eval mode, whatever project wrote it.

    Known: our own .safetensors (`save`); FLUX.1 and FLUX.2 in official, diffusers' or our names, as
    .safetensors, .pt, a folder or an index of shards; SiT, REPA or DiT state dicts as .safetensors or .pt
    (EMA weights where a training checkpoint has them; read without running any code in the file).

    `overrides` say what shapes cannot tell. SiT: variant="dit", heads=8. FLUX: axes=(8, 12, 12) of RoPE where
    a head is not 128 wide, theta, variant="kv" or any published name ("klein_base", "kontext": they check
    what the file can tell of them), FLUX.1's reference_t, time_rounding, and dtype="bfloat16" (without it the
    precision of the file); published spellings ("axes_dim") work, too. FLUX weights are mapped from the file.
    Anything else is a ValueError of one line.
    """
    path = Path(path)
    held = stored.read(path)
    if METADATA in held.metadata:
        return _ours(held, path, overrides)
    if adapters.MARKER in held.tensors:
        for name in overrides:
            lookup(dict.fromkeys(("variant", *SiTSpec.__dataclass_fields__)), name, "override of a SiT")
        return adapters.from_official(held.tensors, where=str(path), **overrides)
    _refuse_adapter(held.tensors, path)
    if flux_files.is_flux(held.tensors):
        return flux_files.from_tensors(held.tensors, held.reread, str(path), overrides, config=held.config)
    _refuse_stranger(held, path)
    raise ValueError(
        f"{path} is no backbone that flowlab knows; give one of its own, or of SiT, REPA, DiT or FLUX"
    )


def save(model: nn.Module, path: Path | str, metadata: Mapping[str, str] | None = None) -> None:
    """Write a model's weights and spec, beside other `metadata`, as one safetensors file for `load`."""
    write_weights(path, model.state_dict(), {**(metadata or {}), **_description(model)})


def save_official(model: nn.Module, path: Path | str) -> None:
    """Write a FLUX as one file in the names of its own code, equal to the bit."""
    flux_files.save_official(_flux(model), path, _description(model))


def save_diffusers(model: nn.Module, folder: Path | str) -> None:
    """Write a FLUX as config.json and weights that diffusers' own class loads, equal to the bit.

    A folder of that name is replaced.
    """
    flux_files.save_diffusers(_flux(model), folder, _description(model))


def _description(model: nn.Module) -> dict[str, str]:
    """The metadata that makes a file ours: shapes do not tell heads, axes or variant."""
    for family, (kind, spec) in FAMILIES.items():
        if isinstance(model, kind):
            assert isinstance(model.spec, spec), type(model.spec).__name__
            return {METADATA: json.dumps({"family": family, "spec": to_dict(model.spec)})}
    known = ", ".join(kind.__name__ for kind, _ in FAMILIES.values())
    raise ValueError(f"a {type(model).__name__} cannot be saved as a backbone; choose from: {known}")


def _flux(model: nn.Module) -> Flux1 | Flux2:
    if not isinstance(model, (Flux1, Flux2)):
        raise ValueError(f"a {type(model).__name__} is no FLUX; only `save` writes it")
    return model


# ---- files of ours -----------------------------------------------------------------------------------------


def _ours(held: stored.Stored, path: Path, overrides: dict[str, Any]) -> nn.Module:
    described = held.metadata[METADATA]
    try:
        content = json.loads(described)
    except json.JSONDecodeError as problem:
        raise ValueError(f"{path}: its metadata {METADATA!r} is not JSON; write the file again") from problem
    family = content.get("family") if isinstance(content, dict) else None
    if family not in FAMILIES:
        raise ValueError(
            f"{path} holds an unknown backbone family: {described[:80]}; choose from: {', '.join(FAMILIES)}"
        )
    _, kind = FAMILIES[family]
    spec = from_dict(kind, content.get("spec"), f"{path} spec")
    if isinstance(spec, SiTSpec):
        return _our_sit(spec, held.tensors, path, overrides)
    return flux_files.from_tensors(held.tensors, held.reread, str(path), overrides, spec=spec)


def _our_sit(spec: SiTSpec, tensors: dict[str, Tensor], path: Path, overrides: dict[str, Any]) -> SiT:
    if overrides:
        raise ValueError(f"{path} states its own spec; it takes no overrides, got: {', '.join(overrides)}")
    model = empty(spec)
    model = model.to(tensors["patch_in.weight"].dtype) if "patch_in.weight" in tensors else model
    load_strict(model, tensors, where=str(path))
    return model.eval()


# ---- files of others ---------------------------------------------------------------------------------------

_ADAPTER = (
    ".lora_A.",
    ".lora_B.",
    ".lora_down.",
    ".lora_up.",
    ".lora.down.",
    ".lora.up.",
    ".lokr_",
    ".hada_",
)
_STRANGERS = {
    "an autoencoder; give it to autoencoders.load": (
        "encoder.conv_in.", "decoder.conv_in.", "decoder.conv_out.", "decoder.decoder_embed.",
    ),
    "a text encoder; give it to text.load": (
        "embed_tokens.", ".self_attn.", ".SelfAttention.", "token_embedding.",
    ),
    "a U-Net, which flowlab does not have; give a SiT or a FLUX": ("input_blocks.", "down_blocks."),
}  # fmt: skip
"""What a file of another kind is, by what one of its names contains."""


def _refuse_adapter(tensors: Mapping[str, Tensor], path: Path) -> None:
    for name in tensors:
        if any(part in name for part in _ADAPTER):
            raise ValueError(
                f"{path} is an adapter (LoRA), not a backbone; load its base, then backbones.lora.merge it"
            )


def _refuse_stranger(held: stored.Stored, path: Path) -> None:
    for title, parts in _STRANGERS.items():
        if any(part in name for name in held.tensors for part in parts):
            raise ValueError(f"{path} is {title}")
    if "autoencoder" in held.metadata:
        raise ValueError(f"{path} is an autoencoder; give it to autoencoders.load")
