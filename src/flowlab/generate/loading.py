"""From a name to the parts of a pipeline: which file is the model, what decodes it, what reads its prompts.

`locate` decides from headers alone, so that a plan can be printed before anything is loaded; `load_parts`
loads.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from flowlab import autoencoders, backbones, text
from flowlab.autoencoders import hub
from flowlab.autoencoders.base import Autoencoder
from flowlab.autoencoders.sizes import AUTOENCODERS
from flowlab.backbones import flux_config, flux_files, flux_overrides, lora
from flowlab.backbones.flux1 import Flux1, Flux1Spec
from flowlab.backbones.flux2 import Flux2, Flux2Spec
from flowlab.backbones.flux_sizes import flux_of
from flowlab.core import stored
from flowlab.core.choices import lookup
from flowlab.core.config import from_dict
from flowlab.core.files import findable, read_json
from flowlab.core.weights import tensors_id
from flowlab.generate.variants import VARIANTS
from flowlab.text import TextEncoder

__all__ = ["Located", "LoraFile", "Parts", "identity_of", "load_parts", "locate", "loras_of"]

WEIGHTS = Path(backbones.__file__).parent / "weights"
"""Models that ship with flowlab, NAME.safetensors."""
INDEX = "model_index.json"
"""What makes a folder a diffusers pipeline."""
PIPELINES = {  # diffusers' class => variant, where the class alone tells
    "Flux2Pipeline": "flux2_dev",
    "Flux2KleinKVPipeline": "flux2_klein_kv",
    "FluxKontextPipeline": "flux1_kontext",
    "FluxFillPipeline": "flux1_fill",
}
REPOSITORIES = {
    4096: "black-forest-labs/FLUX.1-schnell",
    7680: "black-forest-labs/FLUX.2-klein-4B",
    12288: "black-forest-labs/FLUX.2-klein-9B",
    15360: "black-forest-labs/FLUX.2-dev",
}
"""Width of a model's text => where an autoencoder and a text encoder that fit it are published."""
LARGE = 200_000_000
"""Parameters from which an identity looks at the ends of each tensor only."""
ENDS = 1024
"""Values at each end."""


@dataclass(frozen=True, kw_only=True)
class Located:
    """Where the parts are, before any is loaded."""

    model: Path | str
    """File or folder for `backbones.load`, or a hub id whose transformer is fetched when it is loaded."""
    autoencoder: str
    """For `autoencoders.load`."""
    text: str
    """For `text.load`."""
    variant: str
    """A key of VARIANTS."""
    trained_in: str | None
    """Identity of the autoencoder, where the model's file says it and the user named no other."""
    outline: Flux1 | Flux2
    """The model on the meta device: its spec and sizes, no weights."""


