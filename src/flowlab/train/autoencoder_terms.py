"""The terms of autoencoder training, each (B,) and switched by its weight; `objectives` adds them up."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from flowlab.autoencoders import losses
from flowlab.autoencoders.base import Autoencoder, Moments, sample
from flowlab.autoencoders.equivariance import Plan, admissible_sides, draw_plan, draw_reduction
from flowlab.autoencoders.kl import KLAutoencoder
from flowlab.autoencoders.normalise import unpatchify
from flowlab.autoencoders.rae import RepresentationAutoencoder, StoredWhitening
from flowlab.core.devices import autocast
from flowlab.core.seeds import Streams
from flowlab.flow.alignment import match_tokens
from flowlab.train.autoencoder_build import Fixed, tokens_of
from flowlab.train.autoencoder_config import AutoencoderConfig
from flowlab.train.state import Randomness, TrainState

__all__ = ["Pass", "plan_of", "run_pass", "scale_term", "semantic_term", "semantic_weight"]


@dataclass(frozen=True, kw_only=True)
class Pass:
    """One trip through the autoencoder, and what it should have given."""

    plan: Plan
    pixels: Tensor
    """(B, 3, H, W) encoded."""
    moments: Moments
    """float32."""
    z: Tensor
    """Raw latent, sampled, before the step's transform."""
    output: Tensor
    """float32 (B, 3, H', W') decoded from the transformed latent."""
    target: Tensor
    """(B, 3, H', W') the pixels transformed alike."""
    perceptual: Tensor | None
    """(B,) distance of output and target where it has a weight."""


def plan_of(state: TrainState, seed: int) -> Plan:
    """The step's draw of EQ-VAE, keyed by (seed, step): one for all networks and micro-batches of a step."""
    settings, model = state.fixed.config.equivariance, state.modules["autoencoder"]
    if not settings.probability:
        return Plan()
    sides, whole = _sides(model)
    stream = _step_stream(state, seed, "equivariance")
    return draw_plan(stream, sides, whole, settings.probability, settings.downscale_probability)


def run_pass(state: TrainState, plan: Plan, pixels: Tensor, randomness: Randomness) -> Pass:
    """Encode, sample, transform, decode and compare features, in the configured precision."""
    fixed: Fixed = state.fixed
    config, model = fixed.config, state.modules["autoencoder"]
    assert isinstance(model, Autoencoder)
    pixels = plan.before(pixels)
    target = plan.between(pixels)
    if config.channels_last:
        pixels = pixels.contiguous(memory_format=torch.channels_last)
    with autocast(state.device, config.precision):
        with torch.set_grad_enabled(config.train_encoder):  # a frozen encoder keeps no activations
            moments = model.encode(pixels)
        z = sample(moments, randomness("posterior"))
        output = model.decode_raw(plan.between(_noisy(model, z, config.latent_noise, randomness))).float()
        distance = _perceptual(fixed, output, target) if config.perceptual_weight else None
    mean, logvar = moments
    return Pass(
        plan=plan,
        pixels=pixels,
        moments=Moments(mean.float(), None if logvar is None else logvar.float()),
        z=z,
        output=output,
        target=target,
        perceptual=distance,
    )


def scale_term(state: TrainState, trip: Pass, seed: int) -> Tensor:
    """(B,) reconstruction and weighted perceptual loss of the reduced latent against the reduced image."""
    fixed, model = state.fixed, state.modules["autoencoder"]
    assert isinstance(model, Autoencoder)
    config = fixed.config
    reduce = draw_reduction(_step_stream(state, seed, "scale equivariance"), *_sides(model))
    target = reduce(trip.pixels)
    with autocast(state.device, config.precision):
        output = model.decode_raw(reduce(trip.z)).float()
        distance = _perceptual(fixed, output, target) if config.perceptual_weight else 0.0
    image = losses.reconstruction(output, target, config.reconstruction_power)
    return image + config.perceptual_weight * distance


def semantic_term(state: TrainState, mean: Tensor, target: Tensor) -> Tensor:
    """(B,) VF loss of posterior means against teacher tokens (B, N, D), resampled to the latent's grid."""
    model = state.modules["autoencoder"]
    tokens = tokens_of(model, mean).flatten(2).transpose(1, 2)  # pyright: ignore  (B, N, C)
    return state.modules["semantic"](tokens, match_tokens(target, tokens.shape[1]))


def semantic_weight(
    config: AutoencoderConfig, model: Autoencoder, main: Tensor, extra: Tensor
) -> Tensor | float:
    """The weight as configured, or scaled to the gradient of `main` at the encoder's last layer.

    `main` (B,) is reconstruction plus perceptual: a KL or scale term beside them must not raise it.
    """
    if not config.semantic_adaptive:
        return config.semantic_weight
    assert isinstance(model, KLAutoencoder), "the adaptive weight is measured at a KL encoder's last layer"
    return config.semantic_weight * losses.adaptive_weight(
        main.mean(), extra.mean(), model.last_encoder_weight, 1e8
    )


# ---- parts -------------------------------------------------------------------------------------------------


def _perceptual(fixed: Fixed, output: Tensor, target: Tensor) -> Tensor:
    """(B,) distance of the teacher's hidden states, or LPIPS."""
    if fixed.vgg is None:
        return losses.perceptual(*[fixed.teacher.layers(image) for image in (output, target)])
    smallest = 32  # pixels; equivariance shrinks images, and a VGG16 halves them four times
    if min(output.shape[2:]) < smallest:
        output, target = (
            F.interpolate(x, size=(smallest, smallest), mode="bilinear") for x in (output, target)
        )
    return fixed.vgg.lpips(output, target).float()


def _noisy(model: Autoencoder, z: Tensor, noise: float, randomness: Randomness) -> Tensor:
    """Noise of random strength per image on the raw latent `z`, or `z` as it is.

    Of KL models relative to each final channel's deviation in the batch, through which gradients flow, so
    that no channel escapes by growing. The embedded RAE was trained with it on the whitened latent; RAE's
    code adds it to the bare features.
    """
    if not noise:
        return z
    streams = randomness("latent noise")
    strength = noise * streams.uniform(1, 1, 1)
    if isinstance(model, KLAutoencoder):
        tokens = tokens_of(model, z.float())  # (B, C, h, w)
        deviation = tokens.std(dim=(0, 2, 3), keepdim=True)
        added = strength * deviation * streams.normal(*tokens.shape[1:])
        return unpatchify(tokens + added, model.options.patch)
    assert isinstance(model, RepresentationAutoencoder), f"no rule for latent_noise in {type(model).__name__}"
    added = strength * streams.normal(*z.shape[1:])
    if isinstance(model.normalise, StoredWhitening):
        return z + added
    return model.normalise.inverse(model.normalise(z) + added)


def _sides(model: torch.nn.Module) -> tuple[list[int], int]:
    """Admissible smaller sides of the raw latent, and its own. A linear path cuts whole patches."""
    assert isinstance(model, KLAutoencoder), "only KL autoencoders learn equivariance"
    patch = model.options.patch
    whole = model.spec.grid * patch
    return admissible_sides(whole, patch if model.linear is not None else 1), whole


def _step_stream(state: TrainState, seed: int, purpose: str) -> Streams:
    """On the CPU, because sizes must be known there."""
    return Streams.for_samples(seed, torch.tensor([0]), step=state.step, purpose=purpose)
