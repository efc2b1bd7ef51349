"""Networks (x_t, t, condition) -> velocity, hidden. `load` reads a checkpoint, `build` makes a model."""

from flowlab.backbones.checkpoints import load, save
from flowlab.backbones.output import Output
from flowlab.backbones.sizes import build

__all__ = ["Output", "build", "load", "save"]
