"""Planted effects turn each verdict; no effect and missing rows leave it undecided."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.study.planted import FAMILY, PUBLISHED_LIKE, plant, plant_reconstruction

from flowlab.study.claims import CLAIMS, Verdict, judge
from flowlab.study.contrasts import (
    CHOSEN_PAIR,
    SINGLE_PAIR,
    gap_above,
    held_out_best,
    level_gap,
    main_protocol,
    pair_noise,
    pooled,
)
from flowlab.study.coverage import Block, cover
from flowlab.study.grid import SHIFTS

CURVED = {ae: (fid, train, train + 0.9, 0.4) for ae, (fid, train, _, _) in PUBLISHED_LIKE.items()}
FLAT = dict.fromkeys(PUBLISHED_LIKE, (5.0, 0.0, 0.0, 0.0))


def status(number: int, rows: pd.DataFrame, reconstruction: pd.DataFrame | None = None) -> str:
    return verdict(number, rows, reconstruction).status


def verdict(number: int, rows: pd.DataFrame, reconstruction: pd.DataFrame | None = None) -> Verdict:
    (found,) = judge(rows, reconstruction, claims=CLAIMS[number - 1 : number])
    return found


# ---- each verdict in both directions -----------------------------------------------------------------------


def test_the_published_effects_hold():
    verdicts = judge(plant(), plant_reconstruction())
    assert [v.status for v in verdicts[:6]] == ["holds"] * 6
    assert all(v.low > 1 and not v.missing and v.dataset == "digits" for v in verdicts[:6])
    assert status(7, plant(aes=CURVED)) == "holds"


@pytest.mark.parametrize(
    ("number", "rows", "expected"),
    [
        (1, {"family": {"ts": 1.0, "ln": 1.35, "pln": 1.35}}, "does not hold"),
        (1, {"family": {"ts": 1.0, "ln": 1.02, "pln": 1.02}}, "undecided"),
        (2, {"repa": 1.2}, "does not hold"),
        (2, {"repa": 0.99}, "undecided"),
        (3, {"repa": 2.5}, "does not hold"),
        (3, {"repa": 1.1, "family": {"ts": 1.0, "ln": 1.0, "pln": 1.0}}, "undecided"),
        (4, {"aes": PUBLISHED_LIKE | {"flux2": (15.0, *PUBLISHED_LIKE["flux2"][1:])}}, "does not hold"),
        (4, {"aes": PUBLISHED_LIKE | {"flux2": (0.8, *PUBLISHED_LIKE["flux2"][1:])}}, "does not hold"),
        (5, {"curve": 0.01}, "does not hold"),
        (5, {"aes": {ae: (*law[:3], 0.25) for ae, law in PUBLISHED_LIKE.items()}}, "does not hold"),
        (6, {"aes": PUBLISHED_LIKE | {"sd": (2.0, *PUBLISHED_LIKE["sd"][1:])}}, "does not hold"),
        (7, {"aes": dict.fromkeys(PUBLISHED_LIKE, (5.0, 1.5, 0.2, 0.4))}, "does not hold"),
        (7, {"aes": FLAT}, "undecided"),
    ],
)
def test_planted_effects_turn_the_verdict(number, rows, expected):
    assert status(number, plant(**rows), plant_reconstruction()) == expected


def test_the_perceptual_order_alone_can_fail_claim_6():
    wrong = plant_reconstruction({"flux2": 0.35, "flux1": 0.25, "sd": 0.9, "rae": 1.6})
    found = verdict(6, plant(), wrong)
    assert found.status == "does not hold"
    assert "perceptual distance of flux1 over flux2" in found.reason


def test_autoencoder_claims_name_their_limit():
    for found in judge(plant(), plant_reconstruction()):
        assert ("one training of each autoencoder" in found.reason) == found.claim.about_autoencoders


def test_no_effect_is_rarely_a_verdict():
    family, decided = dict.fromkeys(FAMILY, 1.0), 0
    base = plant(aes=FLAT, family=family, repa=1.0, noise=0.0, curve=0.0, steps=(100,))
    for seed in range(8):
        random = np.random.default_rng(seed)
        runs = {run: random.normal(0, 0.1) for run in base["run_id"].unique()}
        noise = base["run_id"].map(runs) + random.normal(0, 0.015, len(base))
        verdicts = judge(base.assign(fid=base["fid"] * np.exp(noise)))
        decided += sum(v.status != "undecided" for v in verdicts if v.claim.number in (1, 2, 3, 7))
    assert decided <= 2  # of 32


# ---- incomplete rows ---------------------------------------------------------------------------------------


def test_missing_rows_leave_it_undecided_and_are_listed():
    rows = plant()
    hole = (rows["ae"] == "rae") & (rows["trainp"] == "pln") & (rows["trainshift"] == 6.93)
    found = verdict(2, rows[~hole])
    assert found.status == "undecided"
    assert found.missing == (
        "rae none pln, seed 0: 5 of 25 rows",
        "rae teacher pln, seed 0: 5 of 25 rows",
    )
    assert found.statistic > 1 and "sign, not a verdict" in found.reason


def test_an_unfinished_second_seed_does_not_hide_the_first():
    rows = plant()
    found = verdict(2, rows[(rows["seed"] == 0) | (rows["trainshift"] == 1.0)])
    assert found.status == "holds" and "one seed" in found.reason


def test_quickstart_rows_give_partial_verdicts():
    rows = plant(seeds=(0,))
    some = rows[
        (rows["trainp"] == "ln")
        & rows["trainshift"].isin([1.0, 2.95])
        & rows["sampleshift"].isin([1.0, 2.95])
    ]
    verdicts = judge(some)
    assert [v.status for v in verdicts] == ["undecided"] * 7
    assert all(v.missing for v in verdicts)
    assert math.isfinite(verdicts[1].statistic) and math.isnan(verdicts[0].statistic)


def test_claim_6_asks_for_the_reconstruction_table():
    found = verdict(6, plant())
    assert found.status == "undecided" and "reconstruction of sd" in found.missing


def test_no_rows_no_verdicts_and_one_row_no_crash():
    assert judge(plant().iloc[:0]) == []
    assert [v.status for v in judge(plant().iloc[:1])] == ["undecided"] * 7


def test_each_data_set_is_judged_alone():
    rows = pd.concat([plant(), plant(repa=1.2, dataset="photos")])
    verdicts = {v.dataset: v.status for v in judge(rows) if v.claim.number == 2}
    assert verdicts == {"digits": "holds", "photos": "does not hold"}


def test_shift_law_rows_reach_claim_7():
    rows = plant(aes=CURVED, shifts=(*SHIFTS, 9.99, 13.97))
    rows = rows[(rows["trainp"] == "ln") & (rows["repa"] == "none")]
    assert status(7, rows) == "holds"


def test_the_sampling_sweep_stays_outside():
    rows = plant()
    sweep = rows.iloc[:200].assign(sampler="heun", fid=1e-3)
    assert [v.statistic for v in judge(pd.concat([rows, sweep]))] == pytest.approx(
        [v.statistic for v in judge(rows)], nan_ok=True
    )


def test_claims_are_the_seven():
    assert [claim.number for claim in CLAIMS] == list(range(1, 8))
    assert all(claim.sentence and claim.published and claim.test and claim.band for claim in CLAIMS)


# ---- the pieces --------------------------------------------------------------------------------------------


def differences(values: list[tuple[int, int, float]]) -> pd.DataFrame:
    return pd.DataFrame(values, columns=["seed", "block", "difference"])


def test_one_pair_decides_nothing_below_a_quarter():
    inside, outside = (pooled("x", differences([(0, 0, math.log(ratio))])) for ratio in (1.24, 1.26))
    assert inside and outside and inside.low < 0 < outside.low


def test_many_pairs_use_student():
    random = np.random.default_rng(0)
    values = [(seed, block, 0.5 + random.normal(0, 0.4)) for seed in (0, 1) for block in range(15)]
    found = pooled("x", differences(values))
    blocks = differences(values).groupby("block")["difference"].mean()
    assert found and found.high - found.mean == pytest.approx(
        2.144787 * blocks.std() / math.sqrt(15), rel=1e-5
    )
    assert pooled("x", differences([])) is None


@settings(max_examples=50, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 2), st.integers(0, 7), st.floats(-3, 3)),
        min_size=1,
        max_size=30,
        unique_by=lambda value: value[:2],
    ),
    st.floats(-2, 2),
)
def test_pooled_identities(values, move):
    """Shift moves it, sign mirrors it, and a decided sign is the sign of every seed's mean."""
    found = pooled("x", differences(values))
    moved = pooled("x", differences([(s, b, v + move) for s, b, v in values]))
    mirrored = pooled("x", differences([(s, b, -v) for s, b, v in values]))
    assert found and moved and mirrored
    assert moved.mean == pytest.approx(found.mean + move, abs=1e-9)
    assert mirrored.high == pytest.approx(-found.low, abs=1e-9)
    assert found.high - found.mean >= SINGLE_PAIR / math.sqrt(len(values)) - 1e-12
    if found.low > 0:
        assert (differences(values).groupby("seed")["difference"].mean() > 0).all()
    assert found.widened(5).low <= found.low and found.widened(1).low == pytest.approx(found.low)


