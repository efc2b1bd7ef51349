"""A sweep's job: rows of the model whose rows are there, and of no other."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from flowlab.core.config import to_dict
from flowlab.core.files import write_json
from flowlab.jobs.cell import run_cell, sampling_config
from flowlab.jobs.sweep import sweep_cell
from flowlab.study import results
from flowlab.study.grid import cells
from flowlab.study.studies import build

STUDY = replace(build("quickstart", debug=True), name="test")


def test_a_checkpoint_that_is_not_the_rows_model_is_refused(tmp_path: Path) -> None:
    folder, cell = tmp_path / "test", cells(STUDY)[0]
    write_json(folder / "study.json", to_dict(STUDY))
    run_cell(STUDY, cell, folder)
    rows_file = folder / "cells" / cell.run_id / "rows.jsonl"
    own = results.read_rows(rows_file)
    point = replace(sampling_config(STUDY), sampler="heun")
    sweep_cell(STUDY, cell, folder, [point])
    swept = results.read_rows(rows_file)
    assert len(swept) == len(own) + 1 and swept["sampler"].iloc[-1] == "heun"
    # the rows come from elsewhere, where the same run became another model
    rows_file.unlink()
    results.write_results(folder / "results.parquet", own.assign(fid=own["fid"] * 1.02))
    with pytest.raises(ValueError, match="as it is trained here has FID .* in a folder of their own"):
        sweep_cell(STUDY, cell, folder, [point])
    assert not rows_file.exists()
