"""Loss terms of autoencoder training; one value per example unless the name says batch.

Reductions are part of the names of the weights: reconstruction is the mean over pixels and colours, the
perceptual distance is a mean over positions summed over layers, KL is the sum over the latent's numbers.
LDM sums the first two over an image's 3 H W values, so its KL weight 1e-6 is 1e-6 / (3 H W) on this scale.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flowlab.autoencoders.base import Moments

__all__ = ["SemanticLoss", "adaptive_weight", "kl_divergence", "perceptual", "reconstruction"]


def reconstruction(output: Tensor, pixels: Tensor, power: int = 1) -> Tensor:
    """(B,) mean |output - pixels|^power; power 1 is L1, 2 is L2."""
    return (output - pixels).abs().pow(power).flatten(1).mean(1)


def kl_divergence(moments: Moments) -> Tensor:
    """(B,) KL(N(mean, var) || N(0, 1)) in nats, summed over the latent (Kingma and Welling 2014, app. B)."""
    assert moments.logvar is not None, "a deterministic encoder has no KL term"
    terms = moments.mean.pow(2) + moments.logvar.exp() - 1 - moments.logvar
    return 0.5 * terms.flatten(1).sum(1)


def perceptual(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> Tensor:
    """(B,) squared distance of unit-normalised features (B, N, D), mean over positions, summed over layers.

    The form of LPIPS (Zhang et al. 2018, eq. 1) without learned weights; never reported under that name.
    """
    layers = [
        (F.normalize(a, dim=-1) - F.normalize(b, dim=-1)).pow(2).sum(-1).mean(-1)
        for a, b in zip(ours, theirs, strict=True)
    ]
    return torch.stack(layers).sum(0)


class SemanticLoss(nn.Module):
    """VA-VAE's vision-foundation loss (Yao et al. 2025, arXiv 2501.01423, section 4): the latent, lifted by a
    linear map, must match frozen features token by token (cosine) and in its similarities (distance matrix).
    """

    def __init__(
        self, channels: int, teacher_channels: int, cosine_margin: float = 0.5, matrix_margin: float = 0.25
    ):
        super().__init__()
        self.lift = nn.Linear(channels, teacher_channels, bias=False)
        self.cosine_margin = cosine_margin
        self.matrix_margin = matrix_margin

    def forward(self, tokens: Tensor, teacher: Tensor) -> Tensor:
        """Tokens (B, N, channels) and teacher features (B, N, teacher_channels) => (B,)."""
        lifted, target = F.normalize(self.lift(tokens), dim=-1), F.normalize(teacher, dim=-1)
        cosine = F.relu(1 - self.cosine_margin - (lifted * target).sum(-1)).mean(1)
        difference = lifted @ lifted.mT - target @ target.mT  # (B, N, N)
        return cosine + F.relu(difference.abs() - self.matrix_margin).mean((1, 2))


def adaptive_weight(
    main: Tensor, extra: Tensor, parameter: Tensor, maximum: float = 1e4, *, epsilon: float = 1e-4
) -> Tensor:
    """||d main / d parameter|| / (||d extra / d parameter|| + epsilon), clamped (Esser et al. 2021, eq. 7).

    Both losses are scalars over the whole batch, so a term that uses this weight is batch-level.
    """
    gradients = [torch.autograd.grad(loss, parameter, retain_graph=True)[0].norm() for loss in (main, extra)]
    return (gradients[0] / (gradients[1] + epsilon)).clamp(0, maximum).detach()
