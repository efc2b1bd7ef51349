"""Two versions of the same image: PSNR, SSIM and a distance in features, one number for each image.

Pixels are compared as a saved PNG would hold them: uint8, or floats in [-1, 1] clamped and rounded to uint8.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from einops import rearrange
from torch import Tensor

from flowlab.core.choices import lookup
from flowlab.core.pixels import to_uint8
from flowlab.metrics.statistics import Array, to_double

__all__ = ["PADDINGS", "MeanError", "feature_distance", "mean_and_error", "psnr", "ssim"]


def psnr(a: Array, b: Array) -> Tensor:
    """Peak signal-to-noise ratio in dB of images (n, C, H, W) => (n,) float64.

    -10 log10(mse) over all channels of images on [0, 1]. mse is floored at 1e-10 as in RAE, so equal images
    give 100 dB. The mean of these is the published figure; the PSNR of the mean mse is lower.
    """
    a, b = _grey_levels(a, b)
    mse = (a - b).square().mean(dim=(1, 2, 3))
    return -10 * mse.clamp_min(1e-10).log10()


def ssim(a: Array, b: Array, *, padding: str = "valid") -> Tensor:
    """Structural similarity of images (n, C, H, W) => (n,) float64, at most 1; mean over channels.

    Wang et al. 2004, "Image quality assessment: from error visibility to structural similarity", eq. 13:
    gaussian window of 11 taps with sigma 1.5, K1 = .01, K2 = .03, range 1 on images in [0, 1]. `padding` is a
    key of PADDINGS. Images smaller than the window are a ValueError.
    """
    margin = lookup(PADDINGS, padding, "padding of SSIM")
    a, b = _grey_levels(a, b)
    height, width = a.shape[-2:]
    if min(height, width) < _TAPS:
        raise ValueError(
            f"SSIM's window is {_TAPS} pixels wide, images are {height}x{width}; use larger ones"
        )
    num_images = max(1, _BLOCK // max(1, a[:1].numel()))
    pairs = zip(a.split(num_images), b.split(num_images), strict=True)
    wider = ((_widened(x, margin), _widened(y, margin)) for x, y in pairs)
    return torch.cat([_ssim_map(x, y).mean(dim=(1, 2, 3)) for x, y in wider])


def feature_distance(features_a: Sequence[Tensor], features_b: Sequence[Tensor]) -> Tensor:
    """Perceptual distance (n,) float64 between features of the same images, one entry for each layer.

    A layer is a map (n, C, h, w) or tokens (n, N, C). Channels are scaled to unit length, the squared
    difference is summed over channels, averaged over positions and summed over layers: 0 for equal features,
    at most 4 a layer. This is not LPIPS (Zhang et al. 2018), whose trained channel weights it lacks; always
    name the network beside it.
    """
    if len(features_a) != len(features_b) or len(features_a) == 0:
        raise ValueError(
            f"{len(features_a)} layers of features against {len(features_b)}; keep the same layers of both"
        )
    return torch.stack([_layer_distance(a, b) for a, b in zip(features_a, features_b, strict=True)]).sum(
        dim=0
    )


class MeanError(NamedTuple):
    """A mean over images and how sure it is; `standard_error` is sd / sqrt(n)."""

    mean: float
    sd: float
    """Standard deviation of one image (divisor n - 1); NaN for a single image."""
    n: int
    standard_error: float


def mean_and_error(values: Array) -> MeanError:
    """Mean, per-image standard deviation, count and standard error of values (n,); non-finite ones are an
    error.
    """
    values = to_double(values).flatten()
    n = len(values)
    if n == 0:
        raise ValueError("the mean of zero images does not exist; measure at least one")
    if not bool(values.isfinite().all()):
        image = int(values.isfinite().logical_not().nonzero()[0])
        raise ValueError(f"the value of image {image} is {values[image].item()}; look at that image")
    sd = float(values.std()) if n > 1 else float("nan")
    return MeanError(float(values.mean()), sd, n, sd / n**0.5)


# ---- small maths -------------------------------------------------------------------------------------------

_TAPS, _SIGMA = 11, 1.5
PADDINGS = {  # pixels that are mirrored beyond each border before the window slides
    "valid": 0,  #            Wang et al.: only where the whole window lies in the image
    "reflect": _TAPS // 2,  # torchmetrics, so RAE, RepTok and VA-VAE; about 0.001 above valid at 256 px
}
_BLOCK = 2**22  # pixels filtered at once: 32 MiB of float64 for each of five maps


def _widened(x: Tensor, margin: int) -> Tensor:
    """(n, C, H, W) => (n, C, H + 2 margin, W + 2 margin), mirrored without repeating the border."""
    return torch.nn.functional.pad(x, (margin,) * 4, mode="reflect") if margin else x


def _ssim_map(a: Tensor, b: Tensor) -> Tensor:
    """SSIM index (n, C, H-10, W-10) of images on [0, 1]; Wang et al. 2004, eq. 13-16."""
    c1, c2 = 0.01**2, 0.03**2
    mean_a, mean_b = _blur(a), _blur(b)
    variance_a = _blur(a * a) - mean_a * mean_a
    variance_b = _blur(b * b) - mean_b * mean_b
    covariance = _blur(a * b) - mean_a * mean_b
    luminance = (2 * mean_a * mean_b + c1) / (mean_a.square() + mean_b.square() + c1)
    return luminance * (2 * covariance + c2) / (variance_a + variance_b + c2)


def _blur(x: Tensor) -> Tensor:
    """Gaussian window on the valid region, one axis after the other: (n, C, H, W) => (n, C, H-10, W-10)."""
    offsets = torch.arange(_TAPS, dtype=x.dtype, device=x.device) - _TAPS // 2
    window = (-0.5 * (offsets / _SIGMA).square()).exp()
    taps = (window / window.sum()).tolist()
    height, width = x.shape[-2] - _TAPS + 1, x.shape[-1] - _TAPS + 1
    rows, blurred = torch.zeros_like(x[..., :height, :]), torch.zeros_like(x[..., :height, :width])
    for i, tap in enumerate(taps):
        rows.add_(x[..., i : i + height, :], alpha=tap)
    for i, tap in enumerate(taps):
        blurred.add_(rows[..., i : i + width], alpha=tap)
    return blurred


def _layer_distance(a: Tensor, b: Tensor) -> Tensor:
    if a.shape != b.shape or a.ndim not in (3, 4):
        raise ValueError(
            f"features {tuple(a.shape)} against {tuple(b.shape)}; "
            "expected two maps (n, C, h, w) or two token sets (n, N, C)"
        )
    a, b = _unit_tokens(a), _unit_tokens(b)
    return (a - b).square().sum(dim=-1).mean(dim=1)  # (n,)


def _unit_tokens(features: Tensor) -> Tensor:
    """Map or tokens => tokens (n, N, C) float64 of unit length; a zero vector stays zero."""
    features = to_double(features)
    tokens = rearrange(features, "n c h w -> n (h w) c") if features.ndim == 4 else features
    return torch.nn.functional.normalize(tokens, dim=-1, eps=1e-10)


def _grey_levels(a: Array, b: Array) -> tuple[Tensor, Tensor]:
    """Both images as float64 on [0, 1] in steps of 1/255."""
    a, b = torch.as_tensor(a), torch.as_tensor(b)
    if a.shape != b.shape or a.ndim != 4:
        raise ValueError(
            f"images {tuple(a.shape)} against {tuple(b.shape)}; expected two equal shapes (n, C, H, W)"
        )
    return _to_unit(a), _to_unit(b)


def _to_unit(images: Tensor) -> Tensor:
    if images.is_floating_point() and not bool(images.isfinite().all()):
        image = int(images.isfinite().flatten(1).all(dim=1).logical_not().nonzero()[0])
        raise ValueError(f"pixels of image {image} are not finite; look at the network that made it")
    if not images.is_floating_point() and images.dtype != torch.uint8:
        raise ValueError(f"images are {images.dtype}; expected uint8, or floats in [-1, 1]")
    return to_double(to_uint8(images) if images.is_floating_point() else images) / 255