@dataclass(frozen=True, kw_only=True)
class LoraFile:
    """An adapter to merge."""

    file: str
    """Its path."""
    scale: float = 1.0
    """Of its change of the weights."""


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What a pipeline runs."""

    model: Flux1 | Flux2
    autoencoder: Autoencoder
    text: TextEncoder
    facts: dict[str, Any]
    """What the images will say of them."""


# ---- where -------------------------------------------------------------------------------------------------


def locate(
    name_or_path: str | Path,
    *,
    autoencoder: str | None = None,
    text_encoder: str | None = None,
    variant: str | None = None,
) -> Located:
    """The parts of a shipped name, a model file, a transformer or pipeline folder of diffusers, or a hub id.

    `autoencoder` and `text_encoder` stand in where the file does not name them, `variant` where shapes do not
    tell it. What is missing is a ValueError that says which to give.
    """
    path = _found(name_or_path)
    if path is None:
        told = _from_hub(str(path := name_or_path))
    else:
        told = _from_pipeline(path) if (path / INDEX).is_file() else {"model": path}
    outline, metadata = outlined(told["model"])
    told = {**metadata, **told}
    published = REPOSITORIES.get(outline.spec.text_width)
    for name, given, known, example in (
        ("autoencoder", autoencoder, AUTOENCODERS, published or "flux2_scenes"),
        ("text", text_encoder, text.ENCODERS, published or "embedded"),
    ):
        if (wanted := given or told.get(name)) is None:
            raise ValueError(
                f"{path} does not say which {name} it works with; give {name}, such as {example}"
            )
        told[name] = findable(wanted, known)
    variant = variant or told.get("variant") or _guessed(outline, told["text"], path)
    lookup(VARIANTS, variant, "variant")
    _check_variant(outline, variant, path)
    return Located(
        model=told["model"],
        autoencoder=told["autoencoder"],
        text=told["text"],
        variant=variant,
        trained_in=None if autoencoder else told.get("autoencoder_identity"),
        outline=outline,
    )


def _found(name_or_path: str | Path) -> Path | None:
    """On disk; None for a hub id that is not."""
    shipped = {file.stem: file for file in sorted(WEIGHTS.glob("*.safetensors"))}
    path = shipped.get(str(name_or_path), Path(name_or_path))
    if not path.exists():
        if hub.is_hub_id(str(name_or_path)):
            return None
        names = ", ".join(shipped) or "none in this version"
        raise ValueError(f"there is no model {name_or_path}; give its path, or a shipped name: {names}")
    return path


def _from_hub(name: str) -> dict[str, Any]:
    """Of a whole pipeline only its index is fetched now; a single file or folder of a repository is."""
    if ":" in name or name.count("/") > 1:
        return {"model": hub.fetch(name)}
    index = read_json(hub.fetch(f"{name}:{INDEX}"))
    return {"model": name, "autoencoder": name, "text": name, **_variant_in(index)}


def _from_pipeline(folder: Path) -> dict[str, Any]:
    """The places in a diffusers pipeline."""
    parts = {"model": folder / "transformer", "autoencoder": str(folder / "vae"), "text": str(folder)}
    if not parts["model"].is_dir():
        raise ValueError(f"{folder} has no folder transformer; fetch the whole pipeline again")
    return parts | _variant_in(read_json(folder / INDEX))


def _variant_in(index: Mapping[str, Any]) -> dict[str, str]:
    """The variant, if the class of a pipeline tells."""
    kind = str(index.get("_class_name"))
    if kind == "Flux2KleinPipeline" and "is_distilled" in index:
        return {"variant": "flux2_klein" if index["is_distilled"] else "flux2_klein_base"}
    return {"variant": PIPELINES[kind]} if kind in PIPELINES else {}


def _guessed(outline: Flux1 | Flux2, text_encoder: str, path: Path | str) -> str:
    """The variant where the shapes tell; a ValueError that lists the candidates where they do not."""
    spec = outline.spec
    if isinstance(spec, Flux2Spec):
        if text_encoder == "embedded":
            return "flux2_scenes"
        if spec.variant == "kv":
            return "flux2_klein_kv"
        if not spec.guidance:
            raise ValueError(
                f"the shapes of {path} do not tell which klein it is; give variant flux2_klein (distilled),"
                " flux2_klein_kv (distilled, with cached references) or flux2_klein_base"
            )
        return "flux2_dev"
    beside = spec.in_channels - spec.channels
    if beside == spec.channels:
        raise ValueError(
            f"the shapes of {path} do not tell its task; give variant flux1_canny or flux1_depth"
        )
    if beside:
        return "flux1_fill"
    if not spec.guidance:
        return "flux1_schnell"
    return "flux1_lite" if spec.double_blocks == 8 else "flux1_dev"


def _check_variant(outline: Flux1 | Flux2, variant: str, path: Path | str) -> None:
    """A variant of another family, or whose guidance the model does not have, is a ValueError."""
    spec, wanted = outline.spec, VARIANTS[variant]
    if variant.startswith("flux1") != isinstance(spec, Flux1Spec):
        family = "FLUX.1" if isinstance(spec, Flux1Spec) else "FLUX.2"
        raise ValueError(f"{path} is a {family}, which is no {variant}; give a variant of its family")
    if spec.guidance != (wanted.kind == "embedded"):
        has = "a" if spec.guidance else "no"
        raise ValueError(f"{path} has {has} guidance embedding, unlike {variant}; give another variant")


def outlined(path: Path | str) -> tuple[Flux1 | Flux2, dict[str, str]]:
    """The model of a file or folder on the meta device, and what the file says of its surroundings.

    Weights are mapped for their shapes and not read; of a hub id only the transformer's config is fetched.
    """
    if isinstance(path, str):
        config = read_json(hub.fetch(f"{path}:transformer/config.json"))
        with torch.device("meta"):
            return flux_of(flux_config.stated(config, f"{path}/transformer")), {}
    found = stored.read(path)
    tensors = {name: torch.empty_like(one, device="meta") for name, one in found.tensors.items()}
    spec = _stated_spec(found.metadata, path)
    if spec is None and not flux_files.is_flux(tensors):
        raise ValueError(f"{path} is no FLUX transformer; prompts need one, such as flux2_scenes")
    outline = flux_files.from_tensors(
        tensors,
        lambda names: [tensors[name] for name in names],
        str(path),
        spec=spec,
        config=found.config,
    )
    return outline, {name: value for name, value in found.metadata.items() if name in _NAMED}


_NAMED = ("autoencoder", "autoencoder_identity", "text", "variant")
"""What a model's file says of its surroundings."""


