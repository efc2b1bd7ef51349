"""The autoencoders that ship with flowlab, a line per model, with what each measured."""

from __future__ import annotations

from pathlib import Path

from flowlab.autoencoders.base import Autoencoder
from flowlab.autoencoders.kl import KLAutoencoder, KLSpec
from flowlab.autoencoders.rae import RAESpec, RepresentationAutoencoder
from flowlab.core.choices import lookup

__all__ = ["AUTOENCODERS", "build", "weights_path"]

WEIGHTS = Path(__file__).parent / "weights"


def _small(latent_channels: int, normalisation: str) -> KLSpec:
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
        resolution=32,
    )


# Trained on 16,384 images of `digits` by `flowlab train ae_<name>_digits`; measured on 1,000 held-out ones by
# `flowlab evaluate reconstruction <name>`.
# name                                        stride ch/token semantic |  PSNR dB   SSIM    rFID (judge)
AUTOENCODERS: dict[str, KLSpec | RAESpec] = {
    "sd":             _small(1, "scale_shift"),  #  8      4     no       |  27.34    0.903   0.045
    "flux1":          _small(4, "scale_shift"),  #  8     16     no       |  32.76    0.961   0.006
    "flux1_semantic": _small(4, "scale_shift"),  #  8     16     yes      |  31.65    0.945   0.008
    "flux2_plain":    _small(8, "batchnorm"),    #  8     32     no       |  34.29    0.970   0.003
    "flux2":          _small(8, "batchnorm"),    #  8     32     yes      |  34.34    0.966   0.002
    "rae":            RAESpec(),                 #  8     64     frozen   |  24.22    0.839   0.118
}  # fmt: skip


def build(name: str) -> Autoencoder:
    """The autoencoder `name` with random weights."""
    spec = lookup(AUTOENCODERS, name, "autoencoder")
    return KLAutoencoder(spec, name) if isinstance(spec, KLSpec) else RepresentationAutoencoder(spec, name)


def weights_path(name: str) -> Path:
    """Where the shipped weights of `name` lie."""
    return WEIGHTS / f"ae_{name}_digits.safetensors"
