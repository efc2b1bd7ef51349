"""Precision, recall, density and coverage: known cases and the plain double loop."""

from __future__ import annotations

import pytest
import torch

from flowlab.metrics.manifold import density_coverage, precision_recall


def draw(n: int, d: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def by_hand(generated: torch.Tensor, reference: torch.Tensor, k: int) -> tuple[float, float, float, float]:
    def radii(x: torch.Tensor) -> torch.Tensor:
        return torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist").sort(dim=1).values[:, k]

    between = torch.cdist(generated, reference, compute_mode="donot_use_mm_for_euclid_dist")
    precision = (between <= radii(reference)).any(1).double().mean()
    recall = (between <= radii(generated)[:, None]).any(0).double().mean()
    inside = between < radii(reference)
    return (
        float(precision),
        float(recall),
        float(inside.sum() / (k * len(generated))),
        float(inside.any(0).double().mean()),
    )


@pytest.mark.parametrize("k", [1, 3, 5])
def test_equals_the_double_loop(k):
    generated, reference = 0.8 * draw(70, 4) + 0.3, draw(50, 4, 1)
    pr, dc = precision_recall(generated, reference, k=k), density_coverage(generated, reference, k=k)
    assert (pr.precision, pr.recall, dc.density, dc.coverage) == pytest.approx(
        by_hand(generated, reference, k)
    )


def test_copies_are_all_inside():
    x = draw(40, 3)
    assert precision_recall(x, x).precision == precision_recall(x, x).recall == 1
    assert density_coverage(x, x).coverage == 1


def test_disjoint_sets():
    x = draw(40, 3)
    pr, dc = precision_recall(x + 100, x), density_coverage(x + 100, x)
    assert pr.precision == pr.recall == dc.density == dc.coverage == 0


def test_collapsed_generator_is_precise_and_forgets():
    reference = draw(200, 3)
    collapsed = reference[:1].repeat(50, 1)
    result = precision_recall(collapsed, reference)
    assert result.precision == 1
    assert result.recall == 1 / 200  # `<=` with radius 0: only the copied image itself


def test_half_of_the_modes():
    modes = torch.tensor([[0.0, 0], [50, 0]])
    reference = draw(100, 2) + modes.repeat_interleave(50, 0)
    result = precision_recall(draw(100, 2, 1), reference)
    assert result.precision > 0.85 and 0.4 < result.recall <= 0.5


def test_blocks_change_nothing(monkeypatch):
    generated, reference = draw(30, 4), draw(20, 4, 1)
    whole = precision_recall(generated, reference), density_coverage(generated, reference)
    monkeypatch.setattr("flowlab.metrics.manifold._BLOCK", 1)
    assert (precision_recall(generated, reference), density_coverage(generated, reference)) == whole


def test_an_offset_changes_nothing():
    generated, reference = draw(30, 4), draw(20, 4, 1)
    assert precision_recall(generated + 1e6, reference + 1e6) == precision_recall(generated, reference)


def test_prints_both_counts():
    result = precision_recall(draw(30, 4), draw(20, 4, 1)), density_coverage(draw(30, 4), draw(20, 4, 1))
    for text in map(str, result):
        assert "30 generated, 20 reference" in text


@pytest.mark.parametrize(
    ("generated", "reference", "k", "message"),
    [
        (draw(9, 3), draw(9, 2), 3, "features of 3 and 2 dimensions"),
        (draw(3, 3), draw(9, 3), 3, "more than 3 images a side, got 3 and 9"),
        (draw(9, 3), draw(9, 3), 0, "k=0"),
        (draw(9, 3), draw(9, 3).fill_(torch.nan), 3, "reference features of image 0 are not finite"),
    ],
)
def test_bad_input(generated, reference, k, message):
    with pytest.raises(ValueError, match=message):
        precision_recall(generated, reference, k=k)
