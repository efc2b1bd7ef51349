"""The ablation: what is missing, what its rows say, and its page."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from flowlab.presets import PRESETS
from flowlab.study import ablation as ablations
from flowlab.study import results
from flowlab.study.ablation import ABLATIONS, Ablation, build
from flowlab.study.ablation_page import markdown, verdict, write
from flowlab.study.ablation_runner import claim

ARMS = ("ae_ablation_kl", "ae_ablation_none", "ae_ablation_eq")
TOY = Ablation(name="toy", arms=ARMS, seeds=(0, 1), flow_seeds=(0, 1))


def _row(arm: str, seed: int, flow_seed: int, fid: float, psnr: float = 30.0) -> dict[str, Any]:
    row: dict[str, Any] = {name: kind() for name, kind in ablations.COLUMNS.items()}
    return row | {
        "arm": arm,
        "seed": seed,
        "flow_seed": flow_seed,
        "fid": fid,
        "psnr": psnr,
        "features": "judge",
    }


def _table(value: dict[tuple[str, int], float]) -> pd.DataFrame:
    rows = [_row(arm, seed, flow, fid + 0.1 * flow) for (arm, seed), fid in value.items() for flow in (0, 1)]
    return results.frame(rows, ablations.COLUMNS)


def _planted(noise: float) -> dict[tuple[str, int], float]:
    draws = np.random.default_rng(0).normal(size=(3, 2)) * noise
    return {
        (arm, seed): 5.0 - i + 0.7 * seed + draws[i, seed] for i, arm in enumerate(ARMS) for seed in (0, 1)
    }


def test_additive_rows_give_their_differences_exactly() -> None:
    found = ablations.effects(_table(_planted(0.0)), ARMS, "fid")
    assert found["arm"].tolist() == list(ARMS)
    np.testing.assert_allclose(found["difference"], [0.0, -1.0, -2.0], atol=1e-12)
    np.testing.assert_allclose(found["high"] - found["low"], 0.0, atol=1e-6)


def test_interval_is_that_of_least_squares() -> None:
    """Against the two-way additive model fitted by its normal equations."""
    values = _planted(0.5)
    found = ablations.effects(_table(values), ARMS, "fid").iloc[2]
    design = np.array(
        [[1, arm == ARMS[1], arm == ARMS[2], seed] for arm in ARMS for seed in (0, 1)], dtype=float
    )
    y = np.array([values[arm, seed] + 0.05 for arm in ARMS for seed in (0, 1)])
    beta, rest, *_ = np.linalg.lstsq(design, y, rcond=None)
    error = math.sqrt(rest[0] / 2 * np.linalg.inv(design.T @ design)[2, 2])
    assert found["difference"] == pytest.approx(beta[2])
    assert found["high"] - found["difference"] == pytest.approx(4.302652729911275 * error)  # t, 2 degrees


def test_one_seed_leaves_the_bounds_open() -> None:
    one = {key: value for key, value in _planted(0.5).items() if key[1] == 0}
    found = ablations.effects(_table(one), ARMS, "fid")
    assert found["low"].isna().all() and found["difference"].notna().all()


def test_a_seed_without_all_arms_is_left_out() -> None:
    rows = _table({key: value for key, value in _planted(0.0).items() if key != (ARMS[2], 1)})
    kept = ablations.balanced(rows, ARMS)
    assert set(kept["seed"]) == {0} and set(kept["arm"]) == set(ARMS)
    two = ablations.balanced(rows[rows["arm"] != ARMS[2]], ARMS)
    assert set(two["seed"]) == {0, 1} and set(two["arm"]) == set(ARMS[:2]), (
        "an arm not begun holds nothing up"
    )
    assert not len(ablations.balanced(results.empty(ablations.COLUMNS), ARMS))
    with pytest.raises(AssertionError, match="balanced"):
        ablations.effects(rows, ARMS, "fid")


@pytest.mark.parametrize(
    ("low", "high", "lower_is_better", "says"),
    [
        (-2, -1, True, "helps"),
        (-2, -1, False, "hurts"),
        (1, 2, True, "hurts"),
        (1, 2, False, "helps"),
        (-1, 1, True, "undecided"),
        (math.nan, math.nan, True, "undecided"),
    ],
)
def test_verdict(low: float, high: float, lower_is_better: bool, says: str) -> None:
    assert verdict(low, high, lower_is_better) == says


def test_what_is_missing_a_whole_seed_before_the_next() -> None:
    rows = _table({(ARMS[0], 0): 1.0})
    names = [name for name, _, _ in ablations.missing(TOY, rows)]
    assert names == [f"{ARMS[1]}_s0", f"{ARMS[2]}_s0", *(f"{arm}_s1" for arm in ARMS)]
    half = rows[rows["flow_seed"] == 0]
    assert ablations.missing(TOY, half)[0][0] == f"{ARMS[0]}_s0"


def test_arms_and_seeds_may_grow_and_nothing_else(tmp_path: Path) -> None:
    claim(TOY, tmp_path)
    claim(replace(TOY, seeds=(0, 1, 2)), tmp_path)
    assert ablations.load(tmp_path).seeds == (0, 1, 2)
    with pytest.raises(ValueError, match="other settings"):
        claim(replace(TOY, num_steps=3), tmp_path)


@pytest.mark.parametrize("name", ABLATIONS)
def test_every_ablation_names_presets(name: str) -> None:
    for debug in (False, True):
        assert set(build(name, debug=debug).arms) <= set(PRESETS)


def test_page_and_table(tmp_path: Path) -> None:
    claim(TOY, tmp_path)
    results.write_table(tmp_path / "ablation.parquet", _table(_planted(0.01)), ablations.COLUMNS)
    page = write(tmp_path).read_text()
    assert "kl" in page and "FID, judge" in page
    lines = markdown(TOY, ablations.collect(tmp_path)).splitlines()
    assert len(lines) == 2 + len(ARMS)
    assert "| rFID, judge |" in lines[0] and "| FID, judge |" in lines[0]
    assert "| FID |" in markdown(TOY, results.empty(ablations.COLUMNS)), "without rows there is no judge"
    assert "-2.0" in lines[-1] and lines[-1].rstrip(" |").endswith("helps")


def test_the_committed_table_is_that_of_the_committed_rows() -> None:
    folder = Path(__file__).parents[2] / "results" / "ae_ablation"
    settings = ablations.load(folder)
    rows = ablations.balanced(ablations.collect(folder), settings.arms)
    assert (folder / "table.md").read_text() == markdown(settings, rows)
    assert settings == build("ae_ablation") and ablations.missing(settings, rows) == []


def test_a_folder_without_rows_says_so(tmp_path: Path) -> None:
    claim(TOY, tmp_path)
    assert "No rows yet" in write(tmp_path).read_text()
    with pytest.raises(ValueError, match="ablation.json"):
        ablations.load(tmp_path / "nowhere")