def test_widened_intervals_are_those_of_the_smaller_level():
    """Student's over blocks where it rules, the normal's where the a-priori noise does."""
    blocks = [0.1, 0.9, -0.4, 2.0, 0.3, 1.4, 0.2, -0.1]
    wide = pooled("x", differences([(0, i, value) for i, value in enumerate(blocks)]), floor=1e-6)
    narrow = pooled("x", differences([(0, i, 0.5) for i in range(8)]))
    assert wide and narrow
    student = scipy.stats.t.interval(1 - 0.05 / 9, 7, np.mean(blocks), scipy.stats.sem(blocks))
    assert (wide.widened(9).low, wide.widened(9).high) == pytest.approx(student, rel=1e-6)
    factor = scipy.stats.norm.ppf(1 - 0.025 / 9) / scipy.stats.norm.ppf(0.975)
    assert narrow.widened(9).high - 0.5 == pytest.approx(factor * SINGLE_PAIR / math.sqrt(8), rel=1e-6)


def test_choosing_and_scoring_on_other_seeds_removes_the_winners_curse():
    random, chosen, greedy = np.random.default_rng(0), [], []
    for _ in range(60):
        values = random.normal(0, 0.1, (150, 2))
        rows = pd.DataFrame(
            [{"trainshift": i, "seed": seed, "lnfid": values[i, seed]} for i in range(150) for seed in (0, 1)]
        )
        chosen.append(held_out_best(rows, ["trainshift"]).mean())
        greedy.append(rows.groupby("seed")["lnfid"].min().mean())
    assert abs(np.mean(chosen)) < 0.03  # the truth is 0
    assert np.mean(greedy) < -0.2


