"""The adversarial half of autoencoder training: what the autoencoder feels, and the discriminator's step."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from flowlab.autoencoders import losses
from flowlab.autoencoders.base import Autoencoder
from flowlab.autoencoders.discriminators import (
    FeatureDiscriminator,
    PatchDiscriminator,
    augment,
    discriminator_loss,
    generator_loss,
    rounded,
)
from flowlab.autoencoders.kl import KLAutoencoder
from flowlab.autoencoders.rae import RepresentationAutoencoder
from flowlab.core.devices import autocast
from flowlab.train.autoencoder_config import AdversaryConfig
from flowlab.train.frozen import Frozen
from flowlab.train.state import Objective, Randomness, TrainState

__all__ = ["Adversary", "build", "last_decoder_weight"]

LIMIT = 1e4  # of the adaptive ratio. LDM's is of losses summed over an image: about 1e5 at 256 px: it binds


def build(config: AdversaryConfig, critic: Frozen | None) -> nn.Module:
    """A fresh discriminator; `critic` is the frozen network under its heads where it has heads."""
    if config.kind == "patch":
        return PatchDiscriminator(config.channels)
    assert critic is not None, "a feature discriminator needs its frozen network"
    if any(not 0 <= block < critic.depth for block in config.blocks):
        raise ValueError(
            f"adversary.blocks is {config.blocks}; the network has blocks 0 to {critic.depth - 1}"
        )
    return FeatureDiscriminator([critic.width] * len(config.blocks or range(critic.depth)), config.kernel)


@dataclass(frozen=True, kw_only=True)
class Adversary:
    """One step's view of the discriminator: the images of both objectives are the same."""

    config: AdversaryConfig
    state: TrainState
    critic: Frozen | None
    precision: str
    randomness: Randomness

    @property
    def learns(self) -> bool:
        """Whether the discriminator steps in this update."""
        return bool(self.config.weight) and self.state.step >= self.config.discriminator_start

    @property
    def is_felt(self) -> bool:
        """Whether the autoencoder feels it in this update."""
        return bool(self.config.weight) and self.state.step >= self.config.generator_start

    def weighted_term(self, main: Tensor, output: Tensor) -> tuple[Tensor, Tensor]:
        """The scalar to add to the autoencoder's loss, and -mean d(output) bare.

        `main` (B,) is reconstruction plus perceptual, whose gradient the adaptive weight matches.
        """
        bare = generator_loss(self._logits(output, "augment generated"))
        model = self.state.modules["autoencoder"]
        assert isinstance(model, Autoencoder)
        weight: Tensor | float = self.config.weight
        if self.config.adaptive:
            parameter = last_decoder_weight(model)
            limit = LIMIT / output[0].numel() if self.config.kind == "patch" else LIMIT
            weight = weight * losses.adaptive_weight(
                main.mean(), bare, parameter, limit, epsilon=self.config.epsilon
            )
        return weight * bare, bare

    def objective(self, target: Tensor, output: Tensor) -> Objective:
        """The discriminator's own: hinge on targets and on detached outputs."""
        fakes = rounded(output) if self.config.round_fakes else output.detach()
        real, fake = self._logits(target, "augment real"), self._logits(fakes, "augment fake")
        scalars = {"logit real": real.detach().mean(), "logit fake": fake.detach().mean()}
        return Objective("discriminator", discriminator_loss(real, fake), scalars, batch_level=True)

    def _logits(self, images: Tensor, purpose: str) -> Tensor:
        if self.config.augment:
            images = augment(images, self.randomness(purpose))
        discriminator = self.state.modules["discriminator"]
        with autocast(self.state.device, self.precision):
            if self.critic is None:
                return discriminator(images).float()
            return discriminator(self.critic.layers(images, self.config.blocks)).float()


def last_decoder_weight(model: Autoencoder) -> Tensor:
    """Where the adaptive weight measures gradients."""
    if isinstance(model, KLAutoencoder):
        return model.decoder.conv_out.weight
    assert isinstance(model, RepresentationAutoencoder), type(model).__name__
    return model.decoder.pixels_out.weight
