"""Mean and covariance of features, merged batch by batch in float64.

The merge is the pairwise update of Chan, Golub and LeVeque (1983), "Algorithms for computing the sample
variance": good to rounding in any order and at any offset, where sums of squares lose digits to cancellation.
A non-finite feature stops here, with the name of its image, before any decomposition can crash on it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

__all__ = ["Array", "Statistics", "as_features", "statistics", "to_double"]

Array = Tensor | np.ndarray
"""What features and images may come as: other tools keep theirs in numpy."""


def statistics(features: Array, names: Sequence[str] | None = None) -> Statistics:
    """Statistics of features (n, d), any float type; see `Statistics.update` for the errors."""
    features = torch.as_tensor(features)
    _check_shape(features)
    return Statistics.empty(features.shape[1]).update(features, names)


@dataclass(eq=False)
class Statistics:
    """Count, mean and covariance (divisor n - 1, as numpy.cov) of the features seen so far."""

    n: int
    """Number of images."""
    mean: Tensor
    """(d,) float64."""
    scatter: Tensor
    """(d, d) float64: sum of outer products of the deviations, (n - 1) times the covariance."""

    @classmethod
    def empty(cls, dimension: int) -> Statistics:
        """Statistics of no images yet, ready for `update`."""
        return cls(
            0,
            torch.zeros(dimension, dtype=torch.float64),
            torch.zeros(dimension, dimension, dtype=torch.float64),
        )

    @classmethod
    def from_moments(cls, n: int, mean: Array, covariance: Array) -> Statistics:
        """From a mean (d,) and covariance (d, d) computed elsewhere; checks shape, symmetry and values."""
        mean, covariance = to_double(mean), to_double(covariance)
        if mean.ndim != 1 or covariance.shape != (len(mean), len(mean)):
            raise ValueError(
                f"mean {tuple(mean.shape)} and covariance {tuple(covariance.shape)} do not belong together; "
                "expected (d,) and (d, d)"
            )
        if n < 2:
            raise ValueError(f"statistics of n={n} images have no covariance; give at least 2")
        if not (bool(mean.isfinite().all()) and bool(covariance.isfinite().all())):
            raise ValueError("mean or covariance holds non-finite numbers; compute the statistics again")
        if float((covariance - covariance.T).abs().max()) > 1e-6 * float(covariance.abs().max()):
            raise ValueError("the covariance is not symmetric; compute the statistics again")
        return cls(n, mean, _symmetric(covariance) * (n - 1))

    @property
    def dimension(self) -> int:
        """Width d of the features."""
        return len(self.mean)

    @property
    def covariance(self) -> Tensor:
        """(d, d) float64 with divisor n - 1; fewer than two images have none and are a ValueError."""
        if self.n < 2:
            raise ValueError(f"a covariance needs at least 2 images, got {self.n}; measure more images")
        return _symmetric(self.scatter / (self.n - 1))

    def update(self, features: Array, names: Sequence[str] | None = None) -> Statistics:
        """Add features (n, d) in place and return self.

        A non-finite feature is a ValueError with the image's index, counted over all updates, and its name
        where `names` (one for each row) is given; the statistics are then unchanged.
        """
        merged = self.merge(_of_batch(as_features(features, names=names, start=self.n)))
        self.n, self.mean, self.scatter = merged.n, merged.mean, merged.scatter
        return self

    def merge(self, other: Statistics) -> Statistics:
        """Statistics of both sets together, as a new object; the order does not matter."""
        if self.dimension != other.dimension:
            raise ValueError(
                f"features of {self.dimension} and {other.dimension} dimensions cannot be merged; "
                "use one feature network"
            )
        if self.n == 0 or other.n == 0:
            full = other if self.n == 0 else self
            return Statistics(full.n, full.mean.clone(), full.scatter.clone())
        total = self.n + other.n
        delta = other.mean - self.mean.to(other.mean.device)  # (d,)
        spread = torch.outer(delta, delta) * (self.n * other.n / total)  # (d, d)
        mean = self.mean.to(delta.device) + delta * (other.n / total)
        return Statistics(total, mean, self.scatter.to(delta.device) + other.scatter + spread)

    def to(self, device: torch.device | str) -> Statistics:
        """The same statistics on another device (one that has float64)."""
        return Statistics(self.n, self.mean.to(device), self.scatter.to(device))


def as_features(
    features: Array, *, names: Sequence[str] | None = None, start: int = 0, what: str = "features"
) -> Tensor:
    """Check features (n, d) and return them as float64; non-finite ones are a ValueError naming the image."""
    features = torch.as_tensor(features)
    _check_shape(features)
    if names is not None and len(names) != len(features):
        raise ValueError(
            f"{len(names)} names for {len(features)} rows of {what}; give one name for each image"
        )
    features = to_double(features)
    finite = features.isfinite()
    if not bool(finite.all()):
        row = int(finite.all(dim=1).logical_not().nonzero()[0])
        column = int(finite[row].logical_not().nonzero()[0])
        name = f" ({names[row]})" if names is not None else ""
        raise ValueError(
            f"{what} of image {start + row}{name} are not finite: {features[row, column].item()} in "
            f"dimension {column}; look at that image, or at the network that made it"
        )
    return features


def to_double(tensor: Array) -> Tensor:
    """Float64 on the tensor's own device; Apple's MPS has none, so from there to the CPU."""
    tensor = torch.as_tensor(tensor).detach()
    return (tensor.cpu() if tensor.device.type == "mps" else tensor).double()


# ---- small maths -------------------------------------------------------------------------------------------


def _of_batch(features: Tensor) -> Statistics:
    mean = features.mean(dim=0) if len(features) else features.new_zeros(features.shape[1])
    deviations = features - mean  # (n, d)
    return Statistics(len(features), mean, deviations.T @ deviations)


def _symmetric(matrix: Tensor) -> Tensor:
    return (matrix + matrix.mT) / 2


def _check_shape(features: Tensor) -> None:
    if features.ndim != 2 or features.shape[1] == 0:
        raise ValueError(
            f"expected features (images, dimensions), got shape {tuple(features.shape)}; flatten them first"
        )
