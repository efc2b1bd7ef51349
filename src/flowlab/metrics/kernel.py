"""Kernel distance between two sets of features (KID when the features are Inception's).

Binkowski et al. 2018, "Demystifying MMD GANs": the unbiased squared maximum mean discrepancy with the kernel
k(x, y) = (x.y / d + 1)^3. Unbiased at any count, so it is the distance to read when images are few; for equal
distributions it is as often negative as its mean of zero demands.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from flowlab.core.seeds import Streams
from flowlab.metrics.statistics import Array, as_features

__all__ = ["KernelDistance", "kernel_distance", "polynomial_kernel"]


class KernelDistance(NamedTuple):
    """A squared maximum mean discrepancy and how sure it is."""

    distance: float
    """Mean over subsets of the unbiased estimate."""
    standard_error: float
    """Standard error over images, of both sets; what an error bar should show."""
    subset_sd: float
    """Standard deviation of one subset's estimate, which other tools print after "+-"; NaN for one subset."""
    num_subsets: int
    subset_sizes: tuple[int, int]
    num_images: tuple[int, int]


def kernel_distance(
    features_a: Array, features_b: Array, *, num_subsets: int = 100, subset_size: int = 1000, seed: int = 0
) -> KernelDistance:
    """KID of features (n, d) and (m, d), any float type, computed in float64.

    Subsets of at most `subset_size` images are drawn without replacement, by (seed, subset). Sets that fit
    into one subset are used whole and once. The standard error is that of the first-order term of a
    U-statistic (Hoeffding 1948; for this one Sutherland et al. 2017, "Generative models and model criticism
    via optimized MMD"), sqrt(4 var(h_a) / n + 4 var(h_b) / m), where h is an image's own share of the
    estimate, averaged over the subsets it was drawn in. Where both distributions are equal that term vanishes
    and the error comes out too large (1.4 times for one subset), never too small.
    """
    a, b = as_features(features_a, what="features_a"), as_features(features_b, what="features_b")
    b = b.to(a.device)
    _check(a, b, num_subsets, subset_size)
    sizes = (min(subset_size, len(a)), min(subset_size, len(b)))
    if sizes == (len(a), len(b)):
        num_subsets = 1
    rows_a = _subsets(len(a), sizes[0], num_subsets, seed, "kernel distance a")
    rows_b = _subsets(len(b), sizes[1], num_subsets, seed, "kernel distance b")
    shares_a, shares_b = _Shares(len(a)), _Shares(len(b))
    estimates = torch.zeros(num_subsets, dtype=torch.float64)
    for i, (of_a, of_b) in enumerate(zip(rows_a, rows_b, strict=True)):
        of_x, of_y = _image_shares(a[of_a.to(a.device)], b[of_b.to(a.device)])
        estimates[i] = of_x.mean() + of_y.mean()
        shares_a.add(of_a, of_x)
        shares_b.add(of_b, of_y)
    error = (shares_a.variance_of_mean() + shares_b.variance_of_mean()) ** 0.5 * 2
    spread = float(estimates.std()) if num_subsets > 1 else float("nan")
    return KernelDistance(float(estimates.mean()), error, spread, num_subsets, sizes, (len(a), len(b)))


def polynomial_kernel(x: Tensor, y: Tensor) -> Tensor:
    """(x.y / d + 1)^3 for x (n, d), y (m, d) => (n, m)."""
    return (x @ y.T / x.shape[1] + 1) ** 3


# ---- small maths -------------------------------------------------------------------------------------------

_BLOCK = 2**22  # numbers of the kernel matrix held at once: 32 MiB of float64


def _image_shares(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """h (n,) and (m,): mean kernel to the other images of the own set, less that to the other set."""
    over_y, over_x = _polynomial_sums(x, y)
    own_x, own_y = _polynomial_sums(x, None)[0], _polynomial_sums(y, None)[0]
    return own_x / (len(x) - 1) - over_y / len(y), own_y / (len(y) - 1) - over_x / len(x)


def _polynomial_sums(x: Tensor, y: Tensor | None) -> tuple[Tensor, Tensor]:
    """Row sums (n,) and column sums (m,) of the kernel matrix, by blocks; y None: x without its diagonal."""
    other = x if y is None else y
    rows, columns = [], torch.zeros(len(other), dtype=x.dtype, device=x.device)
    for block in x.split(max(1, _BLOCK // len(other))):
        values = polynomial_kernel(block, other)  # (rows, m)
        rows.append(values.sum(dim=1))
        columns += values.sum(dim=0)
    if y is not None:
        return torch.cat(rows), columns
    diagonal = (x.square().sum(dim=1) / x.shape[1] + 1) ** 3
    return torch.cat(rows) - diagonal, columns - diagonal


class _Shares:
    """Each image's share of the estimate, averaged over the subsets that drew it."""

    def __init__(self, num_images: int):
        self.sums = torch.zeros(num_images, dtype=torch.float64)
        self.counts = torch.zeros(num_images, dtype=torch.float64)

    def add(self, rows: Tensor, shares: Tensor) -> None:
        self.sums[rows] += shares.cpu()
        self.counts[rows] += 1

    def variance_of_mean(self) -> float:
        drawn = self.counts > 0
        return float((self.sums[drawn] / self.counts[drawn]).var() / drawn.sum())


def _subsets(n: int, size: int, num_subsets: int, seed: int, purpose: str) -> list[Tensor]:
    """Rows (size,) of each subset, without replacement; all rows in order where the subset is everything."""
    if size == n:
        return [torch.arange(n)] * num_subsets
    streams = Streams.for_samples(seed, torch.arange(num_subsets), purpose=purpose)
    each = (streams[i : i + 1].uniform(n, dtype=torch.float64)[0] for i in range(num_subsets))  # (n,)
    return [keys.argsort()[:size] for keys in each]


def _check(a: Tensor, b: Tensor, num_subsets: int, subset_size: int) -> None:
    if a.shape[1] != b.shape[1]:
        raise ValueError(f"features of {a.shape[1]} and {b.shape[1]} dimensions; use one feature network")
    if min(len(a), len(b), subset_size) < 2 or num_subsets < 1:
        raise ValueError(
            f"a kernel distance needs 2 images a side and 1 subset, got {len(a)} and {len(b)} images, "
            f"{subset_size=}, {num_subsets=}"
        )
