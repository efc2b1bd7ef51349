"""Pixels => moments => latent => pixels. `load` is the way in; only this folder knows what a latent means."""

from flowlab.autoencoders.files import check_source, load, save, save_diffusers, save_official

__all__ = ["check_source", "load", "save", "save_diffusers", "save_official"]
