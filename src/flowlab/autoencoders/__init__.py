"""Pixels => moments => latent => pixels. `load` is the way in; only this folder knows what a latent means."""

from flowlab.autoencoders.files import load, save, save_diffusers, save_official

__all__ = ["load", "save", "save_diffusers", "save_official"]
