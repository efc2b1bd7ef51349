"""The autoencoder recipe: reconstruction, perceptual, KL and semantic terms, each with its reduction in its
name."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from flowlab import autoencoders
from flowlab.autoencoders import losses
from flowlab.autoencoders.base import Autoencoder, Moments, sample
from flowlab.autoencoders.kl import KLAutoencoder
from flowlab.autoencoders.normalise import patchify
from flowlab.autoencoders.rae import RAESpec, RepresentationAutoencoder
from flowlab.autoencoders.sizes import AUTOENCODERS, build
from flowlab.core.choices import lookup
from flowlab.core.devices import PRECISIONS, autocast, default_device
from flowlab.core.pixels import to_float, to_uint8
from flowlab.data import datasets
from flowlab.data.batch import Batch, Dataset, in_order
from flowlab.features.embedded import Teacher, load_teacher
from flowlab.train import optim
from flowlab.train.ema import Ema
from flowlab.train.loop import LoopConfig
from flowlab.train.optim import OptimiserConfig
from flowlab.train.state import Objective, Randomness, Recipe, Trainable, TrainState

__all__ = ["AutoencoderConfig", "AUTOENCODER"]


@dataclass(frozen=True, kw_only=True)
class AutoencoderConfig:
    """One autoencoder, its data and its loss weights."""

    autoencoder: str
    """A key of autoencoders.sizes.AUTOENCODERS."""
    dataset: str = "digits"
    """A data set's name or the path of a folder of class folders."""
    num_images: int = 16_384
    """Training images (rendered data sets are unlimited)."""
    teacher: str = "teacher"
    """Frozen features for the perceptual and semantic terms and the RAE encoder: a name or a path."""
    reconstruction_power: int = 1
    """1 = L1, 2 = L2; the mean over pixels and colours has weight 1."""
    perceptual_weight: float = 0.1
    """On the teacher's feature distance: mean over positions, sum over layers."""
    kl_weight: float = 1e-6
    """On KL in nats summed over the latent; only for the KL family."""
    semantic_weight: float = 0.0
    """On the VF loss (VA-VAE); 0 turns it off."""
    semantic_margins: tuple[float, float] = (0.5, 0.25)
    """Of the cosine and of the distance matrix; (0, 0) is the first, longest stage of VA-VAE's published
    run."""
    semantic_adaptive: bool = False
    """Scale the VF loss to the reconstruction's gradient at the encoder's last layer (batch-level)."""
    latent_noise: float = 0.0
    """RAE decoders: noise of standard deviation U(0, latent_noise) on the whitened latent."""
    normalisation_images: int = 4096
    """Training images behind the latent's normalisation."""
    ema_decay: float = 0.995
    """Per update."""
    precision: str = "bfloat16"
    """Of the networks; losses and weights stay float32. bfloat16 measured 1.7x faster here, on CPU too."""
    optimiser: OptimiserConfig = field(
        default_factory=lambda: OptimiserConfig(learning_rate=1e-3, schedule="cosine")
    )
    loop: LoopConfig = field(default_factory=lambda: LoopConfig(batch_size=32, num_steps=4000))


@dataclass(frozen=True)
class Fixed:
    """What stays while an autoencoder trains."""

    config: AutoencoderConfig
    teacher: Teacher
    dataset: Dataset


def validate(config: AutoencoderConfig) -> None:
    """Names and counts; the data set's own are checked when it is read."""
    lookup(AUTOENCODERS, config.autoencoder, "autoencoder")
    lookup(PRECISIONS, config.precision, "precision")
    if config.num_images < 1 or config.normalisation_images < 2:
        raise ValueError(f"{config.num_images=}, {config.normalisation_images=}; ask for at least 1 and 2")
    is_rae = isinstance(AUTOENCODERS[config.autoencoder], RAESpec)
    if config.semantic_weight and is_rae:
        raise ValueError(f"semantic_weight is {config.semantic_weight}; rae's encoder is frozen, set it to 0")
    if config.semantic_weight and config.semantic_adaptive and config.loop.micro_batch_size:
        raise ValueError("semantic_adaptive mixes the examples of a batch; set loop.micro_batch_size to 0")
    if config.latent_noise and not is_rae:
        raise ValueError(f"latent_noise is {config.latent_noise}; only representation autoencoders take it")


def load_data(config: AutoencoderConfig) -> Dataset:
    """The training images."""
    return datasets.load(config.dataset, "train", num_images=config.num_images)


def setup(config: AutoencoderConfig, dataset: Dataset) -> TrainState:
    """Build the network, start its linear path from data, and freeze what is not trained."""
    torch.manual_seed(config.loop.seed)
    device = default_device()
    model, teacher = build(config.autoencoder), load_teacher(config.teacher).to(device)
    if isinstance(model, RepresentationAutoencoder):
        model.encoder.load_state_dict(teacher.state_dict())
    start(model, dataset)
    modules: dict[str, torch.nn.Module] = {"autoencoder": model}
    if config.semantic_weight:
        modules["semantic"] = losses.SemanticLoss(
            model.spec.channels, teacher.spec.channels, *config.semantic_margins
        )
    for module in modules.values():
        module.to(device)
    params = [p for module in modules.values() for p in module.parameters() if p.requires_grad]
    trainable = Trainable(optim.build(params, config.optimiser), config.optimiser)
    return TrainState(
        modules=modules,
        optimisers={"autoencoder": trainable},
        emas={"autoencoder": Ema(model, config.ema_decay)},
        device=device,
        fixed=Fixed(config, teacher, dataset),
    )


