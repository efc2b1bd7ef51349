"""What a latent is like, beside what it reconstructs: scale, rank, spectrum, and how it takes a turn.

Scale and rank are of the *final* latent, which is what a generator sees. Spectrum and equivariance are of
the posterior mean before patchify and normalisation: a patch hides fine detail in channels, and turning the
tokens of a patchified latent would leave the inside of each patch unturned.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from flowlab.autoencoders.base import Autoencoder
from flowlab.core.pixels import to_uint8
from flowlab.metrics.paired import mean_and_error, psnr
from flowlab.metrics.statistics import Statistics, to_double

__all__ = [
    "TRANSFORMS",
    "LatentStatistics",
    "effective_rank",
    "equivariance",
    "fits",
    "radial_power",
    "spectrum_slope",
]


class LatentStatistics:
    """Collects over batches; `row` gives the columns, `curves` what has many numbers. Only sums are kept,
    whatever the number of images.

    `num_turned`: equivariance, which decodes each image twice more, is of the first so many images.
    """

    def __init__(self, num_turned: int = 64):
        self.num_turned, self.num_images = num_turned, 0
        self._final: Statistics | None = None
        self._power: dict[str, Tensor] = {}
        self._turned: dict[str, list[Tensor]] = {}

    @torch.no_grad()
    def update(
        self, autoencoder: Autoencoder, pixels: Tensor, mean: Tensor, latent: Tensor, decoded: Tensor
    ) -> None:
        """Add B images: pixels (B, 3, H, W), posterior mean (B, c, h, w), final latent (B, C, h', w'), and
        what the decoder made of it (B, 3, H, W).
        """
        vectors = rearrange(latent, "b c h w -> (b h w) c").cpu()
        self._final = (self._final or Statistics.empty(vectors.shape[1])).update(vectors)
        num_bins = min(mean.shape[2:]) - 1
        for name, maps in (("spectrum_slope", mean), ("spectrum_slope_image", pixels)):
            power = radial_power(maps, num_bins).sum(dim=0).cpu()
            self._power[name] = self._power.get(name, 0) + power
        few = max(0, self.num_turned - self.num_images)
        self.num_images += len(pixels)
        for name, (transform, factor) in TRANSFORMS.items():
            if few and fits(autoencoder, pixels, factor):
                error, decibel = equivariance(autoencoder, mean[:few], decoded[:few], transform)
                self._turned.setdefault(f"{name}_error", []).append(error.cpu())
                self._turned.setdefault(f"{name}_psnr", []).append(decibel.cpu())

    def row(self) -> dict[str, float]:
        """Columns of a result row; NaN where the autoencoder or the size of its grid allows no answer.

        `latent_mean_max`: the largest |mean| of a channel. `latent_std_min`, `latent_std_max`: over channels.
        `effective_rank`, `spectrum_slope`, `spectrum_slope_image` (over the same frequencies as the
        latent's): see the functions. `rotation_*`, `scale_*`: `equivariance` under `TRANSFORMS`, with errors.
        """
        assert self._final is not None, "no batch was added"
        std = self._final.covariance.diagonal().sqrt()
        row = {
            "latent_mean_max": float(self._final.mean.abs().max()),
            "latent_std_min": float(std.min()),
            "latent_std_max": float(std.max()),
            "effective_rank": effective_rank(self._final.covariance),
        }
        row |= {name: spectrum_slope(power) for name, power in self._power.items()}
        for name in (f"{turn}_{kind}" for turn in TRANSFORMS for kind in ("error", "psnr")):
            parts = self._turned.get(name)
            summary = mean_and_error(torch.cat(parts)) if parts else None
            row[name] = summary.mean if summary else math.nan
            row[f"{name}_se"] = summary.standard_error if summary else math.nan
        return row

    def curves(self) -> dict[str, list[float]]:
        """`latent_mean` and `latent_std` of each channel of the final latent; `spectrum` and
        `spectrum_image`: mean power of an image at each frequency, see `radial_power`."""
        assert self._final is not None, "no batch was added"
        found = {
            "latent_mean": self._final.mean,
            "latent_std": self._final.covariance.diagonal().sqrt(),
            "spectrum": self._power["spectrum_slope"] / self.num_images,
            "spectrum_image": self._power["spectrum_slope_image"] / self.num_images,
        }
        return {name: values.tolist() for name, values in found.items()}


# ---- equivariance ------------------------------------------------------------------------------------------


def equivariance(
    autoencoder: Autoencoder, mean: Tensor, decoded: Tensor, transform: Callable[[Tensor], Tensor]
) -> tuple[Tensor, Tensor]:
    """How far decoding is from commuting with `transform`: two (B,) float64.

    `mean` (B, c, h, w) are posterior means, `decoded` (B, 3, H, W) their pictures. With z the mean, D
    the decoder, T the transform, a = D(T z) and b = T(D z):
        error = |a - b| / |b - mean(b)|, norms over all pixels and colours of one image:
                0 = D commutes with T; 1 = as wrong as a flat picture of b's mean colour level;
        psnr  = the PSNR of a against b in dB, both rounded to uint8.
    b and not T of the original: what is lost in reconstruction shall not count again (EQ-VAE, Kouzelis et
    al. 2025, arXiv 2502.09509, trains on D(T z) against T x).
    """
    a = autoencoder.decode_raw(transform(mean))
    b = transform(decoded)
    difference, spread = to_double(a - b).flatten(1), to_double(b).flatten(1)
    spread = spread - spread.mean(dim=1, keepdim=True)
    error = difference.norm(dim=1) / spread.norm(dim=1).clamp_min(1e-12)
    return error, psnr(to_uint8(a), to_uint8(b))


def fits(autoencoder: Autoencoder, pixels: Tensor, factor: int) -> bool:
    """Whether the autoencoder takes these pixels (B, 3, H, W) with height and width divided by `factor`."""
    sides = [side / factor / autoencoder.spec.stride for side in pixels.shape[2:]]
    whole = all(side >= 1 and side == int(side) for side in sides)
    square = pixels.shape[2] == pixels.shape[3]  # a quarter turn of another shape swaps the sides
    return square and whole and not (autoencoder.spec.fixed_grid and factor != 1)


def _quarter_turn(maps: Tensor) -> Tensor:
    return torch.rot90(maps, 1, (2, 3))


def _halved(maps: Tensor) -> Tensor:
    """Mean over 2 x 2, the same on latents and on pixels."""
    return F.avg_pool2d(maps, 2)


TRANSFORMS: dict[str, tuple[Callable[[Tensor], Tensor], int]] = {
    "rotation": (_quarter_turn, 1),  #  90 degrees, no resampling
    "scale":    (_halved, 2),  #        half the side; the second number divides the pixels' side
}  # fmt: skip


# ---- rank and spectrum -------------------------------------------------------------------------------------


def effective_rank(covariance: Tensor) -> float:
    """exp(-sum p log p), p = eigenvalues of the covariance (C, C) over their sum: from 1 to C.

    Roy and Vetterli 2007, "The effective rank: a measure of effective dimensionality", definition 1.
    """
    values = torch.linalg.eigvalsh(covariance).clamp_min(0)
    p = values / values.sum().clamp_min(torch.finfo(values.dtype).tiny)
    return float(torch.special.entr(p).sum().exp())


def radial_power(maps: Tensor, num_bins: int) -> Tensor:
    """Power of maps (B, c, h, w) at 1..num_bins half cycles per side => (B, num_bins) float64.

    |DCT-II|^2 (orthonormal), mean over the coefficients whose radius sqrt(u^2 + v^2) rounds to the bin, mean
    over channels. The cosine transform mirrors the border; Fourier's would see its jump as high frequencies.
    u and v count half cycles over the whole image, so a latent and its image share their bins.
    """
    maps = to_double(maps)
    height, width = maps.shape[2:]
    spectrum = _cosines(height).to(maps) @ maps @ _cosines(width).to(maps).T  # (B, c, h, w)
    down, right = torch.arange(height), torch.arange(width)
    radius = (down[:, None].square() + right.square()).double().sqrt().round().long().flatten()  # (h w,)
    bins = F.one_hot(radius, int(radius.max()) + 1).double()[:, 1 : num_bins + 1].to(maps.device)
    power = spectrum.square().mean(dim=1).flatten(1)  # (B, h w)
    return power @ bins / bins.sum(dim=0).clamp_min(1)


def spectrum_slope(power: Tensor) -> float:
    """Exponent of a power law: least squares of log power (bins,) on log frequency, bins 1, 2, ...

    About -2 for photographs and 0 for white noise. NaN for fewer than two bins, or where a bin holds nothing.
    """
    if len(power) < 2 or not bool((power > 0).all()):
        return math.nan
    x = torch.arange(1, len(power) + 1, dtype=torch.float64).log()
    x = x - x.mean()
    return float((x * power.double().log()).sum() / x.square().sum())


def _cosines(n: int) -> Tensor:
    """The orthonormal DCT-II as a matrix (n, n): rows are frequencies."""
    places = (torch.arange(n, dtype=torch.float64) + 0.5) * math.pi / n
    matrix = (torch.arange(n, dtype=torch.float64)[:, None] * places).cos() * math.sqrt(2 / n)
    matrix[0] /= math.sqrt(2)
    return matrix
