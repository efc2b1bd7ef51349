"""The published architectures: parameter counts, by three ways of counting."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from flowlab.autoencoders.kl import KLSpec
from flowlab.autoencoders.sizes import PUBLISHED, build, name_of

KL = {name: spec for name, spec in PUBLISHED.items() if isinstance(spec, KLSpec)}
COUNTS = {  # of the published checkpoints; VA-VAE's by _by_hand below and by building it with diffusers
    "sd_f8c4": 83_653_863,
    "sdxl_f8c4": 83_653_863,
    "flux1_f8c16": 83_819_683,
    "flux2_f8c32": 84_046_115,
    "flux2_small_decoder": 62_373_091,
    "vavae_f16c32": 69_836_067,
}
TOKEN_CHANNELS = {
    "sd_f8c4": 16,
    "sdxl_f8c4": 16,
    "flux1_f8c16": 64,
    "flux2_f8c32": 128,
    "flux2_small_decoder": 128,
    "vavae_f16c32": 32,
}


@pytest.mark.parametrize("name", KL)
def test_full_sizes_have_the_published_parameter_counts(name):
    with torch.device("meta"):
        model = build(name)
    assert sum(parameter.numel() for parameter in model.parameters()) == COUNTS[name] == _by_hand(KL[name])
    assert (model.spec.stride, model.spec.channels) == (16, TOKEN_CHANNELS[name])
    assert model.spec.name == name


@pytest.mark.parametrize("name", KL)
def test_an_architecture_is_known_by_its_name_at_any_resolution(name):
    spec = KL[name]
    assert name_of(replace(spec, resolution=512)) == name
    assert name_of(replace(spec, channels=64)) not in PUBLISHED


def test_unknown_names_are_listed():
    with pytest.raises(
        ValueError, match="unknown autoencoder 'sd_f4'; choose from: sd, .*sd_f8c4, sdxl_f8c4"
    ):
        build("sd_f4")


# ---- by hand -----------------------------------------------------------------------------------------------


def _by_hand(spec: KLSpec) -> int:
    z, last = spec.latent_channels, len(spec.multipliers) - 1
    total = 0
    for base, num, ends in (
        (spec.channels, spec.num_res_blocks, (3, 2 * z)),
        (spec.decoder_channels or spec.channels, spec.num_res_blocks + 1, (3, z)),
    ):
        widths = [base * m for m in spec.multipliers]
        decodes = ends[1] == z
        order = widths[::-1] if decodes else widths
        attends = [last - i if decodes else i for i in range(last + 1)]
        total += _conv(z, widths[-1]) if decodes else _conv(3, widths[0])
        total += _norm(order[-1]) + (_conv(order[-1], 3) if decodes else _conv(order[-1], 2 * z))
        total += 2 * _block(widths[-1], widths[-1]) + _attention(widths[-1])
        for i, (before, width) in enumerate(zip([order[0], *order], order, strict=False)):
            total += _block(before, width) + (num - 1) * _block(width, width)
            total += num * _attention(width) if attends[i] in spec.attention_levels else 0
            total += _conv(width, width) if i < last else 0  # down- or upsampling
    return total + (_conv(2 * z, 2 * z, 1) + _conv(z, z, 1) if spec.quant_conv else 0)


def _conv(before: int, after: int, side: int = 3) -> int:
    return before * after * side**2 + after


def _norm(width: int) -> int:
    return 2 * width


def _block(before: int, after: int) -> int:
    shortcut = _conv(before, after, 1) if before != after else 0
    return _norm(before) + _conv(before, after) + _norm(after) + _conv(after, after) + shortcut


def _attention(width: int) -> int:
    return _norm(width) + 4 * _conv(width, width, 1)
