"""Experiments on `photos`, the public-domain photographs that ship with the package."""

from __future__ import annotations

from dataclasses import replace

from flowlab.presets.digits import ae_flux2_digits
from flowlab.train.autoencoder import AutoencoderConfig

__all__ = ["ae_flux2_photos"]


def ae_flux2_photos(debug: bool = False) -> AutoencoderConfig:
    """The recipe of ae_flux2_digits on patches of photographs. `flowlab train ae_flux2_photos`."""
    return replace(ae_flux2_digits(debug), autoencoder="flux2_photos", dataset="photos")
