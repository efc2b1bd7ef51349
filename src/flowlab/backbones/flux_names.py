"""What each kind of file calls the tensors of the two FLUX transformers.

One line a place: our name, the official one, and the one or several of diffusers, whose rows one after
another are ours. `{i}` is the number of a block.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from flowlab.core.choices import lookup

__all__ = ["NAMINGS", "PLACES", "TITLES", "Layout", "Place", "Source", "sources"]

TITLES = {"flux1": "FLUX.1", "flux2": "FLUX.2"}


class Place(NamedTuple):
    """A linear layer or a norm."""

    ours: str
    official: str
    diffusers: tuple[str, ...]
    """Of several, each but the last has as many rows as the model is wide."""
    kind: str = "linear"
    """A key of LEAVES."""
    swapped: bool = False
    """The rows are [shift | scale] in ours and the official, [scale | shift] in diffusers."""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """What decides which tensors there are."""

    family: str
    """A key of PLACES."""
    double_blocks: int
    """Their number."""
    single_blocks: int
    """Their number."""
    guidance: bool
    """Whether there is a guidance embedding."""


class Source(NamedTuple):
    """Where the rows of one tensor of ours lie in a file."""

    names: tuple[str, ...]
    """One tensor, or several whose rows follow each other."""
    swapped: bool
    """The halves of the rows change places on the way."""


NAMINGS = ("ours", "official", "diffusers")

LEAVES: dict[str, dict[str, tuple[tuple[str, str], ...]]] = {
    #              kind       our and official leaf, diffusers'
    "flux1": {"linear": (("weight", "weight"), ("bias", "bias")), "norm": (("scale", "weight"),)},
    "flux2": {"linear": (("weight", "weight"),), "norm": (("scale", "weight"),)},
}


def sources(layout: Layout, naming: str) -> dict[str, Source]:
    """Each of our tensors => where a file of `naming`, one of NAMINGS, keeps it."""
    lookup({name: name for name in NAMINGS}, naming, "naming of FLUX weights")
    table = {}
    for place in _expanded(layout):
        for leaf, foreign in LEAVES[layout.family][place.kind]:
            if naming == "diffusers":
                names = tuple(f"{module}.{foreign}" for module in place.diffusers)
            else:
                names = (f"{place.ours if naming == 'ours' else place.official}.{leaf}",)
            table[f"{place.ours}.{leaf}"] = Source(names, place.swapped and naming == "diffusers")
    return table


def _expanded(layout: Layout) -> Iterator[Place]:
    """The places of one model, block by block."""
    for place in PLACES[layout.family]:
        if place.ours.startswith("guidance_in") and not layout.guidance:
            continue
        if "{i}" not in place.ours:
            yield place
            continue
        double = place.ours.startswith("double_blocks")
        for i in range(layout.double_blocks if double else layout.single_blocks):
            yield place._replace(
                ours=place.ours.format(i=i),
                official=place.official.format(i=i),
                diffusers=tuple(name.format(i=i) for name in place.diffusers),
            )


# ---- the tables --------------------------------------------------------------------------------------------

DOUBLE, THEIR_DOUBLE = "double_blocks.{i}.", "transformer_blocks.{i}."
SINGLE, THEIR_SINGLE = "single_blocks.{i}.", "single_transformer_blocks.{i}."


def _same(name: str, *diffusers: str, kind: str = "linear") -> Place:
    """A place that we name as the official code does."""
    return Place(name, name, diffusers, kind)


def _double(ours: str, official: str, *diffusers: str, kind: str = "linear") -> Place:
    return Place(DOUBLE + ours, DOUBLE + official, tuple(THEIR_DOUBLE + name for name in diffusers), kind)


def _single(name: str, *diffusers: str, kind: str = "linear") -> Place:
    return Place(SINGLE + name, SINGLE + name, tuple(THEIR_SINGLE + name for name in diffusers), kind)


_BOTH = (
    _same("img_in", "x_embedder"),
    _same("txt_in", "context_embedder"),
    _double("img_attn.qkv", "img_attn.qkv", "attn.to_q", "attn.to_k", "attn.to_v"),
    _double("img_attn.norm.query_norm", "img_attn.norm.query_norm", "attn.norm_q", kind="norm"),
    _double("img_attn.norm.key_norm", "img_attn.norm.key_norm", "attn.norm_k", kind="norm"),
    _double("img_attn.proj", "img_attn.proj", "attn.to_out.0"),
    _double("txt_attn.qkv", "txt_attn.qkv", "attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
    _double("txt_attn.norm.query_norm", "txt_attn.norm.query_norm", "attn.norm_added_q", kind="norm"),
    _double("txt_attn.norm.key_norm", "txt_attn.norm.key_norm", "attn.norm_added_k", kind="norm"),
    _double("txt_attn.proj", "txt_attn.proj", "attn.to_add_out"),
    _single("norm.query_norm", "attn.norm_q", kind="norm"),
    _single("norm.key_norm", "attn.norm_k", kind="norm"),
    Place("final_layer.modulation.lin", "final_layer.adaLN_modulation.1", ("norm_out.linear",), swapped=True),
    _same("final_layer.linear", "proj_out"),
)

PLACES: dict[str, tuple[Place, ...]] = {
    "flux1": (
        *_BOTH,
        _same("time_in.in_layer", "time_text_embed.timestep_embedder.linear_1"),
        _same("time_in.out_layer", "time_text_embed.timestep_embedder.linear_2"),
        _same("guidance_in.in_layer", "time_text_embed.guidance_embedder.linear_1"),
        _same("guidance_in.out_layer", "time_text_embed.guidance_embedder.linear_2"),
        _same("vector_in.in_layer", "time_text_embed.text_embedder.linear_1"),
        _same("vector_in.out_layer", "time_text_embed.text_embedder.linear_2"),
        _double("img_mod.lin", "img_mod.lin", "norm1.linear"),
        _double("txt_mod.lin", "txt_mod.lin", "norm1_context.linear"),
        _double("img_mlp.in_layer", "img_mlp.0", "ff.net.0.proj"),
        _double("img_mlp.out_layer", "img_mlp.2", "ff.net.2"),
        _double("txt_mlp.in_layer", "txt_mlp.0", "ff_context.net.0.proj"),
        _double("txt_mlp.out_layer", "txt_mlp.2", "ff_context.net.2"),
        _single("modulation.lin", "norm.linear"),
        _single("linear1", "attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp"),
        _single("linear2", "proj_out"),
    ),
    "flux2": (
        *_BOTH,
        _same("time_in.in_layer", "time_guidance_embed.timestep_embedder.linear_1"),
        _same("time_in.out_layer", "time_guidance_embed.timestep_embedder.linear_2"),
        _same("guidance_in.in_layer", "time_guidance_embed.guidance_embedder.linear_1"),
        _same("guidance_in.out_layer", "time_guidance_embed.guidance_embedder.linear_2"),
        _same("double_stream_modulation_img.lin", "double_stream_modulation_img.linear"),
        _same("double_stream_modulation_txt.lin", "double_stream_modulation_txt.linear"),
        _same("single_stream_modulation.lin", "single_stream_modulation.linear"),
        _double("img_mlp.in_layer", "img_mlp.0", "ff.linear_in"),
        _double("img_mlp.out_layer", "img_mlp.2", "ff.linear_out"),
        _double("txt_mlp.in_layer", "txt_mlp.0", "ff_context.linear_in"),
        _double("txt_mlp.out_layer", "txt_mlp.2", "ff_context.linear_out"),
        _single("linear1", "attn.to_qkv_mlp_proj"),
        _single("linear2", "attn.to_out"),
    ),
}
