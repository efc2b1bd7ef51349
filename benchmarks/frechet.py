"""Frechet distance against scipy's matrix square root, in one run.

Command:  OMP_NUM_THREADS=2 python benchmarks/frechet.py          (d=2048, n=10000, 20-45 s)
          python benchmarks/frechet.py --quick                    (d=256, n=1000, about a second)
Expected: ours at most 0.25 of scipy's time at d=2048; the distances agree to 1e-6.
"""

from __future__ import annotations

import argparse
import platform
import time
from collections.abc import Callable
from typing import NamedTuple, TypeVar

import numpy as np
import scipy
import scipy.linalg
import torch

from flowlab.metrics.frechet import Reference, Statistics, frechet_distance, statistics

TARGET = 0.25
T = TypeVar("T")


def main() -> None:
    """Time the three forms on the same statistics and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="small sizes, to see that it runs")
    d, n = (256, 1000) if parser.parse_args().quick else (2048, 10_000)
    versions = f"torch {torch.__version__}, scipy {scipy.__version__}, {torch.get_num_threads()} threads"
    print(f"Frechet distance, d={d}, n={n}, float64; {versions}, {platform.machine()}")
    features = (draw(n, d, 0), draw(n, d, 1) + 0.1)
    (a, b), collecting = timed(lambda: (statistics(features[0]), statistics(features[1])))
    reference = Reference(b)
    forms = {
        "scipy.linalg.sqrtm(S_a @ S_b)": lambda: by_matrix_square_root(a, b),
        "frechet_distance": lambda: frechet_distance(a, b),
        "Reference.distance (L cached)": lambda: reference.distance(a),
    }
    results = {name: timed(form) for name, form in forms.items()}
    print_table(results)
    print(f"statistics of both sets: {collecting.wall:.2f} s; target of frechet_distance at d=2048: {TARGET}")


def by_matrix_square_root(a: Statistics, b: Statistics) -> float:
    """The textbook form, as the ADM evaluator computes it."""
    root = scipy.linalg.sqrtm(a.covariance.numpy() @ b.covariance.numpy())
    terms = (a.mean - b.mean).square().sum() + a.covariance.trace() + b.covariance.trace()
    return float(terms) - 2 * float(np.trace(root).real)


def draw(n: int, d: int, seed: int) -> torch.Tensor:
    """Correlated features (n, d) with a spectrum that falls as a network's does, float32."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(d, d, generator=torch.Generator().manual_seed(7)) / d**0.5
    scales = torch.arange(1, d + 1).float().pow(-0.5)
    return (torch.randn(n, d, generator=generator) * scales) @ mixing


class Seconds(NamedTuple):
    """What a call took; the processor's time is the steadier one on a busy machine."""

    wall: float
    processor: float


def timed(call: Callable[[], T]) -> tuple[T, Seconds]:
    """The result of a call and what it took."""
    wall, processor = time.perf_counter(), time.process_time()
    result = call()
    return result, Seconds(time.perf_counter() - wall, time.process_time() - processor)


def print_table(results: dict[str, tuple[float, Seconds]]) -> None:
    """A line for each form; the first is the yardstick of the ratios."""
    yardstick = next(iter(results.values()))[1]
    print(f"{'method':<34}{'wall s':>8}{'ratio':>7}{'CPU s':>8}{'ratio':>7}  distance")
    for name, (distance, took) in results.items():
        ratios = took.wall / yardstick.wall, took.processor / yardstick.processor
        wall, processor = f"{took.wall:>8.2f}{ratios[0]:>7.3f}", f"{took.processor:>8.2f}{ratios[1]:>7.3f}"
        print(f"{name:<34}{wall}{processor}  {distance:.9f}")


if __name__ == "__main__":
    main()
