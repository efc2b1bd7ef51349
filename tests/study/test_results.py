"""Rows survive a killed writer, a table survives the disk, foreign files are refused, gaps are found."""

from __future__ import annotations

import json
import math
import warnings
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pyarrow
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pandas.testing import assert_frame_equal
from pyarrow import parquet
from tests.study.planted import plant, plant_reconstruction

from flowlab.study.grid import Arm, Study, cells
from flowlab.study.results import (
    COLUMNS,
    OLDER,
    RECONSTRUCTION_COLUMNS,
    append_row,
    check_row,
    collect,
    empty,
    frame,
    merge,
    missing,
    next_jobs,
    planned,
    read_reconstruction,
    read_results,
    read_rows,
    write_reconstruction,
    write_results,
)
from flowlab.study.studies import build

STUDY = Study(
    name="x",
    arms=(Arm(ae="sd"), Arm(ae="rae", repa="teacher", trainshift=4.63)),
    num_steps=200,
    checkpoints=(100, 200),
    sample_shifts=(1.0, 2.95),
    seeds=(0, 1),
    draft=True,
)
MINI = Path(__file__).parents[2] / "results" / "mini" / "results.parquet"
ROW = plant(seeds=(0,), steps=(100,)).iloc[0].to_dict()


def planned_rows(study: Study = STUDY) -> pd.DataFrame:
    return frame(
        ROW
        | {
            "run_id": cell.run_id,
            "ae": cell.arm.ae,
            "repa": cell.arm.repa,
            "trainp": cell.arm.trainp,
            "trainshift": cell.arm.trainshift,
            "seed": cell.seed,
            "step": step,
            "sampleshift": shift,
        }
        for cell in cells(study)
        for step in study.checkpoints
        for shift in study.sample_shifts
    )


# ---- rows.jsonl --------------------------------------------------------------------------------------------


def test_the_first_seven_columns_are_the_stable_name():
    assert list(COLUMNS)[:7] == ["step", "ae", "repa", "trainp", "trainshift", "sampleshift", "fid"]
    assert list(COLUMNS)[7] == "features" and len(COLUMNS) == 32


def test_rows_come_back_as_written(tmp_path):
    path = tmp_path / "cells" / "a" / "rows.jsonl"
    assert read_rows(path).empty
    append_row(path, ROW)
    append_row(path, ROW | {"step": 200, "kid": math.nan, "guidance": 1})
    rows = read_rows(path)
    assert rows["step"].tolist() == [100, 200] and list(rows.columns) == list(COLUMNS)
    assert rows["guidance"].dtype == "float64" and math.isnan(rows["kid"].iloc[1])
    assert rows.iloc[0].to_dict() == ROW


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 10_000))
def test_a_kill_at_any_byte_costs_at_most_the_row_in_hand(tmp_path_factory, cut):
    path = tmp_path_factory.mktemp("cells") / "rows.jsonl"
    for step in (1, 2, 3):
        append_row(path, ROW | {"step": step})
    data = path.read_bytes()
    size = len(data) - min(cut, len(data) // 3)
    path.write_bytes(data[:size])
    survivors = data[:size].count(b"\n")
    assert read_rows(path)["step"].tolist() == [1, 2, 3][:survivors]
    append_row(path, ROW | {"step": 9})
    assert read_rows(path)["step"].tolist() == [*[1, 2, 3][:survivors], 9]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (b'{"step": 1, "ae\n', "line 2 is not JSON"),
        (b"\x00\xff\xfe\n", "line 2 is not JSON"),
        (b"[1, 2]\n", "line 2 holds list, not a row"),
        (b"\n", "line 2 is not JSON"),
        (json.dumps({k: v for k, v in ROW.items() if k != "fid"}).encode() + b"\n", "lacks the column 'fid'"),
        (json.dumps(ROW | {"extra": 1}).encode() + b"\n", "has the unknown column 'extra'"),
        (json.dumps(ROW | {"fid": "3"}).encode() + b"\n", "the column 'fid' holds '3'; expected float"),
        (
            json.dumps(ROW | {"fid": math.nan}).encode() + b"\n",
            "the column 'fid' holds nan; expected a finite",
        ),
        (json.dumps(ROW | {"step": 1.5}).encode() + b"\n", "the column 'step' holds 1.5; expected int"),
        (json.dumps(ROW | {"seed": True}).encode() + b"\n", "the column 'seed' holds True"),
    ],
)
def test_any_other_damage_is_one_line_that_names_the_place(tmp_path, damage, message):
    path = tmp_path / "rows.jsonl"
    append_row(path, ROW)
    with open(path, "ab") as file:
        file.write(damage)
    append_row(path, ROW | {"step": 300})
    with pytest.raises(ValueError, match=message) as problem:
        read_rows(path)
    assert "\n" not in str(problem.value) and "rows.jsonl line 2" in str(problem.value)


