"""The config.json of diffusers' AutoencoderKL and AutoencoderKLFlux2, read and written.

Read here is what shapes cannot tell. What the trunk does not have (another activation, levels of another
kind) makes `is_ours` false; an AutoencoderKL is then adapted by autoencoders/zoo.py, an AutoencoderKLFlux2
refused, whose BatchNorm statistics the adapter would not apply.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from flowlab.autoencoders.families import group_of
from flowlab.autoencoders.kl import KLAutoencoder, KLSpec
from flowlab.autoencoders.normalise import BatchStatistics, ScaleShift

__all__ = ["FLUX2", "class_of", "complete", "is_ours", "scale_shift", "statistics", "written"]

KL, FLUX2 = "AutoencoderKL", "AutoencoderKLFlux2"
DOWN, UP = ("DownEncoderBlock2D", "AttnDownEncoderBlock2D"), ("UpDecoderBlock2D", "AttnUpDecoderBlock2D")
DEFAULT_SCALE = 0.18215
"""AutoencoderKL's where config.json leaves it out."""


def is_ours(config: Mapping[str, Any]) -> bool:
    """Whether the convolutional trunk of autoencoders/kl.py can be this model."""
    widths = config.get(
        "block_out_channels", (128, 256, 512, 512) if config["_class_name"] == FLUX2 else (64,)
    )
    down = [DOWN.index(kind) if kind in DOWN else -1 for kind in config.get("down_block_types", DOWN[:1])]
    up = [UP.index(kind) if kind in UP else -1 for kind in config.get("up_block_types", UP[:1])]
    return (
        config["_class_name"] in (KL, FLUX2)
        and config.get("act_fn", "silu") == "silu"
        and (config.get("in_channels", 3), config.get("out_channels", 3)) == (3, 3)
        and config.get("use_quant_conv", True) == config.get("use_post_quant_conv", True)
        and -1 not in down
        and down == up[::-1]
        and not any(width % widths[0] for width in widths)
        and config.get("batch_norm_eps", BatchStatistics.eps) == BatchStatistics.eps
        and len(set(config.get("patch_size", (2, 2)))) == 1
        and (config.get("latents_mean") is None or len(widths) > 4)  # of a VA-VAE
    )


def class_of(weights: Mapping[str, Tensor]) -> str:
    """The class of a folder whose config.json names none, from its weights."""
    return FLUX2 if "bn.running_mean" in weights else KL


def complete(spec: KLSpec, config: Mapping[str, Any], where: str) -> KLSpec:
    """`spec`, read from shapes, with what they cannot tell: groups, scale and shift.

    Not sample_size: there it is the side above which diffusers tiles, 1024 for FLUX, not that of training.
    """
    stated = config.get("latent_channels", 32 if config["_class_name"] == FLUX2 else 4)
    if stated != spec.latent_channels:
        raise ValueError(
            f"{where}: config.json says {stated} latent channels, the weights have {spec.latent_channels};"
            " they belong to two models"
        )
    spec = replace(spec, groups=config.get("norm_num_groups", 32))
    if config["_class_name"] == FLUX2:
        if spec.normalisation != "batchnorm":
            raise ValueError(f"{where}: config.json says {FLUX2}, but the weights lack 'bn.running_mean'")
        return spec
    if config.get("latents_mean") is not None:
        return replace(spec, normalisation="batchnorm")
    scale = config.get("scaling_factor", DEFAULT_SCALE)
    return replace(spec, scale=float(scale), shift=float(config.get("shift_factor") or 0.0))


def statistics(config: Mapping[str, Any]) -> dict[str, Tensor] | None:
    """BatchNorm statistics (our names) from AutoencoderKL's latents_mean and latents_std, where it has them.

    There (z - mean) scaling_factor / std is the final latent, per channel; VA-VAE has no patchify.
    """
    if config.get("latents_mean") is None:
        return None
    mean = torch.tensor(config["latents_mean"], dtype=torch.float64)
    std = torch.tensor(config["latents_std"], dtype=torch.float64) / config.get(
        "scaling_factor", DEFAULT_SCALE
    )
    values = {"running_mean": mean, "running_var": std.square() - BatchStatistics.eps}
    return {f"normalise.{name}": value.float() for name, value in values.items()}


def written(model: KLAutoencoder) -> dict[str, Any]:
    """The config.json of `model`; what the class cannot hold is a ValueError."""
    spec = model.options
    flux2 = group_of(spec) == ["flux2"]
    levels = range(len(spec.multipliers))
    attends = [int(level in spec.attention_levels) for level in levels]
    config = {
        "_class_name": FLUX2 if flux2 else KL,
        "in_channels": 3,
        "out_channels": 3,
        "down_block_types": [DOWN[attend] for attend in attends],
        "up_block_types": [UP[attend] for attend in reversed(attends)],
        "block_out_channels": [spec.channels * m for m in spec.multipliers],
        "layers_per_block": spec.num_res_blocks,
        "act_fn": "silu",
        "latent_channels": spec.latent_channels,
        "norm_num_groups": spec.groups,
        "sample_size": spec.resolution,
        "use_quant_conv": spec.quant_conv,
        "use_post_quant_conv": spec.quant_conv,
        "mid_block_add_attention": spec.mid_attention,
    }
    own = _of_flux2(spec) if flux2 else _of_kl(model)
    return config | own


def _of_flux2(spec: KLSpec) -> dict[str, Any]:
    widths = [spec.decoder_channels * m for m in spec.multipliers] if spec.decoder_channels else None
    return {
        "decoder_block_out_channels": widths,
        "batch_norm_eps": BatchStatistics.eps,
        "batch_norm_momentum": 0.1,
        "patch_size": [spec.patch, spec.patch],
    }


def _of_kl(model: KLAutoencoder) -> dict[str, Any]:
    if model.options.decoder_channels:
        raise ValueError(
            f"{model.spec.name} has decoder_channels={model.options.decoder_channels}; {KL} has one width for"
            " both sides, use autoencoders.save or save_official"
        )
    config: dict[str, Any] = {"force_upcast": True}
    if isinstance(model.normalise, ScaleShift):
        values = scale_shift(model)
        return config | {"scaling_factor": values["scale"], "shift_factor": values["shift"] or None}
    assert isinstance(model.normalise, BatchStatistics) and model.options.patch == 1, model.options
    std = (model.normalise.running_var.double() + BatchStatistics.eps).sqrt()
    mean = model.normalise.running_mean.double()
    return config | {"scaling_factor": 1.0, "latents_mean": mean.tolist(), "latents_std": std.tolist()}


def scale_shift(model: KLAutoencoder) -> dict[str, float]:
    """The normalisation's two numbers as the shortest decimals that are the same in float32."""
    assert isinstance(model.normalise, ScaleShift), type(model.normalise).__name__
    numbers = {"scale": model.normalise.scale, "shift": model.normalise.shift}
    return {name: float(str(number.cpu().numpy())) for name, number in numbers.items()}
