"""Networks (x_t, t, condition) -> velocity, hidden. `load` reads a checkpoint, `build` makes a model."""

from flowlab.backbones import lora
from flowlab.backbones.checkpoints import load, save, save_diffusers, save_official
from flowlab.backbones.condition import Condition
from flowlab.backbones.flux_sizes import FLUX_SIZES, build_flux
from flowlab.backbones.output import Output
from flowlab.backbones.sizes import build

__all__ = [
    "FLUX_SIZES",
    "Condition",
    "Output",
    "build",
    "build_flux",
    "load",
    "lora",
    "save",
    "save_diffusers",
    "save_official",
]
