"""What autoencoder training starts from: networks, optimisers, and what stays frozen beside them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from flowlab import autoencoders
from flowlab.autoencoders import losses
from flowlab.autoencoders.base import Autoencoder
from flowlab.autoencoders.kl import KLAutoencoder, KLSpec
from flowlab.autoencoders.normalise import patchify
from flowlab.autoencoders.rae import RepresentationAutoencoder
from flowlab.autoencoders.sizes import build
from flowlab.core.devices import default_device, device_of
from flowlab.core.pixels import to_float
from flowlab.core.weights import load_strict
from flowlab.data.batch import Batch, Dataset, in_order
from flowlab.features import vgg
from flowlab.features.vgg import VGG16
from flowlab.train import adversary, end_to_end, frozen, memory, optim
from flowlab.train.autoencoder_config import SPECS, AutoencoderConfig
from flowlab.train.ema import Ema
from flowlab.train.frozen import Frozen
from flowlab.train.state import Trainable, TrainState

__all__ = ["Fixed", "posterior_means", "setup", "tokens_of"]


@dataclass(frozen=True, kw_only=True)
class Fixed:
    """What stays while an autoencoder trains."""

    config: AutoencoderConfig
    teacher: Frozen
    dataset: Dataset
    vgg: VGG16 | None = None
    """LPIPS, where it is the perceptual term."""
    critic: Frozen | None = None
    """The network under a feature discriminator's heads."""


def setup(config: AutoencoderConfig, dataset: Dataset) -> TrainState:
    """Build the networks, start the autoencoder from data or from a file, and freeze what is not trained."""
    torch.manual_seed(config.loop.seed)
    device = default_device()
    model, teacher = build(config.autoencoder).to(device), _teacher(config).to(device)
    _start(config, model, teacher, dataset)
    modules: dict[str, nn.Module] = {"autoencoder": model}
    if config.semantic_weight:
        modules["semantic"] = losses.SemanticLoss(
            model.spec.channels, teacher.channels, *config.semantic_margins
        )
    groups = {"autoencoder": (list(modules.values()), config.optimiser)}
    fixed = Fixed(
        config=config,
        teacher=teacher,
        dataset=dataset,
        vgg=_vgg(config, device),
        critic=_critic(config, device),
    )
    if config.adversary.weight:
        modules["discriminator"] = adversary.build(config.adversary, fixed.critic)
        groups["discriminator"] = ([modules["discriminator"]], config.adversary.optimiser)
    if config.end_to_end.weight:
        scaffold = _scaffold(config, model, teacher, dataset)
        modules |= scaffold
        groups["flow"] = (list(scaffold.values()), config.end_to_end.optimiser)
    for module in modules.values():
        module.to(device)
    emas = {"autoencoder": Ema(model, config.ema_decay)}  # before the wrapping, which it has no use for
    if config.channels_last:
        memory.channels_last(model)
    if config.checkpointing:
        memory.recompute(model)
    optimisers = {
        name: Trainable(optim.build(_trained(parts), rate), rate) for name, (parts, rate) in groups.items()
    }
    return TrainState(modules=modules, optimisers=optimisers, emas=emas, device=device, fixed=fixed)


# ---- the autoencoder's first weights -----------------------------------------------------------------------


def _start(config: AutoencoderConfig, model: Autoencoder, teacher: Frozen, dataset: Dataset) -> None:
    """Weights from `initial` or from data; a frozen encoder where only the decoder is tuned."""
    if isinstance(model, RepresentationAutoencoder) and not config.initial:
        load_strict(model.encoder, teacher.state_dict(), where=config.teacher)
    if config.initial:
        load_strict(model, autoencoders.load(config.initial).state_dict(), where=config.initial)
    else:
        start(model, dataset)
    if not config.train_encoder and isinstance(model, KLAutoencoder):
        model.encoder.requires_grad_(False)
        if model.linear is not None:
            model.linear.analysis.requires_grad_(False)


@torch.no_grad()
def start(model: Autoencoder, dataset: Dataset) -> None:
    """Principal components for a linear path and zero for the convolutions beside it; whitening for RAE.

    Published convolutional models have no linear path and start as torch initialises them, as LDM does.
    """
    if not isinstance(model, KLAutoencoder):
        model.fit_normalisation(posterior_means(model, dataset, 2048))
    elif model.linear is not None:
        first = next(in_order(dataset, batch_size=min(2048, len(dataset))))
        model.linear.fit(_pixels(first).to(device_of(model)))
        model.encoder.conv_out.bias[model.options.latent_channels :] = -6.0  # pyright: ignore  posterior std 0.05
        model.encoder.conv_out.weight.zero_()
        model.decoder.conv_out.weight.zero_()


@torch.no_grad()
def posterior_means(model: Autoencoder, dataset: Dataset, num_images: int) -> Tensor:
    """(n, c, h, w) of the first images, on the model's device; fewer at once the larger they are."""
    num, at_once = min(num_images, len(dataset)), max(4, 256 * 32**2 // dataset.resolution**2)
    means = [
        model.encode(_pixels(batch).to(device_of(model))).mean
        for batch in in_order(dataset, batch_size=at_once, stop=num)
    ]
    return torch.cat(means)


def _pixels(batch: Batch) -> Tensor:
    assert batch.pixels is not None, "autoencoders train on pixels"
    return to_float(batch.pixels)


def tokens_of(model: Autoencoder, z: Tensor) -> Tensor:
    """A KL model's raw latent (B, c, h p, w p) => the final latent before normalisation (B, C, h, w)."""
    assert isinstance(model, KLAutoencoder), "only the encoders of KL autoencoders are trained"
    return patchify(z, model.options.patch)


# ---- what stands beside it ---------------------------------------------------------------------------------


def _teacher(config: AutoencoderConfig) -> Frozen:
    """RAE's encoders have no affine in their last norm; targets of the other terms keep it."""
    is_rae = not isinstance(SPECS[config.autoencoder], KLSpec)
    return frozen.load(config.teacher, affine=not is_rae, plain=config.teacher_input == "plain")


def _vgg(config: AutoencoderConfig, device: torch.device) -> VGG16 | None:
    if config.perceptual != "lpips" or not config.perceptual_weight:
        return None
    return vgg.load(config.vgg_trunk, config.vgg_heads).to(device)


def _critic(config: AutoencoderConfig, device: torch.device) -> Frozen | None:
    if not config.adversary.weight or config.adversary.kind != "features":
        return None
    return frozen.load(config.adversary.features).to(device)


@torch.no_grad()
def _scaffold(
    config: AutoencoderConfig, model: Autoencoder, teacher: Frozen, dataset: Dataset
) -> dict[str, nn.Module]:
    """The flow model of end-to-end alignment, normalised by the statistics of the first latents."""
    tokens = tokens_of(model, posterior_means(model, dataset, 512)).cpu()
    return end_to_end.modules(config.end_to_end, model.spec, dataset.num_classes, teacher.channels, tokens)


def _trained(modules: list[nn.Module]) -> list[nn.Parameter]:
    return [param for module in modules for param in module.parameters() if param.requires_grad]
