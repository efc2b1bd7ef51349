"""The report's figures: they show the tables' numbers and name the features of every FID."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest
from tests.study import synthetic

from flowlab.study import analysis, effects
from flowlab.study.grid import SHIFTS
from flowlab.study.page.html import Panel
from flowlab.study.plots import factors, fidelity, shifts, training, words

LABEL = "FID, digits judge"
FEW = (1.0, 2.95, 6.93)


@pytest.fixture(scope="module")
def rows() -> pd.DataFrame:
    return synthetic.rows(aes=("sd", "flux1", "flux2_plain", "flux2"), shifts=FEW)


@pytest.fixture(scope="module")
def table(rows: pd.DataFrame) -> pd.DataFrame:
    return analysis.fidelity(rows, synthetic.reconstruction())


def _traces(panel: Panel, **meta: str) -> list[Any]:
    """The traces of a panel whose meta holds `meta`."""
    return [trace for trace in panel.figure.data if meta.items() <= (trace.meta or {}).items()]


def _texts(panel: Panel) -> list[str]:
    return [note.text for note in panel.figure.layout.annotations]


def _sheet(panels: list[Panel]) -> Iterator[dict[str, Any]]:
    for panel in panels:
        yield json.loads(panel.figure.to_json() or "")


# ---- Fig. 1 ------------------------------------------------------------------------------------------------


def test_learnability_shows_each_autoencoder_at_its_numbers(table):
    by_name = table.set_index("ae")
    for panel, column in zip(fidelity.learnability(table, LABEL), ("perceptual", "psnr"), strict=True):
        for ae in by_name.index:
            (point,) = _traces(panel, ae=ae)
            assert (point.x[0], point.y[0]) == (by_name.at[ae, column], by_name.at[ae, "fid"])
            assert point.error_x.array[0] == by_name.at[ae, f"{column}_se"]
            assert point.y[0] + point.error_y.array[0] == pytest.approx(by_name.at[ae, "fid_high"])
        assert panel.figure.layout.yaxis.title.text == LABEL


def test_learnability_writes_the_change_along_its_lines(table):
    by_name = table.set_index("ae")["fid"]
    change = f"{100 * (by_name['flux2'] / by_name['flux2_plain'] - 1):+.0f} %".replace("-", "−")
    for panel in fidelity.learnability(table, LABEL):
        assert change in _texts(panel)
        (point,) = _traces(panel, ae="flux2_plain")
        assert f"FLUX.2: {change}" in point.hovertemplate


def test_learnability_names_the_perceptual_features(table):
    assert fidelity.learnability(table, LABEL)[0].figure.layout.xaxis.title.text.endswith("digits teacher")


def test_learnability_leaves_out_what_has_no_reconstruction(rows):
    some = analysis.fidelity(rows, synthetic.reconstruction(("sd",)))
    panels = fidelity.learnability(some, LABEL)
    assert [len(_traces(panel, ae="sd")) for panel in panels] == [1, 1]
    assert not any(_traces(panel, ae="flux2") for panel in panels)
    assert fidelity.learnability(analysis.fidelity(rows, synthetic.reconstruction(())), LABEL) == []


def test_names_in_fig_1_do_not_cover_each_other(table):
    crowded = table.assign(perceptual=0.1, psnr=30.0, fid=10.0, fid_low=10.0, fid_high=10.0)
    for panel in fidelity.learnability(crowded, LABEL):
        names = [note for note in panel.figure.layout.annotations if note.text.startswith("<b>")]
        assert len({(note.xshift, note.yshift) for note in names}) == len(crowded)


# ---- Fig. 2 ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def curves(rows: pd.DataFrame) -> list[Panel]:
    return training.training(analysis.curves(rows), analysis.seed_means(rows), LABEL)


def test_training_has_a_panel_per_autoencoder_on_common_axes(curves):
    assert [panel.ae for panel in curves] == ["sd", "flux1", "flux2_plain", "flux2"]
    assert len({tuple(panel.figure.layout.yaxis.range) for panel in curves}) == 1
    assert {panel.figure.layout.yaxis.title.text for panel in curves} == {LABEL}


def test_training_shows_the_best_curve(rows, curves):
    best = analysis.curves(rows)
    best = best[(best["ae"] == "flux2") & (best["repa"] == "none") & (best["curve"] == "best")]
    (line,) = _traces(curves[3], curve="best", repa="none")
    assert list(line.x) == sorted(best["step"])
    assert list(line.y) == pytest.approx(best.sort_values("step")["fid"].tolist(), abs=1e-3)


def test_training_shows_the_whole_grid_behind(rows, curves):
    means = analysis.seed_means(rows)
    for repa in ("none", "teacher"):
        own = means[(means["ae"] == "sd") & (means["repa"] == repa)]
        (trace,) = _traces(curves[0], curve="grid", repa=repa)
        values = [value for value in trace.y if value is not None]
        assert sorted(values) == sorted(own["fid"].round(3))
        assert trace.y.count(None) == len(own) / own["step"].nunique()  # one gap after each line
        assert len(trace.text) == len(trace.y)


def test_training_draws_the_grid_first(curves):
    order = [trace.meta["curve"] for trace in curves[0].figure.data]
    assert order[:2] == ["grid", "grid"]
    assert order[-1] == "best"


def test_the_keys_name_only_curves_that_exist():
    assert [key.value for key in training.curve_keys(["best"])] == ["best", "grid"]


# ---- factors -----------------------------------------------------------------------------------------------


def test_sensitivity_panels_run_through_the_levels_in_order(rows):
    levels = analysis.sensitivity_levels(rows)
    panels = factors.sensitivity_panels({"none": levels}, LABEL)
    assert [panel.title for panel in panels] == list(analysis.FACTORS.values())
    (families,) = _traces(panels[0], ae="sd")
    assert list(families.x) == ["ts", "ln", "pln"]
    (line,) = _traces(panels[1], ae="flux2", repa="none")
    assert list(line.x) == list(FEW)
    own = levels[(levels["ae"] == "flux2") & (levels["factor"] == "trainshift")]
    assert sorted(line.y) == pytest.approx(sorted(own["fid"]), abs=1e-3)


def test_a_factor_with_one_level_is_left_out():
    some = synthetic.rows(aes=("sd",), seeds=(0,), families=("ln",), shifts=FEW)
    titles = [
        panel.title
        for panel in factors.sensitivity_panels({"none": analysis.sensitivity_levels(some)}, LABEL)
    ]
    assert titles == ["training shift", "sampling shift"]
    shares = factors.sensitivity_shares(analysis.sensitivity(some), _published())
    assert [panel.title for panel in shares] == titles


def test_shares_are_percentages_of_the_worst(rows):
    table = analysis.sensitivity(rows)
    panels = factors.sensitivity_shares(table, _published())
    line = table[(table["factor"] == "trainshift") & (table["ae"] == "flux2")].iloc[0]
    panel = panels[1]
    assert f"{100 * line['of_worst']:.0f} %" in _texts(panel)
    ours = [trace for trace in panel.figure.data if trace.y == ("FLUX.2", "FLUX.2")]
    assert ours[0].x[0] == pytest.approx(100 * line["of_worst"])
    assert panel.figure.data[0].x == (73.3,)  # the published bar


def _published() -> pd.DataFrame:
    return pd.DataFrame({"ae": ["flux2", "rae"], "factor": "trainshift", "value": [0.733, 0.615]})


def test_an_effect_that_divides_fid_is_a_negative_change():
    table = pd.DataFrame(
        {
            "effect": "REPA",
            "ae": ["sd", "all"],
            "ratio": 1.25,
            "low": 1.0,
            "high": 2.0,
            "num_pairs": 3,
            "num_seeds": 1,
        }
    )
    (panel,) = factors.effects(table, LABEL)
    point = panel.figure.data[0]
    assert point.x[0] == pytest.approx(-20)
    assert (point.error_x.arrayminus[0], point.error_x.array[0]) == pytest.approx((30, 20))
    assert LABEL in panel.figure.layout.xaxis.title.text


def test_effects_between_autoencoders_share_one_panel(rows):
    table = effects.comparisons(rows)
    panels = factors.effects(table, LABEL)
    assert [panel.wide for panel in panels].count(True) == 1
    assert len(panels) == table[~table["ae"].str.contains("/")]["effect"].nunique() + 1
    assert len({tuple(panel.figure.layout.xaxis.range) for panel in panels}) == 1


# ---- shifts ------------------------------------------------------------------------------------------------


def test_densities_integrate_to_one():
    panels = shifts.densities(SHIFTS)
    assert len(panels) == 3
    for panel in panels:
        for trace in panel.figure.data:
            assert np.trapezoid(trace.y, trace.x) == pytest.approx(1, abs=0.01)


def test_time_shifts_keep_the_ends_and_the_steps_add_up():
    curve, steps = shifts.time_shifts(SHIFTS)
    for trace in curve.figure.data:
        assert (trace.y[0], trace.y[-1]) == (0, 1)
    for trace in steps.figure.data:
        assert math.fsum(trace.y) == pytest.approx(1, abs=1e-3)
        assert len(trace.y) == 50


def _fit(**changes: object) -> dict[str, object]:
    base = {"ae": "sd", "kind": "trainshift", "trainp": "all", "alpha": 2.0, "low": 1.5, "high": 3.0}
    return base | {"status": "interior", "num_points": 9, "num_blocks": 2, "rule": 1.0} | changes


def test_an_open_interval_runs_out_of_the_grid():
    table = pd.DataFrame([_fit(low=0.0, high=math.inf, status="undetermined")])
    panel = shifts.optima(table, SHIFTS)[0]
    bar = panel.figure.data[1]
    low, high = (10**value for value in panel.figure.layout.xaxis.range)
    assert (bar.x[0], bar.x[2]) == pytest.approx((low, high))
    assert bar.marker.symbol == "circle-open"


def test_a_bounded_interval_is_drawn_as_it_is():
    bar = shifts.optima(pd.DataFrame([_fit()]), SHIFTS)[0].figure.data[1]
    assert bar.x == (1.5, 2.0, 3.0)
    assert bar.marker.symbol == "circle"


def test_sweep_lines_carry_sampler_and_steps():
    rows = synthetic.sweep_rows(("sd", "rae"))
    means = rows.groupby(["ae", "sampler", "num_steps", "sampleshift"], as_index=False)["fid"].mean()
    panels = shifts.sweep(means, LABEL)
    assert [panel.ae for panel in panels] == ["sd", "rae"]
    assert len(panels[0].figure.data) == 8
    (line,) = _traces(panels[0], sampler="heun", steps="25")
    assert list(line.x) == list(SHIFTS)
    assert len(shifts.step_keys(means)) == 4


def test_sweep_peaks_stay_on_the_grid():
    panels = shifts.sweep_peaks(effects.sweep_optima(synthetic.sweep_rows(("sd", "rae"))), SHIFTS)
    assert [panel.title for panel in panels] == ["Euler", "Heun"]
    for panel in panels:
        low, high = (10**value for value in panel.figure.layout.yaxis.range)
        for trace in panel.figure.data:
            ends = (
                np.array(trace.y) - np.array(trace.error_y.arrayminus),
                trace.y + np.array(trace.error_y.array),
            )
            assert (ends[0] >= low - 1e-9).all()
            assert (ends[1] <= high + 1e-9).all()


# ---- all of them -------------------------------------------------------------------------------------------


def test_a_fid_is_never_named_without_its_features(rows, table, curves):
    everything = [
        *curves,
        *fidelity.learnability(table, LABEL),
        *factors.effects(effects.comparisons(rows), LABEL),
    ]
    everything += factors.sensitivity_panels({"none": analysis.sensitivity_levels(rows)}, LABEL)
    for sheet in _sheet(everything):
        titles = [
            axis["title"].get("text", "") for key, axis in sheet["layout"].items() if key[1:5] == "axis"
        ]
        assert all("digits judge" in title for title in titles if "FID" in title)
    assert words.fid_label(rows) == LABEL


def test_one_row_is_enough_for_every_figure():
    one = synthetic.rows(
        aes=("rae",), seeds=(3,), families=("pln",), shifts=(2.0,), repas=("teacher",), steps=(50,)
    )
    assert len(one) == 1
    panels = training.training(analysis.curves(one), analysis.seed_means(one), LABEL)
    panels += fidelity.learnability(analysis.fidelity(one, synthetic.reconstruction()), LABEL)
    assert all(isinstance(panel.figure, go.Figure) for panel in panels)
    assert len(panels) == 3
    for sheet in _sheet(panels):
        assert "NaN" not in json.dumps(sheet)