def test_a_row_of_another_schema_is_never_written(tmp_path):
    path = tmp_path / "rows.jsonl"
    with pytest.raises(ValueError, match="lacks the column 'kid'"):
        append_row(path, {k: v for k, v in ROW.items() if k != "kid"})
    assert not path.exists()
    assert list(check_row(dict(reversed(ROW.items())), "here")) == list(COLUMNS)


# ---- parquet -----------------------------------------------------------------------------------------------


def test_results_survive_the_disk(tmp_path):
    rows = frame(plant().to_dict("records"))
    write_results(tmp_path / "results.parquet", rows)
    assert_frame_equal(read_results(tmp_path / "results.parquet"), rows)
    write_results(tmp_path / "empty.parquet", empty())
    assert_frame_equal(read_results(tmp_path / "empty.parquet"), empty())
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_reconstruction_survives_the_disk(tmp_path):
    rows = frame(plant_reconstruction().to_dict("records"), RECONSTRUCTION_COLUMNS)
    write_reconstruction(tmp_path / "reconstruction.parquet", rows)
    assert_frame_equal(read_reconstruction(tmp_path / "reconstruction.parquet"), rows)


def foreign(change):
    table = pyarrow.Table.from_pandas(plant(seeds=(0,), steps=(100,)), preserve_index=False)
    return change(table)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.drop_columns(["seed"]), "lacks the column 'seed'"),
        (lambda t: t.append_column("note", [["x"] * len(t)]), "has the unknown column 'note'"),
        (
            lambda t: t.select([*reversed(t.column_names)]),
            "has the column 'kid_se' in place 1, which is 'step''s",
        ),
        (
            lambda t: t.set_column(6, "fid", t["fid"].cast("string")),
            "the column 'fid' holds string; expected double",
        ),
        (
            lambda t: t.set_column(0, "step", t["step"].cast("double")),
            "the column 'step' holds double; expected int64",
        ),
    ],
)
def test_another_schema_is_an_error_that_names_the_column(tmp_path, change, message):
    path = tmp_path / "results.parquet"
    parquet.write_table(foreign(change), path)
    with pytest.raises(ValueError, match=message) as problem:
        read_results(path)
    assert str(path) in str(problem.value) and "\n" not in str(problem.value)


def test_a_table_of_another_schema_is_never_written(tmp_path):
    with pytest.raises(ValueError, match="lacks the column 'psnr'"):
        write_reconstruction(tmp_path / "r.parquet", plant_reconstruction().drop(columns="psnr"))
    with pytest.raises(ValueError, match="has the unknown column 'lnfid'"):
        write_results(tmp_path / "r.parquet", frame([ROW]).assign(lnfid=0.0))
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_or_absent_file_is_one_line(tmp_path):
    path = tmp_path / "results.parquet"
    with pytest.raises(ValueError, match="does not exist; `flowlab study run` writes it"):
        read_results(path)
    write_results(path, frame(plant().to_dict("records")))
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(ValueError, match="cannot be read as parquet") as problem:
        read_results(path)
    assert "\n" not in str(problem.value)


@pytest.mark.parametrize("absent", [["kid_se"], ["gate", "kid_se"]])
def test_rows_of_before_a_column_read_and_merge(tmp_path, absent):
    """As results/mini has them, and a run in progress writes them."""
    assert list(COLUMNS)[-len(OLDER) :] == list(OLDER), "older files hold the columns before these"
    known = read_results(MINI)
    assert list(known.columns) == list(COLUMNS) and known["kid_se"].dtype == "float64"
    before = planned(build("mini"), known[known["seed"] == 0])  # later seeds and a sweep may know both
    assert set(before["gate"]) == {"unknown"} and before["kid_se"].isna().all()
    rows = planned_rows()
    older = rows.drop(columns=absent)
    parquet.write_table(pyarrow.Table.from_pandas(older.iloc[:3]), tmp_path / "results.parquet")
    path = tmp_path / "cells" / "a" / "rows.jsonl"
    append_row(path, rows.iloc[3].to_dict())
    with open(path, "a") as file:
        file.write(json.dumps(older.iloc[4].to_dict()) + "\n")
    found = collect(tmp_path)
    assert sorted(found["gate"]) == (["passed"] + 4 * ["unknown"] if "gate" in absent else 5 * ["passed"])
    assert found["kid_se"].isna().sum() == 4
    write_results(tmp_path / "results.parquet", found)
    assert_frame_equal(read_results(tmp_path / "results.parquet"), found)


