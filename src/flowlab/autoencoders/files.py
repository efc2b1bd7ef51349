"""Every autoencoder in and out: shipped ones by name, files of ours, published files, diffusers folders, the
hub. A file of ours is safetensors with the spec in its metadata.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from flowlab.autoencoders import diffusers_config, formats, hub, rae_files, rae_original, zoo
from flowlab.autoencoders.base import Autoencoder
from flowlab.autoencoders.families import FAMILIES, family_of, possible
from flowlab.autoencoders.kl import KLAutoencoder, KLSpec
from flowlab.autoencoders.rae import PublishedRAESpec, RAESpec, RepresentationAutoencoder
from flowlab.autoencoders.sizes import AUTOENCODERS, PUBLISHED, weights_path
from flowlab.autoencoders.strips import InStrips
from flowlab.core.choices import lookup
from flowlab.core.config import from_dict, to_dict
from flowlab.core.files import read_json
from flowlab.core.weights import check_finite, dtype_of, load_strict, read_weights, write_weights

__all__ = ["check_source", "load", "save", "save_diffusers", "save_official"]

OWN = {"kl": KLSpec, "rae": RAESpec, "published_rae": PublishedRAESpec}
"""The specs that a file of ours can describe."""
TITLES = {name: known.title for name, known in FAMILIES.items()} | {"rae": "RAE"}
ALIASES = {"scale_factor": "scale", "scaling_factor": "scale", "shift_factor": "shift"}
"""BFL's and diffusers' name of a field => ours."""


def load(
    name_or_path: str | Path,
    *,
    family: str | None = None,
    variant: str | None = None,
    dtype: str | torch.dtype = torch.float32,
    **overrides: Any,
) -> Autoencoder:
    """A frozen autoencoder, on the CPU, from

    a key of AUTOENCODERS | a file of ours | an official or diffusers file (.safetensors, or .pt of tensors) |
    a decoder of RAE's own release | a diffusers folder of any autoencoder class |
    a hub id "org/name", "org/name/folder", "org/name:file".

    A folder may hold its weights in shards, or be a whole pipeline of diffusers.

    `family`, a key of FAMILIES or "rae", is what the caller expects; another one is a ValueError that says
    what the file is. `variant`, a key of FAMILIES, settles what a single file does not tell: SD or SDXL,
    FLUX.1 or SD3; without it, as `family` says, else the first of each. `dtype` ("float32", "bfloat16" or
    "float16") is of the weights, not of the normalisation's statistics. `overrides` replace fields of the
    spec that tensors cannot tell: `resolution` (256 where nothing says), `groups`, `scale`, `shift` (also
    under their published names), `patch`; of a decoder of RAE's release the fields of rae_original.Elsewhere;
    an unknown one is a ValueError that lists the fields. Missing, unknown, misshapen and non-finite tensors
    are ValueErrors that name the tensor.
    """
    dtype = dtype_of(dtype)
    overrides = {ALIASES.get(name, name): value for name, value in overrides.items()}
    if family is not None:
        lookup(TITLES, family, "family")
    path = _located(name_or_path)
    if path.is_dir():
        model = _from_folder(path, variant, dtype, overrides)
    else:
        model = _from_file(path, family, variant, dtype, overrides)
    for wanted in (family, variant):
        if wanted is not None:
            _check_family(model, wanted, path)
    return model


def check_source(name_or_path: str | Path) -> None:
    """A ValueError for what `load` cannot find, as far as that shows without reading or fetching."""
    name, path = str(name_or_path), Path(name_or_path)
    if name in AUTOENCODERS or path.exists() or hub.is_hub_id(name):
        return
    if path.suffix in hub.WEIGHTS:
        raise ValueError(f"no weights at {path}; give the path of a file, a diffusers folder or a hub id")
    if name in PUBLISHED:
        raise ValueError(f"{name} ships without weights; give the path or the hub id of its weights")
    lookup(AUTOENCODERS, name, "autoencoder (or path to .safetensors, diffusers folder, hub id)")


def save(model: Autoencoder, path: Path) -> None:
    """Write weights with the spec beside them.

    Small ones (a linear path, or an embedded teacher) as float16 with float32 statistics, any other as it is.
    """
    _check_holdable(model)
    if isinstance(model, zoo.ZooAutoencoder):
        raise ValueError(f"{model.spec.name} belongs to diffusers; use autoencoders.save_diffusers")
    assert isinstance(model, (KLAutoencoder, RepresentationAutoencoder)), type(model).__name__
    options = model.options
    small = options.linear_path if isinstance(options, KLSpec) else isinstance(options, RAESpec)
    tensors = {
        name: tensor.half() if small and not name.startswith("normalise.") else tensor
        for name, tensor in model.state_dict().items()
    }
    kind = next(kind for kind, spec in OWN.items() if isinstance(options, spec))
    description = {"name": model.spec.name, "family": kind, "options": to_dict(options)}
    write_weights(path, tensors, {"autoencoder": json.dumps(description)})


def save_official(model: Autoencoder, path: Path) -> None:
    """Write one file as the family's own code names it (SD, FLUX.1, FLUX.2, VA-VAE), equal to the bit."""
    _check_holdable(model)
    if not isinstance(model, KLAutoencoder):
        raise ValueError(f"{model.spec.name} has no official single file; use autoencoders.save_diffusers")
    formats.to_official(model, Path(path))


def save_diffusers(model: Autoencoder, folder: Path) -> None:
    """Write config.json and weights that diffusers' own class loads strictly, equal to the bit."""
    _check_holdable(model)
    if isinstance(model, KLAutoencoder):
        formats.to_folder(model, Path(folder))
    elif isinstance(model, zoo.ZooAutoencoder):
        zoo.to_folder(model, Path(folder))
    else:
        assert isinstance(model, RepresentationAutoencoder), type(model).__name__
        rae_files.to_diffusers(model, folder)


