"""The names that other programs rely on: extend them, never rename them."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch

from flowlab import autoencoders, backbones
from flowlab.cli import VERBS
from flowlab.flow import schedules, times
from flowlab.metrics import frechet
from flowlab.study.results import COLUMNS
from flowlab.verbs.console import Group


def _parameters(function: Callable[..., Any]) -> dict[str, tuple[str, Any]]:
    kinds = {"POSITIONAL_OR_KEYWORD": "", "KEYWORD_ONLY": "*", "VAR_KEYWORD": "**", "VAR_POSITIONAL": "*args"}
    found = inspect.signature(function).parameters
    return {name: (kinds[value.kind.name], value.default) for name, value in found.items()}


NONE = inspect.Parameter.empty
LAW = {"alpha": ("*", 1.0), "mu": ("*", 0.0), "sigma": ("*", 1.0)}
STABLE = [
    (times.density, {"name": ("", NONE), "t": ("", NONE), **LAW}),
    (times.cdf, {"name": ("", NONE), "t": ("", NONE), **LAW}),
    (times.sample, {"name": ("", NONE), "n": ("", NONE), **LAW, "generator": ("*", None)}),
    (schedules.shift, {"alpha": ("", NONE), "t": ("", NONE)}),
    (schedules.flux2_grid, {"num_tokens": ("", NONE), "num_steps": ("", NONE)}),
    (schedules.flux1_grid, {"num_tokens": ("", NONE), "num_steps": ("", NONE), "shifted": ("", True)}),
    (frechet.statistics, {"features": ("", NONE)}),
    (frechet.frechet_distance, {"a": ("", NONE), "b": ("", NONE)}),
    (autoencoders.load, {"name_or_path": ("", NONE), "overrides": ("**", NONE)}),
    (backbones.load, {"path": ("", NONE), "overrides": ("**", NONE)}),
]


@pytest.mark.parametrize(("function", "promised"), STABLE, ids=lambda item: getattr(item, "__qualname__", ""))
def test_signature(function: Callable[..., Any], promised: dict[str, tuple[str, Any]]) -> None:
    found = _parameters(function)
    assert {name: found.get(name) for name in promised} == promised
    added = [name for name in found if name not in promised]
    assert all(found[name][1] is not NONE for name in added), f"{added} must have defaults"


def test_sampling_grid_takes_steps_and_shift() -> None:
    found = list(_parameters(schedules.sampling_grid).values())
    assert [kind for kind, _ in found[:2]] == ["", ""]


def test_the_three_laws() -> None:
    assert {"ts", "ln", "pln"} <= set(times.DISTRIBUTIONS)
    t = torch.linspace(0.01, 0.99, 7)
    for name in ("ts", "ln", "pln"):
        assert times.density(name, t, alpha=2.0).dtype == torch.float64
        assert times.sample(name, 5, alpha=2.0, generator=torch.Generator().manual_seed(0)).shape == (5,)
    with pytest.raises(ValueError, match="ts, ln, pln"):
        times.density("nosuch", t)


@pytest.mark.parametrize(
    "grid",
    [
        schedules.sampling_grid(10, 2.95),
        schedules.flux2_grid(4096, 10),
        schedules.flux1_grid(4096, 10),
        schedules.flux1_grid(4096, 10, shifted=False),
    ],
)
def test_grids_end_at_exactly_zero(grid: torch.Tensor) -> None:
    assert len(grid) == 11 and grid[0] == 1.0 and grid[-1] == 0.0
    assert bool((grid.diff() < 0).all())


def test_a_distance_is_a_float64() -> None:
    features = torch.randn(50, 4, generator=torch.Generator().manual_seed(0))
    a, b = frechet.statistics(features), frechet.statistics(features + 1)
    assert frechet.frechet_distance(a, b) == pytest.approx(4.0, rel=1e-5)


def test_first_columns_of_the_results() -> None:
    assert list(COLUMNS)[:7] == ["step", "ae", "repa", "trainp", "trainshift", "sampleshift", "fid"]
    assert list(COLUMNS)[7] == "features", "a distance says whose features it used"


def test_verbs() -> None:
    assert {"doctor", "train", "encode", "generate", "evaluate", "study"} <= set(VERBS)
    study = VERBS["study"]
    assert isinstance(study, Group) and {"plan", "run", "status", "report"} <= set(study.verbs)


def test_what_an_autoencoder_offers() -> None:
    from flowlab.autoencoders.base import Autoencoder, LatentSpec

    for name in ("latents", "decode", "encode", "to_latent"):
        assert callable(getattr(Autoencoder, name))
    assert {"stride", "channels", "family"} <= set(LatentSpec.__dataclass_fields__)
