"""Do the regularisers work? One autoencoder, one budget, one term changed at a time.

All arms train the 32-channel embedded autoencoder of `flux2_plain` on `digits` for 1,000 steps of 32 images
with L1, the perceptual term and the posterior's noise; `flowlab study ablate` runs them with their seeds and
measures what a small flow model reaches in each latent. Weights are on the reductions that AutoencoderConfig
states.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from flowlab.presets.digits import ae_flux2_plain_digits
from flowlab.train.autoencoder_config import AutoencoderConfig, EndToEndConfig, EquivarianceConfig

__all__ = [
    "ae_ablation_eq",
    "ae_ablation_kl",
    "ae_ablation_kl_raised",
    "ae_ablation_none",
    "ae_ablation_repae",
    "ae_ablation_scale",
    "ae_ablation_vf",
    "ae_ablation_vf_strong",
]


def ae_ablation_none(debug: bool = False) -> AutoencoderConfig:
    """Reconstruction alone. `flowlab train ae_ablation_none`."""
    return _arm(debug, kl_weight=0.0)


def ae_ablation_kl(debug: bool = False) -> AutoencoderConfig:
    """The usual faint KL, 1e-6 on the sum of nats; the other arms keep it. `flowlab train ae_ablation_kl`."""
    return _arm(debug)


def ae_ablation_kl_raised(debug: bool = False) -> AutoencoderConfig:
    """KL raised until PSNR falls to that of vf_strong: less information without semantics. The weight lies
    between two pilots, 31.41 dB at 1e-4 and 27.74 dB at 5e-4. `flowlab train ae_ablation_kl_raised`."""
    return _arm(debug, kl_weight=3.7e-4)


def ae_ablation_vf(debug: bool = False) -> AutoencoderConfig:
    """VA-VAE's semantic loss at 0.1, which costs no PSNR here. `flowlab train ae_ablation_vf`."""
    return _arm(debug, semantic_weight=0.1)


def ae_ablation_vf_strong(debug: bool = False) -> AutoencoderConfig:
    """The same at 0.5, the weight of VA-VAE's longest stage. `flowlab train ae_ablation_vf_strong`."""
    return _arm(debug, semantic_weight=0.5)


def ae_ablation_eq(debug: bool = False) -> AutoencoderConfig:
    """EQ-VAE: scaled and turned latents in half of the steps. `flowlab train ae_ablation_eq`."""
    return _arm(debug, equivariance=EquivarianceConfig(probability=0.5))


def ae_ablation_scale(debug: bool = False) -> AutoencoderConfig:
    """Scale equivariance as an extra term of weight 0.25. `flowlab train ae_ablation_scale`."""
    return _arm(debug, scale_weight=0.25)


def ae_ablation_repae(debug: bool = False) -> AutoencoderConfig:
    """End-to-end REPA with a tiny flow model beside it. `flowlab train ae_ablation_repae`."""
    return _arm(debug, end_to_end=EndToEndConfig(weight=1.5))


def _arm(debug: bool, **terms: Any) -> AutoencoderConfig:
    return replace(ae_flux2_plain_digits(debug), **terms)
