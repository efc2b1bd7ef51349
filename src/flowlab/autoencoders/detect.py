"""What a file of a convolutional autoencoder holds: its naming from its keys, its sizes from its shapes."""

from __future__ import annotations

from collections.abc import Mapping
from math import isqrt

from torch import Tensor

from flowlab.autoencoders.kl import KLSpec
from flowlab.autoencoders.names import NAMINGS

__all__ = ["naming_of", "spec_of"]

FOREIGN = {  # a key that begins so => what the file is
    "double_stream_modulation_img.": "a FLUX.2 transformer",
    "double_blocks.": "a FLUX transformer",
    "model.diffusion_model.": "a diffusion model without its autoencoder",
    "transformer_blocks.": "a diffusers transformer",
    "down_blocks.": "a diffusers U-Net",
    "blocks.": "a transformer",
    "decoder.decoder_layers.": "a representation autoencoder; give its folder, its config.json is needed",
    "encoder.layers.": "a diffusers autoencoder of another class; give its folder, its config.json is needed",
}


def naming_of(tensors: Mapping[str, Tensor], where: str) -> str:
    """A key of NAMINGS; what is no convolutional autoencoder is a ValueError that says what it looks like."""
    if "encoder.down.0.block.0.conv1.weight" in tensors:
        return "official_ldm" if "quant_conv.weight" in tensors else "official"
    if "encoder.down_blocks.0.resnets.0.conv1.weight" in tensors:
        old = "encoder.mid_block.attentions.0.query.weight" in tensors
        return "diffusers_2022" if old else "diffusers"
    for start, what in FOREIGN.items():
        if any(name.startswith(start) for name in tensors):
            raise ValueError(f"{where} is {what}; expected a convolutional KL autoencoder")
    first = min(tensors, default="nothing")
    raise ValueError(f"{where} is no autoencoder of a known naming (its first tensor: {first!r})")


def spec_of(tensors: Mapping[str, Tensor], naming: str, where: str) -> KLSpec:
    """Sizes from shapes. Not in any: the GroupNorm's groups (32 assumed) and the training resolution."""
    form = NAMINGS[naming]

    def shape(name: str) -> tuple[int, ...]:
        if name not in tensors:
            raise ValueError(f"{where} lacks {name!r}; fetch the file again")
        return tuple(tensors[name].shape)

    widths = _level_widths(tensors, naming)
    channels, of_decoder = shape("encoder.conv_in.weight")[0], shape(f"decoder.{form.norm_out}.weight")[0]
    if any(width % channels for width in widths):
        raise ValueError(f"{where} has levels of {widths} channels; only multiples of the first width work")
    levels = [form.down.format(level=level) for level in range(len(widths))]
    attention = f"{form.attention.format(i=0)}.{form.attention_parts[1]}.weight"
    latent_channels = shape("decoder.conv_in.weight")[1]
    quant_conv = f"{form.quant[0]}.weight" in tensors
    batchnorm = form.statistics[0] in tensors or (naming == "official" and quant_conv)  # the latter is FLUX.2
    tokens = shape(form.statistics[0])[0] if batchnorm else 0
    return KLSpec(
        latent_channels=latent_channels,
        channels=channels,
        decoder_channels=None if of_decoder == channels else of_decoder,
        multipliers=tuple(width // channels for width in widths),
        num_res_blocks=_count(tensors, f"{levels[0]}.{form.block}.conv1.weight"),
        mid_attention=f"encoder.{form.middle[1]}.{form.attention_parts[1]}.weight" in tensors,
        attention_levels=tuple(i for i, level in enumerate(levels) if f"{level}.{attention}" in tensors),
        quant_conv=quant_conv,
        patch=isqrt(tokens // latent_channels) if batchnorm else 1 if len(widths) > 4 else 2,
        normalisation="batchnorm" if batchnorm else "scale_shift",
    )


def _level_widths(tensors: Mapping[str, Tensor], naming: str) -> list[int]:
    form = NAMINGS[naming]
    first = f"{form.down.replace('{level}', '{i}')}.{form.block.format(i=0)}.conv1.weight"
    return [tensors[first.format(i=i)].shape[0] for i in range(_count(tensors, first))]


def _count(tensors: Mapping[str, Tensor], template: str) -> int:
    """How many of template(i=0), template(i=1), ... there are."""
    number = 0
    while template.format(i=number) in tensors:
        number += 1
    return number