@torch.no_grad()
def start(model: Autoencoder, dataset: Dataset, num_images: int = 2048) -> None:
    """Principal components for the linear path and zero for the convolutions beside it; whitening for RAE."""
    pixels = next(in_order(dataset, batch_size=min(num_images, len(dataset)))).pixels
    assert pixels is not None, "autoencoders train on pixels"
    if isinstance(model, KLAutoencoder):
        model.encoder.conv_out.bias[model.options.latent_channels :] = -6.0  # pyright: ignore  posterior std 0.05
        if model.linear is not None:
            model.linear.fit(to_float(pixels))
            model.encoder.conv_out.weight.zero_()
            model.decoder.conv_out.weight.zero_()
    else:
        model.fit_normalisation(model.encode(to_float(pixels)).mean)


def objectives(state: TrainState, batch: Batch, randomness: Randomness) -> Iterator[Objective]:
    """One objective: the weighted sum of the terms that are switched on."""
    fixed: Fixed = state.fixed
    config, model = fixed.config, state.modules["autoencoder"]
    assert isinstance(model, Autoencoder) and batch.pixels is not None
    pixels = to_float(batch.pixels)
    with autocast(state.device, config.precision):
        moments = model.encode(pixels)
        z = _noisy(model, sample(moments, randomness("posterior")), config.latent_noise, randomness)
        output = model.decode_raw(z).float()
        layers = [fixed.teacher.layers(image) for image in (output, pixels)]
    mean, logvar = moments
    moments = Moments(mean.float(), None if logvar is None else logvar.float())
    terms = {"reconstruction": losses.reconstruction(output, pixels, config.reconstruction_power)}
    loss = terms["reconstruction"]
    if config.perceptual_weight:
        terms["perceptual"] = losses.perceptual(*layers)
        loss = loss + config.perceptual_weight * terms["perceptual"]
    if config.kl_weight and moments.logvar is not None:
        terms["kl"] = losses.kl_divergence(moments)
        loss = loss + config.kl_weight * terms["kl"]
    if config.semantic_weight:
        terms["semantic"] = _semantic(state, moments.mean, pixels)
        loss = loss + _semantic_weight(config, model, loss, terms["semantic"]) * terms["semantic"]
    scalars = {name: term.detach().mean() for name, term in terms.items()}
    batch_level = bool(config.semantic_weight) and config.semantic_adaptive
    yield Objective("autoencoder", loss.mean() if batch_level else loss, scalars, batch_level=batch_level)


def preview(state: TrainState) -> dict[str, Tensor]:
    """Eight held-out originals over their reconstructions by the EMA weights."""
    pixels = _held_out(state.fixed.config, 8)
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
    """The EMA weights with the normalisation fitted on training images."""
    fixed: Fixed = state.fixed
    model = state.emas["autoencoder"].module
    assert isinstance(model, Autoencoder)
    num = min(fixed.config.normalisation_images, len(fixed.dataset))
    means = [
        model.encode(to_float(batch.pixels).to(state.device)).mean  # pyright: ignore
        for batch in in_order(fixed.dataset, batch_size=256, stop=num)
    ]
    model.fit_normalisation(torch.cat(means))
    return model


AUTOENCODER = Recipe(
    validate=validate,
    dataset=load_data,
    setup=setup,
    objectives=objectives,
    preview=preview,
    export=export,
)


# ---- terms -------------------------------------------------------------------------------------------------


def _noisy(model: Autoencoder, z: Tensor, noise: float, randomness: Randomness) -> Tensor:
    """Whitened noise of random strength per image (RAE's decoder training), or `z` as it is."""
    if not noise:
        return z
    assert isinstance(model, RepresentationAutoencoder), "latent_noise belongs to representation autoencoders"
    streams = randomness("latent noise")
    sigma = noise * streams.uniform(1, 1, 1)
    return model.normalise.inverse(model.normalise(z) + sigma * streams.normal(*z.shape[1:]))


def _semantic(state: TrainState, mean: Tensor, pixels: Tensor) -> Tensor:
    model, teacher = state.modules["autoencoder"], state.fixed.teacher
    tokens = patchify(mean, model.options.patch).flatten(2).transpose(1, 2)  # pyright: ignore  (B, N, C)
    with torch.no_grad():
        target = teacher.tokens(pixels)
    return state.modules["semantic"](tokens, target)


def _semantic_weight(
    config: AutoencoderConfig, model: Autoencoder, main: Tensor, extra: Tensor
) -> Tensor | float:
    if not config.semantic_adaptive:
        return config.semantic_weight
    assert isinstance(model, KLAutoencoder), "the adaptive weight is measured at a KL encoder's last layer"
    return config.semantic_weight * losses.adaptive_weight(
        main.mean(), extra.mean(), model.last_encoder_weight, 1e8
    )


def _held_out(config: AutoencoderConfig, num: int) -> Tensor:
    held_out = datasets.load(config.dataset, "heldout", num_images=num)
    pixels = held_out.read(torch.arange(num)).pixels
    assert pixels is not None
    return pixels
