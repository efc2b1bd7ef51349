"""Experiments on `scenes`, the shapes that are drawn by rule."""

from __future__ import annotations

from dataclasses import replace

from flowlab.presets.digits import ae_flux2_digits
from flowlab.train.autoencoder import AutoencoderConfig
from flowlab.train.scene_reader import SceneReaderConfig

__all__ = ["ae_flux2_scenes", "scene_reader"]


def ae_flux2_scenes(debug: bool = False) -> AutoencoderConfig:
    """The recipe of ae_flux2_digits on scenes of 64 pixels: 30.9 dB. `flowlab train ae_flux2_scenes`."""
    return replace(ae_flux2_digits(debug), autoencoder="flux2_scenes", dataset="scenes")


def scene_reader(debug: bool = False) -> SceneReaderConfig:
    """The reader that scores pictures of scenes. `flowlab train scene_reader`.

    Seven minutes on one core; on held-out scenes 0.0 % of shapes are wrong, under mixed corruptions 1.0 %.
    Colour and texture are not learnt: 0.4 and 0.0 % are wrong, under mixed corruptions 4.1 and 0.9 %.
    """
    config = SceneReaderConfig()
    if not debug:
        return config
    loop = replace(config.loop, batch_size=8, num_steps=2)
    return replace(config, num_images=64, num_validation=8, loop=loop)
