"""What each kind of file calls the tensors of the convolutional autoencoder.

A naming is one line per place; `names` spells it out for a spec, in one fixed order, so that two namings
zipped are the rename table between them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from flowlab.autoencoders.kl import KLSpec
from flowlab.core.choices import lookup

__all__ = ["COUNTER", "NAMINGS", "Naming", "attention_weights", "names", "table"]

COUNTER = "bn.num_batches_tracked"
"""The one tensor of published FLUX.2 files without a place here: how many batches its BatchNorm saw. Nothing
reads it; it is left out on the way in and written as 0."""


class Naming(NamedTuple):
    """Where things are; {level} counts from full resolution down, {rank} from the lowest resolution up."""

    down: str = "encoder.down.{level}"
    up: str = "decoder.up.{level}"
    block: str = "block.{i}"
    attention: str = "attn.{i}"
    downsample: str = "downsample.conv"
    upsample: str = "upsample.conv"
    middle: tuple[str, str, str] = ("mid.block_1", "mid.attn_1", "mid.block_2")
    attention_parts: tuple[str, ...] = ("norm", "q", "k", "v", "proj_out")
    shortcut: str = "nin_shortcut"
    norm_out: str = "norm_out"
    quant: tuple[str, str] = ("encoder.quant_conv", "decoder.post_quant_conv")
    statistics: tuple[str, str] = ("normalise.running_mean", "normalise.running_var")
    """Of a BatchNorm."""
    flat_attention: bool = False
    """Whether the 1 x 1 convolutions of attention are stored as matrices."""


OFFICIAL = Naming(statistics=("bn.running_mean", "bn.running_var"))
DIFFUSERS = OFFICIAL._replace(
    down="encoder.down_blocks.{level}",
    up="decoder.up_blocks.{rank}",
    block="resnets.{i}",
    attention="attentions.{i}",
    downsample="downsamplers.0.conv",
    upsample="upsamplers.0.conv",
    middle=("mid_block.resnets.0", "mid_block.attentions.0", "mid_block.resnets.1"),
    attention_parts=("group_norm", "to_q", "to_k", "to_v", "to_out.0"),
    shortcut="conv_shortcut",
    norm_out="conv_norm_out",
    quant=("quant_conv", "post_quant_conv"),
    flat_attention=True,
)

NAMINGS: dict[str, Naming] = {
    "ours":           Naming(),
    "official":       OFFICIAL,  #                                              FLUX.1, FLUX.2
    "official_ldm":   OFFICIAL._replace(quant=("quant_conv", "post_quant_conv")),  # SD, VA-VAE
    "diffusers":      DIFFUSERS,
    "diffusers_2022": DIFFUSERS._replace(  #                                    SD files before diffusers 0.13
        attention_parts=("group_norm", "query", "key", "value", "proj_attn")
    ),
}  # fmt: skip


def table(spec: KLSpec, source: str, target: str) -> dict[str, str]:
    """Name in `source` => name in `target`, keys of NAMINGS, for every weight of a model of `spec`.

    A fixed scale and shift are in no published file, so they are in no table.
    """
    return dict(zip(names(spec, source), names(spec, target), strict=True))


def names(spec: KLSpec, naming: str) -> list[str]:
    """Every weight of a model of `spec`, in one order whatever the naming."""
    form = lookup(NAMINGS, naming, "naming of autoencoder weights")
    modules = [*_encoder(spec, form), *_decoder(spec, form), *(form.quant if spec.quant_conv else ())]
    statistics = form.statistics if spec.normalisation == "batchnorm" else ()
    return [f"{module}.{leaf}" for module in modules for leaf in ("weight", "bias")] + list(statistics)


def attention_weights(spec: KLSpec, naming: str) -> set[str]:
    """The names of those that are matrices in one naming and 1 x 1 convolutions in another."""
    parts = lookup(NAMINGS, naming, "naming of autoencoder weights").attention_parts[1:]
    endings = tuple(f".{part}.weight" for part in parts)
    return {name for name in names(spec, naming) if name.endswith(endings)}


# ---- modules, each with a weight and a bias ----------------------------------------------------------------


def _encoder(spec: KLSpec, form: Naming) -> Iterator[str]:
    yield "encoder.conv_in"
    before, last = spec.multipliers[0], len(spec.multipliers) - 1
    for level, width in enumerate(spec.multipliers):
        prefix = form.down.format(level=level)
        yield from _level(prefix, before, width, spec.num_res_blocks, level in spec.attention_levels, form)
        if level < last:
            yield f"{prefix}.{form.downsample}"
        before = width
    yield from _middle("encoder", spec, form)
    yield from (f"encoder.{form.norm_out}", "encoder.conv_out")


def _decoder(spec: KLSpec, form: Naming) -> Iterator[str]:
    yield "decoder.conv_in"
    yield from _middle("decoder", spec, form)
    before, last = spec.multipliers[-1], len(spec.multipliers) - 1
    for level, width in reversed(list(enumerate(spec.multipliers))):
        prefix = form.up.format(level=level, rank=last - level)
        yield from _level(
            prefix, before, width, spec.num_res_blocks + 1, level in spec.attention_levels, form
        )
        if level > 0:
            yield f"{prefix}.{form.upsample}"
        before = width
    yield from (f"decoder.{form.norm_out}", "decoder.conv_out")


def _level(prefix: str, before: int, width: int, num: int, attend: bool, form: Naming) -> Iterator[str]:
    for i in range(num):
        yield from _block(f"{prefix}.{form.block.format(i=i)}", i == 0 and before != width, form)
        if attend:
            yield from _attention(f"{prefix}.{form.attention.format(i=i)}", form)


def _middle(side: str, spec: KLSpec, form: Naming) -> Iterator[str]:
    first, attention, second = (f"{side}.{place}" for place in form.middle)
    yield from _block(first, False, form)
    if spec.mid_attention:
        yield from _attention(attention, form)
    yield from _block(second, False, form)


def _block(prefix: str, shortcut: bool, form: Naming) -> Iterator[str]:
    parts = ("norm1", "conv1", "norm2", "conv2", *((form.shortcut,) if shortcut else ()))
    yield from (f"{prefix}.{part}" for part in parts)


def _attention(prefix: str, form: Naming) -> Iterator[str]:
    yield from (f"{prefix}.{part}" for part in form.attention_parts)
