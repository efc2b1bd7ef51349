"""Planted effects come back out of the tables, with the columns that the docstrings promise."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.study.planted import FAMILY, PUBLISHED_LIKE, plant, plant_reconstruction

from flowlab.study import published
from flowlab.study.analysis import (
    CURVES,
    FACTORS,
    beside_published,
    best_parameters,
    curves,
    fidelity,
    seed_means,
    sensitivity,
    sensitivity_levels,
    shared_settings,
)
from flowlab.study.effects import EFFECTS, comparisons, optimum_shifts, paired, repa_cost, sweep_optima
from flowlab.study.grid import PAPER_AUTOENCODERS, SHIFTS, own_shift
from flowlab.study.results import RECONSTRUCTION_COLUMNS, empty

ROWS = plant()
EXACT = plant(noise=0.0)


def quickstart_rows() -> pd.DataFrame:
    rows = ROWS[(ROWS["seed"] == 0) & (ROWS["trainp"] == "ln") & ROWS["trainshift"].isin([1.0, 2.95])]
    return rows[rows["sampleshift"].isin([1.0, 2.95])]


# ---- best parameters and curves ----------------------------------------------------------------------------


def test_seed_means_has_one_row_per_setting():
    table = seed_means(ROWS)
    assert len(table) == 2 * 4 * 2 * 3 * 5 * 5 and set(table["num_seeds"]) == {2}
    assert ((table["fid_low"] <= table["fid"]) & (table["fid"] <= table["fid_high"])).all()
    setting = (
        "ae == 'sd' and repa == 'none' and trainp == 'ln' and step == 200 and trainshift == sampleshift == 1"
    )
    one, line = ROWS.query(setting), table.query(setting).iloc[0]
    assert len(one) == 2
    assert line["fid"] == pytest.approx(one["fid"].mean())
    assert line["fid_se"] == pytest.approx(np.sqrt((one["fid_se"] ** 2).sum()) / 2)


def test_best_parameters_finds_the_planted_setting():
    table = best_parameters(ROWS)
    assert len(table) == 2 * 4 * 2
    best = table[table["step"] == 200].set_index(["ae", "repa"])
    assert best.at[("rae", "none"), "trainshift"] == 4.63 and best.at[("rae", "none"), "sampleshift"] == 6.93
    assert best.at[("flux2", "teacher"), "trainshift"] == 2.95
    assert set(table["trainp"]) <= {"ln", "pln"}
    assert (table["num_tied"] >= 1).all()


def test_best_is_the_minimum_and_held_out_never_flatters():
    table = best_parameters(plant(noise=0.15))
    means = seed_means(plant(noise=0.15)).groupby(["step", "ae", "repa"])["lnfid"].min()
    assert table.set_index(["step", "ae", "repa"])["lnfid"].to_dict() == pytest.approx(means.to_dict())
    assert (table["held_out"] >= table["fid_low"] - 1e-9).mean() > 0.9
    assert table["held_out"].mean() > table["fid"].mean()
    assert best_parameters(plant(seeds=(0,)))["held_out"].isna().all()


@pytest.mark.parametrize("seeds", [(0,), (0, 1)])
def test_a_seed_in_progress_changes_nothing_held_out(seeds):
    whole = plant(noise=0.15, seeds=seeds)
    late = plant(noise=0.15, seeds=(2,))
    rows = pd.concat([whole, late[(late["trainshift"] == 1.0) & (late["trainp"] != "ln")]])
    for function in (best_parameters, sensitivity, lambda table: fidelity(table, plant_reconstruction())):
        held_out, alone = function(rows)["held_out"], function(whole)["held_out"]
        assert held_out.isna().all() if len(seeds) == 1 else held_out.tolist() == alone.tolist()


def test_curves_hold_best_no_shift_and_own_shift():
    table = curves(ROWS)
    assert set(table["curve"]) == set(CURVES) and len(table) == 3 * 4 * 2 * 2
    wide = table.pivot(index=["ae", "repa", "step"], columns="curve", values="lnfid")
    assert (wide["best"] <= wide["no shift"]).all() and (wide["best"] <= wide["own shift"]).all()
    own = table[(table["curve"] == "own shift") & (table["ae"] == "rae")]
    assert set(own["trainshift"]) == set(own["sampleshift"]) == {own_shift("rae")}


def test_a_curve_without_rows_is_left_out():
    rows = ROWS[(ROWS["ae"] == "rae") & (ROWS["trainshift"] < 4)]
    assert set(curves(rows)["curve"]) == {"best", "no shift"}


# ---- sensitivity -------------------------------------------------------------------------------------------


def test_sensitivity_is_the_planted_gap_in_both_readings():
    table = sensitivity(EXACT).set_index(["ae", "factor"])
    for ae in PAPER_AUTOENCODERS:
        line = table.loc[(ae, "trainp")]
        assert (line["best_level"], line["worst_level"]) == ("ln", "ts")
        assert line["of_worst"] == pytest.approx(1 - FAMILY["ln"] / FAMILY["ts"])
        assert line["of_best"] == pytest.approx(FAMILY["ts"] / FAMILY["ln"] - 1)
        assert line["held_out"] == pytest.approx(line["of_worst"])
    assert table.at[("sd", "sampleshift"), "of_worst"] < 0.05 < table.at[("rae", "sampleshift"), "of_worst"]


def test_sensitivity_counts_what_it_drops():
    table = sensitivity(EXACT).set_index(["ae", "factor"])
    dropped = EXACT[(EXACT["ae"] == "rae") & (EXACT["repa"] == "none") & (EXACT["step"] == 200)]
    expected = int((dropped["fid"] > 10 * dropped["fid"].min()).sum())
    assert table.at[("rae", "trainp"), "num_dropped"] == expected > 0


def test_noise_alone_fools_the_range_but_not_the_held_out_one():
    flat = dict.fromkeys(PUBLISHED_LIKE, (5.0, 0.0, 0.0, 0.0))
    rows = plant(aes=flat, family=dict.fromkeys(FAMILY, 1.0), curve=0.0, noise=0.1)
    table = sensitivity(rows)
    shift = table[table["factor"] == "trainshift"]
    assert shift["of_worst"].mean() > 0.08 and abs(shift["held_out"].mean()) < 0.08


def test_levels_cover_each_factor():
    table = sensitivity_levels(ROWS)
    counts = table.groupby("factor")["level"].nunique().to_dict()
    assert counts == {"trainp": 3, "trainshift": 5, "sampleshift": 5} and set(counts) == set(FACTORS)
    assert (table["fid_low"] <= table["fid_high"]).all()


# ---- fitted optima -----------------------------------------------------------------------------------------


def test_fitted_optima_contain_the_planted_ones():
    table = optimum_shifts(ROWS).set_index(["ae", "kind", "trainp"])
    for ae in ("flux1", "flux2", "rae"):
        line = table.loc[(ae, "trainshift", "all")]
        assert line["status"] == "interior"
        assert line["low"] <= math.exp(PUBLISHED_LIKE[ae][1]) <= line["high"]
        assert line["high"] / line["low"] < 1.1 and line["num_blocks"] == 12
    assert table.at[("rae", "trainshift", "ln"), "num_blocks"] == 4
    assert table.at[("rae", "trainshift", "all"), "rule"] == 4.0


def test_an_optimum_beyond_the_grid_says_so():
    rows = plant(aes={"rae": (2.0, math.log(40.0), math.log(40.0), 0.3)})
    table = optimum_shifts(rows)
    assert set(table["status"]) == {"at high edge"} and table["alpha"].to_numpy() == pytest.approx(6.93)


def test_two_shifts_have_no_fit():
    assert optimum_shifts(quickstart_rows()).empty
    assert list(optimum_shifts(quickstart_rows()).columns) == list(optimum_shifts(ROWS).columns)


def test_sweep_optima_see_the_best_shift_fall_with_steps():
    parts = []
    for steps, peak in ((10, 1.5), (50, 0.9)):
        ae = {"flux2": (4.0, 0.5, peak, 0.3)}
        rows = plant(aes=ae, steps=(200,)).assign(num_steps=steps)
        parts += [rows.assign(sampler=sampler) for sampler in ("euler", "heun")]
    table = sweep_optima(pd.concat(parts)).set_index(["sampler", "num_steps"])
    assert len(table) == 4
    assert table.at[("euler", 10), "alpha"] == pytest.approx(math.exp(1.5), rel=0.05)
    assert table.at[("heun", 50), "alpha"] == pytest.approx(math.exp(0.9), rel=0.05)


# ---- paired effects ----------------------------------------------------------------------------------------


@settings(max_examples=10, deadline=None)
@given(st.floats(0.5, 2.0))
def test_paired_returns_the_planted_ratio(repa):
    table = paired(plant(repa=repa, noise=0.0, steps=(100,)), "repa", "teacher", "none")
    assert table["ae"].tolist() == ["sd", "flux1", "flux2", "rae", "all"]
    assert table["ratio"].to_numpy() == pytest.approx(1 / repa)
    assert ((table["low"] < table["ratio"]) & (table["ratio"] < table["high"])).all()
    assert table["num_pairs"].tolist() == [30, 30, 30, 30, 120]


def test_pairs_share_everything_else():
    half = ROWS[~((ROWS["repa"] == "teacher") & (ROWS["trainshift"] > 2))]
    assert set(paired(half, "repa", "teacher", "none")["num_pairs"]) == {12, 48}
    assert paired(half, "repa", "dino", "none").empty


def test_pooling_over_autoencoders_counts_autoencoders():
    """One autoencoder that disagrees widens "all", however many cells it has."""
    worse = (ROWS["ae"] == "sd") & (ROWS["repa"] == "teacher")
    rows = ROWS.assign(fid=ROWS["fid"].mask(worse, ROWS["fid"] * 3))
    line = paired(rows, "repa", "teacher", "none").set_index("ae").loc["all"]
    assert line["low"] < 1 < line["high"]


def test_comparisons_hold_what_the_rows_hold():
    table = comparisons(ROWS)
    assert {"REPA", "logit-normal against uniform", "training shift 2.95 against 1"} <= set(table["effect"])
    assert "semantic alignment, 16 channels" not in set(table["effect"])
    control = plant(aes=PUBLISHED_LIKE | {"flux1_semantic": (5.5, *PUBLISHED_LIKE["flux1"][1:])}, noise=0.0)
    table = comparisons(control).set_index("effect")
    line = table.loc["semantic alignment, 16 channels"]
    assert line["ratio"] == pytest.approx(2.0) and line["ae"] == "flux1_semantic / flux1"
    assert set(table.index) <= set(EFFECTS)
    assert comparisons(ROWS.iloc[:1]).empty


# ---- the trade-off, and the published numbers --------------------------------------------------------------


def test_no_autoencoder_wins_by_being_tried_more_often():
    """SD lacks a training shift, so that no other autoencoder may be judged at it either."""
    rows = quickstart_rows()
    rows = rows[(rows["ae"] != "sd") | (rows["trainshift"] == 1.0)]
    last = rows[rows["step"] == rows["step"].max()]
    assert set(shared_settings(last)["trainshift"]) == {1.0} != set(last["trainshift"])
    table = fidelity(rows, empty(RECONSTRUCTION_COLUMNS))
    assert set(table["ae"]) == set(rows["ae"]) and (table["trainshift"] == 1.0).all()
    apart = last[(last["ae"] == "sd") | (last["trainshift"] != 1.0)]
    assert len(shared_settings(apart)) == len(apart), "nothing shared: each keeps its own"


def test_fidelity_joins_both_sides():
    table = fidelity(ROWS, plant_reconstruction())
    assert table["ae"].tolist() == list(PAPER_AUTOENCODERS)
    assert table["fid_base"].notna().all() and (table["fid"] <= table["fid_base"]).all()
    assert table.set_index("ae").at["flux2", "perceptual"] == 0.25
    bare = fidelity(quickstart_rows(), empty(RECONSTRUCTION_COLUMNS))
    assert len(bare) == 4 and bare["psnr"].isna().all() and bare["held_out"].isna().all()


def test_published_numbers_agree_with_each_other():
    """The derived changes of Fig. 1: FLUX.2 against FLUX.1, SD and RAE."""
    gfid = published.of("gfid").set_index("ae")["value"]
    lpips = published.of("perceptual").set_index("ae")["value"]
    changes = {"flux1": (-0.6345, -0.2107), "sd": (-0.5209, -0.7197), "rae": (0.1926, -0.8406)}
    for ae, (generation, perceptual) in changes.items():
        assert gfid["flux2"] / gfid[ae] - 1 == pytest.approx(generation, abs=1e-4)
        assert lpips["flux2"] / lpips[ae] - 1 == pytest.approx(perceptual, abs=2e-4)
    assert published.of("psnr")["error"].notna().all()
    assert list(published.load().columns) == list(published.COLUMNS)
    with pytest.raises(ValueError, match="unknown published quantity 'is'; choose from: gfid, perceptual"):
        published.of("is")


def test_published_numbers_stand_beside_ours():
    table = beside_published(ROWS, plant_reconstruction())
    assert len(table) == len(published.load())
    ours = table.set_index(["quantity", "ae", "condition"])["ours"]
    assert ours["perceptual", "rae", ""] == 1.6 and ours["best_trainshift", "rae", ""] == 4.63
    assert ours["predicted_shift", "rae", ""] == 4.0 and math.isnan(
        ours["win_rate", "flux2", "one reference"]
    )
    assert ours["sensitivity_trainp", "sd", "300k steps no REPA"] == pytest.approx(0.26, abs=0.02)
    assert beside_published(quickstart_rows(), empty(RECONSTRUCTION_COLUMNS))["ours"].notna().any()


def test_the_results_folder_and_the_package_share_one_file():
    link = published.PATH.parents[3] / "results" / "published.csv"
    assert not link.exists() or link.samefile(published.PATH)


TABLES = [
    *(seed_means, best_parameters, curves, sensitivity, sensitivity_levels),
    *(optimum_shifts, comparisons, sweep_optima),
]


@pytest.mark.parametrize("function", TABLES)
def test_no_rows_give_an_empty_table_with_the_same_columns(function):
    table = function(empty())
    assert table.empty and list(table.columns) == list(function(ROWS).columns)
    assert function(ROWS.iloc[:1]).columns.equals(table.columns)


@pytest.mark.parametrize("function", [seed_means, best_parameters, curves, sensitivity_levels, comparisons])
def test_the_sampling_sweep_stays_outside(function):
    sweep = ROWS.iloc[:300].assign(sampler="heun", fid=1e-3)
    pd.testing.assert_frame_equal(function(pd.concat([ROWS, sweep])), function(ROWS))


def test_shifts_are_the_published_ones():
    assert set(published.of("best_trainshift")["value"]) <= set(SHIFTS)


def test_repa_cost_is_the_median_ratio_of_paired_training_times():
    rows = ROWS.copy()
    slow = rows["repa"] == "teacher"
    rows["train_seconds"] = np.where(slow, 13.0, 10.0)
    cost = repa_cost(rows)
    assert cost is not None and cost.ratio == pytest.approx(1.3) and cost.num_pairs > 10
    assert repa_cost(rows[~slow]) is None
    sweep = rows[rows["step"] == 200].assign(num_steps=10, train_seconds=math.nan)
    assert repa_cost(pd.concat([sweep, rows])) == cost, "a sweep trains nothing"
