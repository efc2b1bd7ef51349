"""Fidelity and variety apart: precision and recall, density and coverage, by nearest neighbours of features.

All four depend on both counts (coverage most: doubling the generated images moved it from .50 to .68), so a
result carries and prints them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from flowlab.metrics.statistics import as_features

__all__ = ["DensityCoverage", "PrecisionRecall", "density_coverage", "precision_recall"]


@dataclass(frozen=True, kw_only=True)
class PrecisionRecall:
    """Shares in [0, 1]; `print` shows the counts they hold for."""

    precision: float
    """Share of generated images inside the reference's manifold."""
    recall: float
    """Share of reference images inside the generated manifold."""
    k: int
    num_generated: int
    num_reference: int

    def __str__(self) -> str:
        return f"precision {self.precision:.4f}, recall {self.recall:.4f} {_counts(self)}"


@dataclass(frozen=True, kw_only=True)
class DensityCoverage:
    """Density in [0, n/k] (about 1 for equal distributions), coverage in [0, 1]; `print` shows the counts."""

    density: float
    """Mean number of reference balls around a generated image, over k."""
    coverage: float
    """Share of reference images whose ball holds a generated image."""
    k: int
    num_generated: int
    num_reference: int

    def __str__(self) -> str:
        return f"density {self.density:.4f}, coverage {self.coverage:.4f} {_counts(self)}"


def precision_recall(generated: Tensor, reference: Tensor, *, k: int = 3) -> PrecisionRecall:
    """Improved precision and recall of features (n, d) against (m, d).

    Kynkaanniemi et al. 2019, "Improved precision and recall metric", eq. 1-2: an image is inside a set's
    manifold when its distance to some member is at most (`<=`) that member's distance to its k-th nearest
    other member.
    """
    generated, reference = _checked(generated, reference, k)
    inside_reference = torch.zeros(len(generated), dtype=torch.bool, device=generated.device)
    inside_generated = torch.zeros(len(reference), dtype=torch.bool, device=generated.device)
    radii_generated, radii_reference = _radii(generated, k), _radii(reference, k)
    for rows, distances in _blocks(generated, reference):
        inside_reference[rows] = (distances <= radii_reference).any(dim=1)
        inside_generated |= (distances <= radii_generated[rows, None]).any(dim=0)
    return PrecisionRecall(
        precision=float(inside_reference.double().mean()),
        recall=float(inside_generated.double().mean()),
        k=k,
        num_generated=len(generated),
        num_reference=len(reference),
    )


def density_coverage(generated: Tensor, reference: Tensor, *, k: int = 5) -> DensityCoverage:
    """Density and coverage of features (n, d) against (m, d).

    Naeem et al. 2020, "Reliable fidelity and diversity metrics for generative models": balls around
    reference images only, strict `<`, k = 5.
    """
    generated, reference = _checked(generated, reference, k)
    radii = _radii(reference, k)  # (m,)
    covered = torch.zeros(len(reference), dtype=torch.bool, device=generated.device)
    inside = 0
    for _, distances in _blocks(generated, reference):
        hits = distances < radii  # (rows, m)
        inside += int(hits.sum())
        covered |= hits.any(dim=0)
    return DensityCoverage(
        density=inside / (k * len(generated)),
        coverage=float(covered.double().mean()),
        k=k,
        num_generated=len(generated),
        num_reference=len(reference),
    )


# ---- small maths -------------------------------------------------------------------------------------------

_BLOCK = 2**22  # distances held at once: 32 MiB of float64


def _radii(features: Tensor, k: int) -> Tensor:
    """Squared distance (n,) of each image to its k-th nearest other image."""
    radii = features.new_empty(len(features))
    for rows, distances in _blocks(features, features):
        distances.scatter_(1, rows[:, None], float("inf"))  # an image is not its own neighbour
        radii[rows] = distances.kthvalue(k, dim=1).values
    return radii


def _blocks(a: Tensor, b: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Row indices and squared distances (rows, m), for blocks of rows of a (n, d) against all of b (m, d)."""
    size = max(1, _BLOCK // len(b))
    for rows in torch.arange(len(a), device=a.device).split(size):
        yield rows, _squared_distances(a[rows], b)


def _squared_distances(a: Tensor, b: Tensor) -> Tensor:
    """(n, m) by one matrix product; what cancels to rounding error is exactly 0, so copies are copies."""
    scale = a.square().sum(dim=1)[:, None] + b.square().sum(dim=1)
    squared = scale - 2 * (a @ b.T)
    return torch.where(squared <= 1e-13 * scale, 0.0, squared)


def _checked(generated: Tensor, reference: Tensor, k: int) -> tuple[Tensor, Tensor]:
    generated = as_features(generated, what="generated features")
    reference = as_features(reference, what="reference features").to(generated.device)
    if generated.shape[1] != reference.shape[1]:
        raise ValueError(
            f"features of {generated.shape[1]} and {reference.shape[1]} dimensions; use one feature network"
        )
    if k < 1 or min(len(generated), len(reference)) <= k:
        raise ValueError(
            f"{k=} neighbours need k >= 1 and more than {k} images a side, "
            f"got {len(generated)} and {len(reference)}"
        )
    centre = reference.mean(dim=0)  # distances do not move with it, rounding errors do
    return generated - centre, reference - centre


def _counts(result: PrecisionRecall | DensityCoverage) -> str:
    return f"(k={result.k}, {result.num_generated} generated, {result.num_reference} reference images)"
