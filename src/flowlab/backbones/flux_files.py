"""FLUX transformers in and out: official, diffusers' and our own names, to the bit.

Tensors are mapped from the file, not read: a tensor that needs no change becomes a parameter as it lies there
and costs memory when it is first used, and only what must be fused or cast is copied. The mapping is private:
training may write to the parameters, and the file stays as it was.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import reduce
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from flowlab.backbones import flux_config
from flowlab.backbones.flux1 import Flux1, Flux1Spec
from flowlab.backbones.flux2 import Flux2, Flux2Spec
from flowlab.backbones.flux_names import TITLES, Layout, Source, sources
from flowlab.backbones.flux_overrides import SPECS, settled
from flowlab.backbones.flux_sizes import flux_of
from flowlab.core.config import from_dict
from flowlab.core.files import atomic_folder
from flowlab.core.weights import dtype_of, write_weights

__all__ = ["Reread", "from_tensors", "is_flux", "save_diffusers", "save_official"]

Spec = Flux1Spec | Flux2Spec
Reread = Callable[[Sequence[str]], list[Tensor]]
"""Tensors of the file anew, in memory that is given back with them."""

PREFIXES = ("model.diffusion_model.", "diffusion_model.", "transformer.")
"""Before every name in repackaged files; the first two are ComfyUI's."""
OTHER_PARTS = ("vae.", "first_stage_model.", "text_encoders.", "conditioner.", "cond_stage_model.")
"""Other models in a file that holds a whole image generator."""


# ---- reading -----------------------------------------------------------------------------------------------


def is_flux(names: Mapping[str, Tensor]) -> bool:
    """Whether a file holds a FLUX transformer, whole or not, in any naming."""
    starts = tuple(prefix + block for prefix in ("", *PREFIXES) for block in _BLOCKS)
    return any(name.startswith(starts) for name in names)


def from_tensors(
    tensors: Mapping[str, Tensor],
    reread: Reread,
    where: str,
    overrides: Mapping[str, Any] | None = None,
    *,
    spec: Spec | None = None,
    config: Mapping[str, Any] | None = None,
) -> Flux1 | Flux2:
    """The model, in eval mode, in the precision of the file or in the override `dtype`.

    `spec` is what a file of ours says of itself, `config` diffusers' config.json; without them the shapes
    tell, and what they cannot (axes, theta, FLUX.2's variant, Kontext's reference_t) is the published default
    unless `overrides` (flux_overrides) say otherwise. A value that contradicts the file is a ValueError, as
    is every missing, unmatched or misshapen tensor.
    """
    overrides = dict(overrides or {})
    dtype = overrides.pop("dtype", None)
    wanted = None if dtype is None else dtype_of(dtype)
    own = _unprefixed(tensors, where)
    _refuse_quantised({short: tensors[full] for short, full in own.items()}, wanted, where)
    layout, naming = _layout(own)
    table = sources(layout, naming)
    _check_names(table, own, layout, where)
    shapes = {ours: _shape([tensors[own[name]] for name in source.names]) for ours, source in table.items()}
    if spec is None:
        spec = _spec(layout, shapes, config, overrides, where)
    else:
        spec = _stated(spec, layout, overrides, where)
    model = _empty(spec, where)
    _check_shapes(model, table, shapes, where)
    _check_runs(
        {names: [len(tensors[own[name]]) for name in names] for names, _ in table.values()}, spec, where
    )
    model.load_state_dict(
        {ours: _assembled(source, own, tensors, reread, wanted) for ours, source in table.items()},
        assign=True,
    )
    return model.eval()


def _unprefixed(names: Mapping[str, Tensor], where: str) -> dict[str, str]:
    """Name without the prefix of its file => name in the file; other models of the same file are left out."""
    for prefix in PREFIXES:
        if any(name.startswith(tuple(prefix + block for block in _BLOCKS)) for name in names):
            mine = [name for name in names if not name.startswith(OTHER_PARTS)]
            found = {name.removeprefix(prefix): name for name in mine}
            if len(found) < len(mine):
                twice = next(name for name in mine if found[name.removeprefix(prefix)] != name)
                raise ValueError(
                    f"{where} has {twice!r} with and without {prefix!r}; give a file of one model"
                )
            return found
    return {name: name for name in names}


def _empty(spec: Spec, where: str) -> Flux1 | Flux2:
    try:
        with torch.device("meta"):
            return flux_of(spec)
    except ValueError as problem:  # sizes that do not fit together
        raise ValueError(f"{where}: {problem}") from problem


def _assembled(
    source: Source,
    own: Mapping[str, str],
    tensors: Mapping[str, Tensor],
    reread: Reread,
    dtype: torch.dtype | None,
) -> Tensor:
    """One tensor of ours: as it is mapped where nothing changes, else a new one filled piece by piece."""
    names = [own[name] for name in source.names]
    dtype = dtype or reduce(torch.promote_types, (tensors[name].dtype for name in names))
    if len(names) == 1 and not source.swapped and tensors[names[0]].dtype == dtype:
        return tensors[names[0]]
    pieces = reread(names)
    if source.swapped:
        pieces = list(reversed(pieces[0].chunk(2)))
    whole = torch.empty(_shape(pieces), dtype=dtype, device=pieces[0].device)
    for rows, piece in zip(whole.split([len(piece) for piece in pieces]), pieces, strict=True):
        rows.copy_(piece)
    return whole


