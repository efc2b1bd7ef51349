"""RepTok (arXiv 2510.14630): a whole image as one token, the far end of compression.

The class token of DINOv2 is the latent. One vector of the encoder learns, the embedding that the class token
starts from, and a pull towards the token of the untouched encoder keeps it a representation. What the token
cannot say a flow model fills in: it draws the latent of another autoencoder, given the token.

That flow model, its sampler and its grid of times arrive as arguments; this folder imports neither backbones
nor flow.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flowlab.autoencoders.base import Autoencoder, LatentSpec, Moments
from flowlab.autoencoders.normalise import Whitening
from flowlab.core.seeds import Streams
from flowlab.features.vision import VisionEncoder

__all__ = ["SingleTokenAutoencoder", "TokenVelocity", "class_token_pull"]

TokenVelocity = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(x, t, token) -> v: x (B, C, h, w) a noisy latent of the other autoencoder, t (B,), token (B, width)."""


class SingleTokenAutoencoder(Autoencoder):
    """Pixels => one token (B, width, 1, 1) => a flow in another autoencoder's latent => its pixels.

    `encoder` is DINOv2 with pretrained weights; RepTok reads it with affine=True and resize="bilinear".
    `pixels_from` is the other autoencoder, frozen here. `sampler` and `times` are as in flow.samplers: it is
    called with (x, t) -> v, noise at times[0] = 1 and the clean latent at times[-1] = 0.
    """

    original: Tensor
    times: Tensor

    def __init__(
        self,
        encoder: VisionEncoder,
        pixels_from: Autoencoder,
        velocity: TokenVelocity,
        sampler: Callable[..., Tensor],
        times: Tensor,
        *,
        seed: int = 0,
        name: str = "reptok",
    ):
        super().__init__()
        if not encoder.kind.num_special:
            raise ValueError(f"{encoder.spec.kind} has no class token to learn; give dinov2 or mae")
        if times[0] != 1 or times[-1] != 0:
            raise ValueError(
                f"times run from {times[0]:g} to {times[-1]:g}; they go from 1 (noise) to 0 (data)"
            )
        inner = pixels_from.spec
        self.spec = LatentSpec(
            name=name,
            family="rae",
            stride=inner.resolution,
            channels=encoder.spec.width,
            resolution=inner.resolution,
            fixed_grid=True,
        )
        self.encoder = encoder
        self.register_buffer("original", self.class_embedding.detach().clone())
        self.class_embedding.requires_grad_(True)
        self.normalise = Whitening(encoder.spec.width, 1)
        self.pixels_from = pixels_from.eval().requires_grad_(False)
        self.velocity, self.sampler, self.seed = velocity, sampler, seed
        self.register_buffer("times", times, persistent=False)

    def encode(self, pixels: Tensor) -> Moments:
        self.check(pixels)
        return Moments(self.encoder.tokens(pixels)[:, 0, :, None, None], None)

    def to_latent(self, moments: Moments, generators: Streams | None = None) -> Tensor:
        return self.normalise(moments.mean)

    def decode(self, latent: Tensor) -> Tensor:
        self.check_latent(latent)
        return self.decode_raw(self.normalise.inverse(latent))

    def decode_raw(self, z: Tensor) -> Tensor:
        """From one noise for all images, so that a picture does not depend on its neighbours in the batch."""
        same = torch.zeros(len(z), dtype=torch.int64, device=z.device)
        return self.draw(z, Streams.for_samples(self.seed, same, purpose="reptok"))

    def draw(self, z: Tensor, generators: Streams) -> Tensor:
        """A picture (B, 3, H, W) for each token (B, width, 1, 1), from noise of its own stream."""
        inner, token = self.pixels_from.spec, z.flatten(1)
        noise = generators.normal(inner.channels, inner.grid, inner.grid).to(z)
        latent = self.sampler(
            lambda x, t: self.velocity(x, t, token), noise, self.times, generators=generators
        )
        return self.pixels_from.decode(latent)

    def fit_normalisation(self, means: Tensor) -> None:
        self.normalise.fit(means)

    # ---- training: velocity(x_t, t, encode(pixels).mean.flatten(1)) against a path to `target(pixels)` ----

    @property
    def class_embedding(self) -> nn.Parameter:
        """(1, 1, width): the one part of the encoder that learns."""
        return self.encoder.network.get_parameter("embeddings.cls_token")

    @torch.no_grad()
    def target(self, pixels: Tensor) -> Tensor:
        """What the flow learns to draw: the other autoencoder's latent at its mean (B, C, h, w)."""
        return self.pixels_from.latents(pixels)

    @torch.no_grad()
    def original_token(self, pixels: Tensor) -> Tensor:
        """The token (B, width, 1, 1) of the untouched encoder."""
        return self.encoder.tokens(pixels, self.original)[:, 0, :, None, None]


def class_token_pull(token: Tensor, original: Tensor) -> Tensor:
    """1 - cosine of each token with the untouched encoder's: (B, width, 1, 1) twice => (B,) in [0, 2]."""
    return 1 - F.cosine_similarity(token.flatten(1).float(), original.flatten(1).float(), dim=1)