def test_held_out_best_ignores_settings_that_a_seed_lacks():
    rows = pd.DataFrame(
        {"trainshift": [1.0, 1.0, 2.0], "seed": [0, 1, 1], "lnfid": [1.0, 1.2, 0.1]},
    )
    assert held_out_best(rows, ["trainshift"]).to_dict() == {0: 1.0, 1: 1.2}
    assert held_out_best(rows.iloc[:0]).empty


def test_noise_is_never_below_the_prior_and_grows_with_the_seeds():
    assert pair_noise(main_protocol(plant(noise=0.001))) == CHOSEN_PAIR
    assert pair_noise(main_protocol(plant(noise=0.3))) > 2 * CHOSEN_PAIR
    assert pair_noise(main_protocol(plant(seeds=(0,)))) == CHOSEN_PAIR


def test_level_gap_reads_the_planted_factor():
    rows = main_protocol(plant(noise=0.0))
    gap = level_gap(rows[rows["ae"] == "sd"], "trainp")
    assert gap.to_numpy() == pytest.approx(math.log(1.35))
    assert level_gap(rows.iloc[:0], "trainp").empty


def test_gap_above_is_nan_on_the_edge():
    edge = {"sd": (5.0, math.log(20.0), math.log(20.0), 0.3)}
    rows = main_protocol(plant(aes=edge))
    block = rows[(rows["repa"] == "none") & (rows["trainp"] == "ln") & (rows["step"] == 200)]
    assert gap_above(block).isna().all()


def test_cover_prefers_complete_seeds():
    rows = plant(seeds=(0, 1, 2))
    block = Block(
        aes=("sd",),
        repas=("none",),
        families=("ln",),
        train_shifts=SHIFTS,
        sample_shifts=SHIFTS,
        steps=(200,),
    )
    hole = (rows["seed"] == 1) & (rows["ae"] == "sd") & (rows["trainp"] == "ln") & (rows["step"] == 200)
    partial = rows.drop(rows[hole].index)
    found = cover(partial, [block])
    assert found.seeds == (0, 2) and not found.missing and len(found.rows) == 50