# ---- what a file holds -------------------------------------------------------------------------------------

_BLOCKS = ("double_blocks.", "single_blocks.", "single_transformer_blocks.")
_FLUX2 = ("single_stream_modulation.", "double_stream_modulation_")
_QUANTISED = (
    ".weight_scale", ".weight_scale_2", ".input_scale", ".scale_weight", ".scale_input", ".comfy_quant",
    ".absmax", ".quant_map", "scaled_fp8",
)  # fmt: skip


def _layout(names: Mapping[str, str]) -> tuple[Layout, str]:
    """Family, number of blocks and naming, from names alone."""
    theirs = ("transformer_blocks.", "single_transformer_blocks.")
    diffusers = any(name.startswith(theirs) for name in names)
    ours = any("_mlp.in_layer." in name for name in names) or "final_layer.modulation.lin.weight" in names
    kinds = theirs if diffusers else _BLOCKS[:2]
    double, single = (len({name.split(".")[1] for name in names if name.startswith(kind)}) for kind in kinds)
    layout = Layout(
        family="flux2" if any(name.startswith(_FLUX2) for name in names) else "flux1",
        double_blocks=double,
        single_blocks=single,
        guidance=any(name.startswith("guidance_in.") or ".guidance_embedder." in name for name in names),
    )
    return layout, "diffusers" if diffusers else "ours" if ours else "official"


