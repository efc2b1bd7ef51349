"""The autoencoders that ship with flowlab, a line per model, with what each measured; and the published ones
at their full size, whose weights are files of their owners.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from flowlab.autoencoders.base import Autoencoder
from flowlab.autoencoders.families import FAMILIES, family_of
from flowlab.autoencoders.kl import KLAutoencoder, KLSpec
from flowlab.autoencoders.rae import PublishedRAESpec, RAESpec, RepresentationAutoencoder
from flowlab.autoencoders.vit_decoder import DECODERS
from flowlab.core.choices import lookup
from flowlab.features.vision import ENCODERS

__all__ = ["AUTOENCODERS", "PUBLISHED", "build", "name_of", "weights_path"]

WEIGHTS = Path(__file__).parent / "weights"


def _small(latent_channels: int, normalisation: str, resolution: int = 32) -> KLSpec:
    """32 px => 8 x 8 x latent_channels => 4 x 4 tokens of 4 latent_channels."""
    return KLSpec(
        latent_channels=latent_channels,
        channels=16,
        multipliers=(1, 2, 4),
        num_res_blocks=1,
        groups=8,
        mid_attention=False,
        quant_conv=False,
        normalisation=normalisation,
        linear_path=True,
        resolution=resolution,
    )


# Trained on 16,384 images of `digits` by `flowlab train ae_<name>_digits`, measured on 1,000 held-out ones by
# `flowlab evaluate reconstruction <name>`; the last two by `flowlab train ae_<name>`, on `photos`, `scenes`
# (there in three stages, presets/scenes.py).
# `photos` holds out 342 tiles only, so that rFID is biased upwards: it compares with no other row.
# name                                        stride ch/token semantic |  PSNR dB   SSIM    rFID (judge)
AUTOENCODERS: dict[str, KLSpec | RAESpec] = {
    "sd":             _small(1, "scale_shift"),  #  8      4     no       |  27.34    0.903   0.045
    "flux1":          _small(4, "scale_shift"),  #  8     16     no       |  32.76    0.961   0.006
    "flux1_semantic": _small(4, "scale_shift"),  #  8     16     yes      |  31.65    0.945   0.008
    "flux2_plain":    _small(8, "batchnorm"),    #  8     32     no       |  34.29    0.970   0.003
    "flux2":          _small(8, "batchnorm"),    #  8     32     yes      |  34.34    0.966   0.002
    "rae":            RAESpec(),                 #  8     64     frozen   |  24.22    0.839   0.118
    "flux2_photos":   _small(8, "batchnorm"),    #  8     32     yes      |  36.13    0.911   0.015
    "flux2_scenes":   _small(8, "batchnorm", 64),  #  8   32     yes      |  31.08    0.940   0.010
}  # fmt: skip


def _published(family: str, latent_channels: int, **options: Any) -> KLSpec:
    """A full-size one with its family's scale and shift."""
    constants = FAMILIES[family]
    return KLSpec(latent_channels=latent_channels, scale=constants.scale, shift=constants.shift, **options)


def _rae(encoder: str) -> PublishedRAESpec:
    """Of nyu-visionx/RAE-*-ViTXL: the encoder `encoder` of features.vision, the largest decoder, 256 px."""
    return PublishedRAESpec(encoder=ENCODERS[encoder], decoder=DECODERS["XL"], noise_tau=0.8)


F16 = {"multipliers": (1, 1, 2, 2, 4), "attention_levels": (4,), "patch": 1}  # latent-diffusion's kl-f16
BATCHNORM = {"normalisation": "batchnorm"}

# `autoencoders.load` brings the weights from a file, a folder or the hub. A token is 16 px wide.
# name                                                                          | ch/token  parameters
PUBLISHED: dict[str, KLSpec | PublishedRAESpec] = {
    "sd_f8c4":             _published("sd", 4),  #                                      16  83,653,863
    "sdxl_f8c4":           _published("sdxl", 4),  #                                    16  83,653,863
    "flux1_f8c16":         _published("flux1", 16, quant_conv=False),  #                64  83,819,683
    "flux2_f8c32":         _published("flux2", 32, **BATCHNORM),  #                    128  84,046,115
    "flux2_small_decoder": _published("flux2", 32, **BATCHNORM, decoder_channels=96),  # 128  62,373,091
    "vavae_f16c32":        _published("vavae", 32, **BATCHNORM, **F16),  #              32  69,836,067
    "rae_dinov2_base":     _rae("dinov2_base"),  #                                     768 501,638,656
    "rae_siglip2_base":    _rae("siglip2_base"),  #                                    768 500,898,304
    "rae_mae_base":        _rae("mae_base"),  #                                        768 500,853,760
}  # fmt: skip


def build(name: str) -> Autoencoder:
    """The autoencoder `name`, a key of AUTOENCODERS or PUBLISHED, with random weights."""
    spec = lookup(AUTOENCODERS | PUBLISHED, name, "autoencoder")
    return KLAutoencoder(spec, name) if isinstance(spec, KLSpec) else RepresentationAutoencoder(spec, name)


def name_of(spec: KLSpec) -> str:
    """The published name of that architecture, else one alike: family, side of a latent position, channels,
    and width where it is not the usual."""
    for name, known in PUBLISHED.items():
        if isinstance(known, KLSpec) and replace(spec, resolution=known.resolution) == known:
            return name
    width = "" if spec.channels == KLSpec.channels else f"_w{spec.channels}"
    return f"{family_of(spec)}_f{2 ** (len(spec.multipliers) - 1)}c{spec.latent_channels}{width}"


def weights_path(name: str) -> Path:
    """Where the shipped weights of `name` lie."""
    trained_on = "" if name.endswith(("_photos", "_scenes")) else "_digits"
    return WEIGHTS / f"ae_{name}{trained_on}.safetensors"