def _check_holdable(model: Autoencoder) -> None:
    """A ValueError for what no kind of file describes."""
    if isinstance(model, InStrips):
        raise ValueError(
            f"{model.spec.name} is wrapped to run in strips; save the autoencoder that was given to InStrips"
        )
    if not isinstance(model, (KLAutoencoder, RepresentationAutoencoder, zoo.ZooAutoencoder)):
        raise ValueError(
            f"{model.spec.name} is a {type(model).__name__}, which no file describes; keep its state_dict()"
            " and build it again"
        )


# ---- where it lies -----------------------------------------------------------------------------------------


def _located(name_or_path: str | Path) -> Path:
    """The file or folder; a hub id is tried last, when nothing of that name is on disk."""
    check_source(name_or_path)
    name, path = str(name_or_path), Path(name_or_path)
    if name in AUTOENCODERS:
        return weights_path(name)
    return path if path.exists() else hub.fetch(name)


def _from_file(
    path: Path, family: str | None, variant: str | None, dtype: torch.dtype, overrides: Mapping[str, Any]
) -> Autoencoder:
    if path.suffix in formats.PICKLES:
        tensors, metadata = formats.read_pickle(path), {}
    else:
        tensors, metadata = read_weights(path)
    if "autoencoder" in metadata:
        _no_variant(variant, path)
        return _from_ours(json.loads(metadata["autoencoder"]), tensors, path, dtype, overrides)
    if rae_original.is_decoder(tensors):
        _no_variant(variant, path)
        _no_settings(dtype, {}, path)
        return rae_original.from_decoder(tensors, path, overrides)
    if variant is None and family in FAMILIES:
        variant = family
    return formats.from_tensors(tensors, metadata, str(path), variant, dtype, overrides)


def _from_folder(
    folder: Path, variant: str | None, dtype: torch.dtype, overrides: Mapping[str, Any]
) -> Autoencoder:
    """Of diffusers, or of weights alone; of a whole pipeline its autoencoder."""
    if (folder / "model_index.json").is_file():
        folder = folder / "vae"
    if not (folder / "config.json").is_file():
        tensors = formats.read_folder(folder)
        return formats.from_tensors(tensors, {}, str(folder), variant, dtype, overrides)
    _no_variant(variant, folder)
    config = _config(folder)
    kind = config["_class_name"]
    if kind == "AutoencoderRAE":
        _no_settings(dtype, overrides, folder)
        return rae_files.from_diffusers(folder)
    if diffusers_config.is_ours(config):
        return formats.from_folder(config, folder, dtype, overrides)
    if kind == diffusers_config.FLUX2:
        raise ValueError(
            f"{folder / 'config.json'} describes an {kind} unlike any published (its eps, widths, blocks or"
            " patch); flowlab knows those of FLUX.2"
        )
    return zoo.from_folder(folder, kind, dtype, formats.override(zoo.ZooSpec(), overrides))


def _config(folder: Path) -> dict[str, Any]:
    """config.json; where it names no class, the weights tell which of the two convolutional ones it is."""
    config = read_json(folder / "config.json")
    if not isinstance(config, dict):
        raise ValueError(f"{folder / 'config.json'} holds no settings by name; fetch it again")
    if config.get("_class_name") is None:
        config["_class_name"] = diffusers_config.class_of(formats.read_folder(folder))
    return config


def _from_ours(
    description: dict[str, Any],
    tensors: dict[str, Tensor],
    path: Path,
    dtype: torch.dtype,
    overrides: Mapping[str, Any],
) -> Autoencoder:
    family, name = description["family"], description["name"]
    if family not in OWN:
        raise ValueError(
            f"{path} holds an autoencoder of the unknown family {family!r}; choose from: {', '.join(OWN)}"
        )
    spec = formats.override(from_dict(OWN[family], description["options"], str(path)), overrides)
    for field in ("scale", "shift"):  # a fitted normalisation is in the tensors
        if field in overrides:
            tensors[f"normalise.{field}"] = torch.tensor(float(overrides[field]))
    if isinstance(spec, KLSpec):
        model = formats.empty(spec, name, dtype)
    else:
        _no_settings(dtype, {}, path)
        model = RepresentationAutoencoder(spec, name)
    check_finite(tensors, str(path))
    load_strict(model, tensors, where=str(path))
    return model.eval().requires_grad_(False)


# ---- what was asked for ------------------------------------------------------------------------------------


def _check_family(model: Autoencoder, family: str, path: Path) -> None:
    """A model of another family than `family` is a ValueError that names its own."""
    wanted = lookup(TITLES, family, "family")
    if isinstance(model, KLAutoencoder):
        if model.linear is None and family in possible(model.options):
            return
        title = "small flowlab" if model.linear else FAMILIES[family_of(model.options)].title
    elif isinstance(model, zoo.ZooAutoencoder):
        title = model.class_name
    else:
        title = "RAE"
    if title != wanted:
        article = "an" if title.startswith(("A", "RAE", "SDXL")) else "a"
        raise ValueError(f"{path}: this is {article} {title} autoencoder, not {wanted}")


def _no_variant(variant: str | None, path: Path) -> None:
    if variant is not None:
        raise ValueError(f"variant={variant!r}: {path} itself says what it is; leave variant out")


def _no_settings(dtype: torch.dtype, overrides: Mapping[str, Any], path: Path) -> None:
    if dtype != torch.float32 or overrides:
        what = next(iter(overrides), f"dtype={dtype}")
        raise ValueError(f"{path} is a representation autoencoder, which takes no {what}; leave it out")
