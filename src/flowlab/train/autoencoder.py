"""The autoencoder recipe: one loop, switchable terms, each weight documented with its reduction.

A step encodes once and decodes once; every term, the discriminator and the flow model of end-to-end alignment
work on that one trip.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from flowlab import autoencoders
from flowlab.autoencoders import losses
from flowlab.autoencoders.base import Autoencoder
from flowlab.autoencoders.equivariance import IDENTITY
from flowlab.core.pixels import to_float, to_uint8
from flowlab.data import datasets
from flowlab.data.batch import Batch, Dataset
from flowlab.train import autoencoder_terms as terms
from flowlab.train import end_to_end
from flowlab.train.adversary import Adversary
from flowlab.train.autoencoder_build import Fixed, posterior_means, setup, tokens_of
from flowlab.train.autoencoder_config import (
    AdversaryConfig,
    AutoencoderConfig,
    EndToEndConfig,
    EquivarianceConfig,
    resolution_of,
    validate,
)
from flowlab.train.state import Objective, Randomness, Recipe, TrainState

__all__ = ["AUTOENCODER", "AdversaryConfig", "AutoencoderConfig", "EndToEndConfig", "EquivarianceConfig"]


def load_data(config: AutoencoderConfig) -> Dataset:
    """The training images."""
    _held_out(config)  # previews need it: missing, it is missed now and not after the first save
    side = resolution_of(config.autoencoder)
    return datasets.load(
        config.dataset, "train", num_images=config.num_images, resolution=side, resize=config.resize
    )


def objectives(state: TrainState, batch: Batch, randomness: Randomness) -> Iterator[Objective]:
    """The autoencoder's weighted sum of terms; then, where they are on, its discriminator's loss on the same
    images and the flow model's on the same latents."""
    fixed: Fixed = state.fixed
    config = fixed.config
    assert batch.pixels is not None, "autoencoders train on pixels"
    pixels = to_float(batch.pixels)
    plan = terms.plan_of(state, randomness.seed)
    trip = terms.run_pass(state, plan, pixels, randomness)
    target, drawn = _teacher_tokens(fixed, pixels), None
    if config.end_to_end.weight and target is not None and plan.before == IDENTITY:  # it knows one grid
        latent = tokens_of(state.modules["autoencoder"], trip.z)  # pyright: ignore
        drawn = end_to_end.draw(config.end_to_end, latent, batch.label, target, randomness)
    adversary = Adversary(
        config=config.adversary,
        state=state,
        critic=fixed.critic,
        precision=config.precision,
        randomness=randomness,
    )
    yield _autoencoder_objective(state, trip, target, drawn, adversary)
    if adversary.learns:
        yield adversary.objective(trip.target, trip.output)
    if drawn is not None:
        yield _flow_objective(state, drawn, randomness)


def _autoencoder_objective(
    state: TrainState,
    trip: terms.Pass,
    target: Tensor | None,
    drawn: end_to_end.Draw | None,
    adversary: Adversary,
) -> Objective:
    config, model = state.fixed.config, state.modules["autoencoder"]
    assert isinstance(model, Autoencoder)
    found = {"reconstruction": losses.reconstruction(trip.output, trip.target, config.reconstruction_power)}
    image = found["reconstruction"]
    if trip.perceptual is not None:
        found["perceptual"] = trip.perceptual
        image = image + config.perceptual_weight * trip.perceptual
    loss = image
    if config.kl_weight and trip.moments.logvar is not None:
        found["kl"] = losses.kl_divergence(trip.moments)
        loss = loss + config.kl_weight * found["kl"]
    if config.scale_weight and trip.plan.before == IDENTITY:  # a smaller image may not be reducible again
        found["scale"] = terms.scale_term(state, trip, adversary.randomness.seed)
        loss = loss + config.scale_weight * found["scale"]
    if config.semantic_weight and target is not None:
        found["semantic"] = terms.semantic_term(state, trip.moments.mean, target)
        loss = loss + terms.semantic_weight(config, model, image, found["semantic"]) * found["semantic"]
    if drawn is not None:
        joint = config.end_to_end
        found["alignment"] = end_to_end.alignment(joint, state.modules, drawn, state.device, config.precision)
        loss = loss + joint.weight * found["alignment"]
    batch_level = adversary.is_felt or (bool(config.semantic_weight) and config.semantic_adaptive)
    loss = loss.mean() if batch_level else loss
    if adversary.is_felt:
        weighted, found["adversarial"] = adversary.weighted_term(image, trip.output)
        loss = loss + weighted
    scalars = {name: term.detach().mean() for name, term in found.items()}
    return Objective("autoencoder", loss, scalars, batch_level=batch_level)


def _flow_objective(state: TrainState, drawn: end_to_end.Draw, randomness: Randomness) -> Objective:
    config = state.fixed.config
    flow, aligned = end_to_end.flow_objective(
        config.end_to_end, state.modules, drawn, randomness, state.device, config.precision
    )
    loss = flow + config.end_to_end.flow_weight * aligned
    return Objective("flow", loss.mean(), {"flow": flow.detach().mean()}, batch_level=True)


def _teacher_tokens(fixed: Fixed, pixels: Tensor) -> Tensor | None:
    """(B, N, D) float32 targets of the semantic and alignment terms, where one of them is on."""
    if not (fixed.config.semantic_weight or fixed.config.end_to_end.weight):
        return None
    with torch.no_grad():
        return fixed.teacher.tokens(pixels)


def preview(state: TrainState) -> dict[str, Tensor]:
    """Eight held-out originals (fewer if there are) over their reconstructions by the EMA weights."""
    held_out = _held_out(state.fixed.config)
    pixels = held_out.read(torch.arange(min(8, len(held_out)))).pixels
    assert pixels is not None, "autoencoders train on pixels"
    model = finished(state)
    with torch.no_grad():
        output = model.decode(model.latents(to_float(pixels).to(state.device)))
    return {"reconstruction": torch.cat([pixels, to_uint8(output).cpu()])}


def export(state: TrainState, folder: Path) -> Path:
    """Fit the normalisation of the EMA weights and write `autoencoder.safetensors`."""
    path = folder / "autoencoder.safetensors"
    autoencoders.save(finished(state), path)
    return path


@torch.no_grad()
def finished(state: TrainState) -> Autoencoder:
    """The EMA weights with the normalisation fitted on training images, or as it was where the encoder is."""
    fixed: Fixed = state.fixed
    model = state.emas["autoencoder"].module
    assert isinstance(model, Autoencoder)
    if not fixed.config.train_encoder:
        return model
    model.fit_normalisation(posterior_means(model, fixed.dataset, fixed.config.normalisation_images))
    return model


AUTOENCODER = Recipe(
    validate=validate,
    dataset=load_data,
    setup=setup,
    objectives=objectives,
    preview=preview,
    export=export,
)


def _held_out(config: AutoencoderConfig) -> Dataset:
    side = resolution_of(config.autoencoder)
    return datasets.load(config.dataset, "heldout", resolution=side, resize=config.resize)