def _stated_spec(metadata: dict[str, str], path: Path) -> Flux1Spec | Flux2Spec | None:
    if "backbone" not in metadata:
        return None
    described = json.loads(metadata["backbone"])
    if described.get("family") not in flux_overrides.SPECS:
        raise ValueError(
            f"{path} is a backbone of the family {described.get('family')!r}, which reads no prompts;"
            " give a FLUX"
        )
    return from_dict(flux_overrides.SPECS[described["family"]], described["spec"], f"{path} spec")


# ---- loading -----------------------------------------------------------------------------------------------


def load_parts(
    located: Located,
    *,
    device: torch.device,
    dtype: torch.dtype,
    loras: Sequence[LoraFile] = (),
    text_options: Mapping[str, Any] | None = None,
) -> Parts:
    """The model, still on the CPU, in `dtype` and with its adapters merged; the autoencoder on `device`; the
    text encoder as `text_options` say.
    """
    adapters = [(lora.read(one.file), one.scale) for one in loras]
    autoencoder = autoencoders.load(located.autoencoder)
    if autoencoder.spec.channels != located.outline.spec.channels:
        raise ValueError(
            f"{located.model} makes latents of {located.outline.spec.channels} channels, the autoencoder"
            f" {located.autoencoder} decodes {autoencoder.spec.channels}; give the one it was trained in"
        )
    if located.trained_in not in (None, autoencoder.identity):
        raise ValueError(
            f"{located.autoencoder} holds other weights ({autoencoder.identity}) than {located.model} was"
            f" trained in ({located.trained_in}); give those with --autoencoder"
        )
    path = hub.fetch(f"{located.model}/transformer") if isinstance(located.model, str) else located.model
    model = backbones.load(path, dtype=dtype, **VARIANTS[located.variant].loading)
    assert isinstance(model, (Flux1, Flux2))
    model.requires_grad_(False)
    identity = identity_of(model.state_dict())
    for adapter, scale in adapters:
        lora.merge(model, adapter, scale)
    encoder = text.load(located.text, **(text_options or {}))
    if encoder.width != model.spec.text_width:
        raise ValueError(
            f"{located.model} reads text of width {model.spec.text_width}, the encoder {located.text} gives"
            f" {encoder.width}; give the one it was trained with"
        )
    facts = {
        "model": {"file": _called(located.model), "identity": identity, "variant": located.variant},
        "autoencoder": {"name": located.autoencoder, "identity": autoencoder.identity},
        "text": {"name": located.text, "identity": encoder.identity},
        "loras": [_lora_facts(adapter.where, scale) for adapter, scale in adapters],
        "precision": {"weights": str(dtype).removeprefix("torch."), "state": "float32"},
    }
    return Parts(model=model, autoencoder=autoencoder.to(device), text=encoder, facts=facts)


def _called(model: Path | str) -> str:
    """By what `locate` finds it from any folder: a shipped name, a path, a hub id."""
    if isinstance(model, str):
        return model
    return model.stem if model.parent == WEIGHTS else str(model.absolute())


def _lora_facts(file: str, scale: float) -> dict[str, Any]:
    path = Path(file).absolute()
    return {"file": str(path), "scale": scale, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}


def identity_of(tensors: dict[str, Tensor]) -> str:
    """Twelve hex digits of the weights; of a large model, of the ends of each tensor.

    Training or merging changes every number of a tensor that it touches, so the ends tell, and a model of
    60 GB need not be read twice.
    """
    if sum(tensor.numel() for tensor in tensors.values()) < LARGE:
        return tensors_id(tensors)
    flat = {name: tensor.flatten() for name, tensor in tensors.items()}
    return tensors_id({name: torch.cat([one[:ENDS], one[-ENDS:]]) for name, one in flat.items()})


def loras_of(words: Sequence[str]) -> tuple[LoraFile, ...]:
    """Each "path" or "path:scale"."""
    found = []
    for word in words:
        path, colon, scale = word.rpartition(":")
        try:
            found.append(LoraFile(file=path, scale=float(scale)) if colon else LoraFile(file=word))
        except ValueError:
            found.append(LoraFile(file=word))
    return tuple(found)