@pytest.mark.parametrize("column", OLDER)
def test_a_row_without_one_is_never_written(tmp_path, column):
    with pytest.raises(ValueError, match=f"lacks the column '{column}'"):
        append_row(tmp_path / "rows.jsonl", {k: v for k, v in ROW.items() if k != column})


# ---- merging -----------------------------------------------------------------------------------------------


def test_duplicates_keep_the_first_and_complain_only_if_they_differ():
    rows = planned_rows()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(merge([rows, rows])) == len(rows)
    other = rows.assign(fid=rows["fid"] * 2)
    with pytest.warns(UserWarning, match="differ: fid") as caught:
        merged = merge([rows, other])
    assert len(caught) == len(rows)
    assert merged["fid"].tolist() == pytest.approx(rows["fid"].tolist())


def test_two_configurations_of_one_run_do_not_mix():
    rows = planned_rows()
    with pytest.raises(ValueError, match="run rae_teacher_ln_4.63_s0 has rows of 2 configurations"):
        merge([rows, rows.assign(config_id="other", step=rows["step"] + 1)])


@settings(max_examples=20, deadline=None)
@given(st.randoms(use_true_random=False), st.integers(1, 5))
def test_merging_is_blind_to_order_and_parts(random, num_parts):
    rows = planned_rows()
    places = list(range(len(rows)))
    random.shuffle(places)
    parts = [rows.iloc[places[i::num_parts]] for i in range(num_parts)]
    assert_frame_equal(merge(parts), merge([rows]))


def test_collect_reads_cells_then_the_table_then_nothing(tmp_path):
    assert_frame_equal(collect(tmp_path), empty())
    rows = planned_rows()
    write_results(tmp_path / "results.parquet", rows.iloc[:3])
    assert len(collect(tmp_path)) == 3
    for row in rows.to_dict("records"):
        append_row(tmp_path / "cells" / row["run_id"] / "rows.jsonl", row)
    assert_frame_equal(collect(tmp_path), merge([rows]))


# ---- what is missing ---------------------------------------------------------------------------------------


def test_nothing_done_means_everything_missing():
    assert len(missing(STUDY, empty())) == 4 * 2 * 2
    jobs = next_jobs(STUDY, empty())
    assert [job.run_id for job in jobs] == [cell.run_id for cell in cells(STUDY)]
    assert {job.until_step for job in jobs} == {200}


def test_everything_done_means_no_job():
    assert missing(STUDY, planned_rows()) == [] and next_jobs(STUDY, planned_rows()) == []


@settings(max_examples=30, deadline=None)
@given(st.sets(st.integers(0, 15)))
def test_missing_is_the_complement_of_what_is_there(absent):
    rows = planned_rows()
    kept = rows.drop(index=list(absent))
    found = missing(STUDY, kept)
    gone = rows.loc[sorted(absent)]
    assert {(m.cell.run_id, m.step, m.sampleshift) for m in found} == set(
        zip(gone["run_id"], gone["step"], gone["sampleshift"], strict=True)
    )
    assert sum(len(job.missing) for job in next_jobs(STUDY, kept)) == len(absent)


def test_a_job_stops_at_its_last_missing_checkpoint():
    rows = planned_rows()
    first = rows["run_id"].iloc[0]
    kept = rows[~((rows["run_id"] == first) & (rows["step"] == 100) & (rows["sampleshift"] == 2.95))]
    (job,) = next_jobs(STUDY, kept)
    assert (job.run_id, job.until_step, len(job.missing)) == (first, 100, 1)


def test_a_longer_study_asks_for_more_and_another_sampler_does_not_count():
    longer = replace(STUDY, num_steps=300, checkpoints=(100, 200, 300))
    assert {item.step for item in missing(longer, planned_rows())} == {300}
    sweep = planned_rows().assign(sampler="heun")
    assert len(missing(STUDY, sweep)) == 16