def _spec(
    layout: Layout,
    shapes: Mapping[str, tuple[int, ...]],
    config: Mapping[str, Any] | None,
    overrides: Mapping[str, Any],
    where: str,
) -> Spec:
    """What the shapes tell, then what `config` and the caller say of the rest."""
    asked = settled(overrides, layout.family, where)
    told = _told(layout, shapes, where)
    said = flux_config.untold(config, layout.family, layout.guidance, where) if config is not None else {}
    said = {**said, **asked}
    for name, value in said.items():
        if told.get(name, value) != value:
            raise ValueError(
                f"{where}: {name}={value!r} was said, but its tensors have {name} {told[name]!r}"
            )
    values = {**told, **said}
    if "axes" not in values:
        values["axes"] = _default_axes(layout.family, values["width"] // values["heads"], where)
    return from_dict(SPECS[layout.family], values, where)


def _told(layout: Layout, shapes: Mapping[str, tuple[int, ...]], where: str) -> dict[str, Any]:
    """The fields of a spec that shapes tell; needs every tensor of the layout."""
    for name, shape in shapes.items():
        if len(shape) != (2 if name.endswith(".weight") else 1):
            raise ValueError(f"{where}: {name!r} has the shape {shape}, which no FLUX has; fetch it again")
    width, in_channels = shapes["img_in.weight"]
    single = layout.single_blocks > 0
    block = "single_blocks.0" if single else "double_blocks.0.img_attn"
    (head,) = shapes[f"{block}.norm.query_norm.scale"]
    read = shapes["single_blocks.0.linear2.weight" if single else "double_blocks.0.img_mlp.out_layer.weight"]
    told = {
        "channels": shapes["final_layer.linear.weight"][0],
        "width": width,
        "heads": width // head,
        "double_blocks": layout.double_blocks,
        "single_blocks": layout.single_blocks,
        "text_width": shapes["txt_in.weight"][1],
        "mlp_ratio": _ratio(read[1] - width * single, width),
        "guidance": layout.guidance,
    }
    if layout.family == "flux1":
        pooled = shapes["vector_in.in_layer.weight"][1]
        return {**told, "in_channels": in_channels, "pooled_width": pooled}
    return told


def _ratio(hidden: int, width: int) -> float:
    """The mlp_ratio from which a spec computes exactly `hidden`."""
    ratio = hidden / width
    return ratio if int(width * ratio) == hidden else math.nextafter(ratio, math.inf)


def _default_axes(family: str, head: int, where: str) -> tuple[int, ...]:
    """The published axes: four equal ones in FLUX.2, 16, 56, 56 of 128 in FLUX.1."""
    if family == "flux2" and head % 8 == 0:
        return (head // 4,) * 4
    if family == "flux1" and head == 128:
        return (16, 56, 56)
    count = 4 if family == "flux2" else 3
    raise ValueError(
        f"{where}: heads of {head} channels are in no published {TITLES[family]}; say axes=({count} numbers "
        f"whose sum is {head})"
    )


# ---- what is refused ---------------------------------------------------------------------------------------


def _refuse_quantised(tensors: Mapping[str, Tensor], dtype: torch.dtype | None, where: str) -> None:
    for name, tensor in tensors.items():
        if name.endswith(_QUANTISED) or tensor.dtype in (torch.uint8, torch.int8):
            raise ValueError(f"{where} is quantised (FP8, NVFP4 or 4-bit: {name!r}); give its bfloat16 file")
        if tensor.is_floating_point() and tensor.element_size() < 2 and dtype is None:
            raise ValueError(f"{where} holds {tensor.dtype} ({name!r}); say dtype='bfloat16' to widen it")


def _check_names(table: Mapping[str, Source], own: Mapping[str, str], layout: Layout, where: str) -> None:
    expected = {name for source in table.values() for name in source.names}
    title = f"a {TITLES[layout.family]} of {layout.double_blocks} + {layout.single_blocks} blocks"
    if missing := expected - own.keys():
        raise ValueError(
            f"{where} lacks {len(missing)} tensors of {title}, first {min(missing)!r}; fetch the whole file"
        )
    if unmatched := own.keys() - expected:
        raise ValueError(f"{where} has {len(unmatched)} tensors unknown to {title}, first {min(unmatched)!r}")


def _stated(spec: Spec, layout: Layout, overrides: Mapping[str, Any], where: str) -> Spec:
    """A file that states its spec holds that family, and takes only overrides that agree.

    How the time is rounded is the reader's choice: no weight depends on it.
    """
    if not isinstance(spec, SPECS[layout.family]):
        stated = next(TITLES[name] for name, kind in SPECS.items() if isinstance(spec, kind))
        raise ValueError(
            f"{where} says that it is {stated}, but its tensors are of a {TITLES[layout.family]}"
        )
    asked = settled(overrides, layout.family, where)
    rounding = asked.pop("time_rounding", spec.time_rounding)
    for name, value in asked.items():
        stated = getattr(spec, name)
        if value != stated:
            raise ValueError(f"{where} states {name} {stated!r} itself; {name}={value!r} contradicts it")
    return replace(spec, time_rounding=rounding)


def _check_shapes(
    model: Flux1 | Flux2,
    table: Mapping[str, Source],
    shapes: Mapping[str, tuple[int, ...]],
    where: str,
) -> None:
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    assert expected.keys() == shapes.keys(), f"the name table differs: {expected.keys() ^ shapes.keys()}"
    for ours, shape in shapes.items():
        if shape != expected[ours]:
            names = " + ".join(map(repr, table[ours].names))
            raise ValueError(f"{where}: {names} is {shape}, expected {expected[ours]}")


def _check_runs(runs: Mapping[tuple[str, ...], list[int]], spec: Spec, where: str) -> None:
    """Each run of rows of a fused weight but the last is as wide as the model."""
    for names, lengths in runs.items():
        if any(length != spec.width for length in lengths[:-1]):
            rows = ", ".join(map(str, lengths))
            raise ValueError(
                f"{where}: {' + '.join(map(repr, names))} has runs of {rows} rows, not of {spec.width}"
            )


def _shape(pieces: Sequence[Tensor]) -> tuple[int, ...]:
    """Of the pieces laid one after another; pieces that do not fit give a shape that fits no model."""
    if any(piece.ndim == 0 or piece.shape[1:] != pieces[0].shape[1:] for piece in pieces):
        return (math.prod(piece.numel() for piece in pieces),) * 3
    return (sum(len(piece) for piece in pieces), *pieces[0].shape[1:])


# ---- writing -----------------------------------------------------------------------------------------------


def save_official(model: Flux1 | Flux2, path: Path | str, metadata: Mapping[str, str]) -> None:
    """One file as the family's own code names it."""
    write_weights(path, _renamed(model, "official"), metadata)


def save_diffusers(model: Flux1 | Flux2, folder: Path | str, metadata: Mapping[str, str]) -> None:
    """config.json and weights that diffusers' own class loads."""
    config = flux_config.written(model.spec)
    with atomic_folder(folder) as draft:
        (draft / "config.json").write_text(json.dumps(config, indent=2) + "\n")
        tensors = _renamed(model, "diffusers")
        write_weights(draft / flux_config.WEIGHTS, tensors, {**metadata, "format": "pt"})


def _renamed(model: Flux1 | Flux2, naming: str) -> dict[str, Tensor]:
    """The model's tensors under the names of `naming`: the inverse of `_assembled`."""
    own, spec = model.state_dict(), model.spec
    layout = Layout(
        family=next(name for name, kind in SPECS.items() if isinstance(spec, kind)),
        double_blocks=spec.double_blocks,
        single_blocks=spec.single_blocks,
        guidance=spec.guidance,
    )
    renamed = {}
    for ours, (names, swapped) in sources(layout, naming).items():
        whole = own[ours]
        if swapped:
            whole = torch.cat(list(reversed(whole.chunk(2))))
        first = [spec.width] * (len(names) - 1)
        pieces = whole.split([*first, len(whole) - sum(first)])
        renamed |= dict(zip(names, pieces, strict=True))
    return renamed
