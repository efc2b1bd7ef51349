"""A tiny FLUX.2 with random weights, saved as a file that names its parts."""

from __future__ import annotations

from pathlib import Path

import torch

from flowlab import backbones

__all__ = ["ROTATED", "save_flux2"]

ROTATED = 6
"""EXIF orientation: the camera lay on its side."""


def save_flux2(path: Path, seed: int = 0, **overrides: object) -> Path:
    """Reads prompts by the embedded encoder, makes latents of the `flux2_photos` autoencoder (stride 8)."""
    torch.manual_seed(seed)
    small = {"width": 64, "heads": 2, "double_blocks": 1, "single_blocks": 1, "axes": (8, 8, 8, 8)}
    model = backbones.build_flux("flux2_scenes", **{**small, **overrides})
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    backbones.save(model, path, {"autoencoder": "flux2_photos", "text": "embedded"})
    return path
