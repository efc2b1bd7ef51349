"""The cells, their order and names, validation, cost, and every preset."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowlab.core.config import config_id, from_dict, to_dict
from flowlab.study.grid import (
    AUTOENCODERS,
    DISTRIBUTIONS,
    PAPER_AUTOENCODERS,
    REPAS,
    SHIFTS,
    WIDE_SHIFTS,
    Arm,
    Cell,
    Study,
    cells,
    estimate,
    own_shift,
    run_id,
    validate,
)
from flowlab.study.studies import STUDIES, SWEEPS, build, sweep_cells, sweep_points, validate_sweep

# ---- cells -------------------------------------------------------------------------------------------------


def test_mini_is_the_papers_grid():
    study = build("mini")
    queue = cells(study)
    assert len(queue) == 240 and Counter(cell.seed for cell in queue) == {0: 120, 1: 120}
    assert 120 * len(study.sample_shifts) == 600  # rows per checkpoint and seed
    assert len(study.checkpoints) >= 4
    assert {cell.arm.trainshift for cell in queue} == set(SHIFTS)


def test_seed_0_finishes_first_and_priorities_count_up():
    queue = cells(build("mini"))
    assert [cell.seed for cell in queue] == [0] * 120 + [1] * 120
    assert [cell.priority for cell in queue] == list(range(240))


def test_early_cells_compare_every_autoencoder_around_the_base():
    arms = [cell.arm for cell in cells(build("mini"))]
    assert [arm.ae for arm in arms[:4]] == list(PAPER_AUTOENCODERS)
    assert {(arm.repa, arm.trainp, arm.trainshift) for arm in arms[:4]} == {("none", "ln", 1.0)}
    assert {(arm.repa, arm.trainp, arm.trainshift) for arm in arms[:16]} == {
        ("none", "ln", 1.0),
        ("teacher", "ln", 1.0),
        ("none", "ts", 1.0),
        ("none", "ln", 1.78),
    }


def test_run_id_is_readable_and_unique():
    arm = Arm(ae="flux2", repa="teacher", trainp="ln", trainshift=4.63)
    assert run_id(Cell(arm=arm, seed=0, priority=7)) == "flux2_teacher_ln_4.63_s0"
    for name in STUDIES:
        names = [cell.run_id for cell in cells(build(name))]
        assert len(set(names)) == len(names)
        assert all("/" not in name and " " not in name for name in names)


def test_run_id_does_not_depend_on_the_study():
    assert {c.run_id for c in cells(build("quickstart")) if c.arm.ae in PAPER_AUTOENCODERS} <= {
        c.run_id for c in cells(build("mini"))
    }


def test_quickstart_shows_each_trade_off():
    arms = {cell.arm for cell in cells(build("quickstart"))}
    assert len(arms) == 12 and {arm.ae for arm in arms} == set(AUTOENCODERS)
    assert Arm(ae="flux1", repa="teacher") in arms and Arm(ae="flux2", trainshift=2.95) in arms
    assert build("quickstart").sample_shifts == (1.0,), "six minutes hold no more"


def test_shift_law_reaches_beyond_the_papers_grid():
    study = build("shift_law")
    assert len(cells(study)) == 4 * 7 * 2 and study.train_shifts == study.sample_shifts == WIDE_SHIFTS
    assert study.backbone == "S" and study.num_steps == 5000 and len(study.seeds) >= 2


@pytest.mark.parametrize("name", STUDIES)
def test_every_preset_and_its_rehearsal_validates_and_survives_json(name):
    for study in (build(name), build(name, debug=True)):
        assert from_dict(Study, to_dict(study)) == study
        assert config_id(study) == config_id(from_dict(Study, to_dict(study)))
    assert build(name, debug=True).draft and len(cells(build(name, debug=True))) <= 2


@given(
    st.permutations(PAPER_AUTOENCODERS),
    st.lists(st.sampled_from(WIDE_SHIFTS), min_size=1, unique=True),
    st.lists(st.sampled_from(list(DISTRIBUTIONS)), min_size=1, unique=True),
    st.lists(st.sampled_from(list(REPAS)), min_size=1, unique=True),
)
def test_the_walk_visits_each_arm_once_base_first(aes, shifts, families, repas):
    study = Study(
        name="x",
        autoencoders=tuple(aes),
        train_shifts=tuple(shifts),
        distributions=tuple(families),
        repas=tuple(repas),
    )
    arms = [cell.arm for cell in cells(study)]
    assert len(set(arms)) == len(arms) == len(aes) * len(shifts) * len(families) * len(repas)
    assert arms[0] == Arm(ae=aes[0], repa=repas[0], trainp=families[0], trainshift=shifts[0])


# ---- the autoencoders' own shifts --------------------------------------------------------------------------


def test_own_shift_follows_the_rule_on_our_latents():
    found = {ae: own_shift(ae) for ae in PAPER_AUTOENCODERS}
    assert found == {"sd": 1.0, "flux1": 1.78, "flux2": 2.95, "rae": 4.63}
    with pytest.raises(ValueError, match="unknown autoencoder 'vqgan'; choose from: sd"):
        own_shift("vqgan")


def test_shifts_are_even_in_the_fourth_root():
    roots = [shift**0.25 for shift in WIDE_SHIFTS]
    steps = [b - a for a, b in itertools.pairwise(roots)]
    assert max(steps) - min(steps) < 0.002 and math.isclose(SHIFTS[-1], math.sqrt(48), abs_tol=0.01)


# ---- validation --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"autoencoders": ("vqgan",)}, "unknown autoencoder 'vqgan'; choose from: sd, flux1"),
        ({"repas": ("dino",)}, "unknown REPA setting 'dino'; choose from: none, teacher"),
        (
            {"distributions": ("uniform",)},
            "unknown timestep distribution 'uniform'; choose from: ts, ln, pln",
        ),
        ({"sampler": "ddim"}, "unknown sampler 'ddim'; choose from: euler, heun"),
        ({"optimiser": "sgd"}, "unknown optimiser 'sgd'; choose from: adamw, muon"),
        ({"train_shifts": (0.0,)}, "a shift of train_shifts is 0.0; it must be above 0"),
        ({"sample_shifts": (1.0, -2.0)}, "a shift of sample_shifts is -2.0; it must be above 0"),
        ({"sample_shifts": (float("nan"),)}, "a shift of sample_shifts is nan"),
        ({"num_samples": 0}, "num_samples is 0; it must be above 0"),
        ({"num_samples": 999}, "num_samples is 999; a distance in 64 features needs at least 1000"),
        ({"seeds": ()}, "seeds is empty"),
        ({"seeds": (0, 0)}, "seeds holds 0 twice"),
        ({"arms": ()}, "arms is empty"),
        ({"checkpoints": (200, 100, 800)}, r"checkpoints are \(200, 100, 800\); they must rise"),
        ({"checkpoints": (200, 400, 600, 700)}, "must rise from above 0 to num_steps = 800"),
        ({"checkpoints": (400, 800)}, "2 checkpoints draw no curve; give at least 4"),
        ({"ema_decay": 1.0}, "ema_decay is 1.0"),
        ({"learning_rate": -1.0}, "learning_rate is -1.0; it must be above 0"),
        ({"repa_weight": 0.0}, "repa_weight is 0.0; it must be above 0"),
        ({"repa_weight": -0.5}, "repa_weight is -0.5"),
        ({"reconstruction_images": -1}, "reconstruction_images is -1"),
    ],
)
def test_a_fault_is_one_line_with_value_and_remedy(changes, message):
    with pytest.raises(ValueError, match=message) as problem:
        validate(replace(Study(name="x"), **changes))
    assert "\n" not in str(problem.value)


def test_a_study_without_repa_has_no_use_for_its_weight():
    assert validate(replace(Study(name="x"), repas=("none",), repa_weight=0.0)).repa_weight == 0


def test_a_draft_may_be_small():
    assert validate(replace(Study(name="x"), draft=True, num_samples=10, checkpoints=(800,))).draft


def test_unknown_study_lists_the_names():
    with pytest.raises(ValueError, match="unknown study 'midi'; choose from: quickstart, mini, shift_law"):
        build("midi")


# ---- cost --------------------------------------------------------------------------------------------------


def test_estimate_adds_up():
    study = Study(
        name="x", arms=(Arm(ae="sd"), Arm(ae="sd", repa="teacher")), num_steps=800, sample_shifts=(1.0, 2.95)
    )
    found = estimate(
        replace(study, seconds_per_step=1.0, seconds_per_repa_step=2.0, seconds_per_evaluation=10.0)
    )
    assert found.train_seconds == 2400 and found.sample_seconds == 2 * 4 * 2 * 10
    assert found.wall_seconds == (2400 + 160) / 2
    assert estimate(study, []).wall_seconds == 0


# ---- the sampling sweep ------------------------------------------------------------------------------------


def test_the_sweep_samples_finished_runs_of_its_study():
    sweep, study = SWEEPS["mini"], build("mini")
    assert validate_sweep(sweep, study) is sweep
    chosen = sweep_cells(sweep, study)
    assert {cell.arm.ae for cell in chosen} == set(PAPER_AUTOENCODERS)
    assert {cell.run_id for cell in chosen} <= {cell.run_id for cell in cells(study)}
    assert len(sweep_points(sweep)) == 4 * 2 * 7 and max(sweep.sample_shifts) > max(study.sample_shifts)
    assert sweep_points(sweep)[0][:2] == ("euler", 10) and sweep_points(sweep)[-1][:2] == ("heun", 100)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"samplers": ("ddim",)}, "unknown sampler 'ddim'"),
        ({"num_sample_steps": (0,)}, "a value of num_sample_steps is 0"),
        ({"sample_shifts": (0.0,)}, "a value of sample_shifts is 0"),
        ({"train_shifts": (5.0,)}, "chooses no run of 'mini'"),
    ],
)
def test_a_wrong_sweep_is_one_line(changes, message):
    with pytest.raises(ValueError, match=message):
        validate_sweep(replace(SWEEPS["mini"], **changes), build("mini"))
