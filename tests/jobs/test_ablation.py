"""One arm of an ablation, for real: a trained autoencoder, its row, and the same row again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from flowlab.core.files import write_json
from flowlab.jobs.ablation import run_arm
from flowlab.study import ablation as ablations


@pytest.mark.filterwarnings("ignore:Frechet distance")
def test_an_arm_leaves_a_row_per_flow_seed(tmp_path: Path) -> None:
    rehearsal = replace(ablations.build("ae_ablation", debug=True), flow_seeds=(0, 1))
    write_json(tmp_path / "ablation.json", {})
    arm = rehearsal.arms[0]
    run_arm(rehearsal, arm, 0, tmp_path)
    first = ablations.collect(tmp_path)
    assert first[["arm", "seed", "flow_seed"]].to_numpy().tolist() == [[arm, 0, 0], [arm, 0, 1]]
    assert first["fid"].nunique() == 2 and first["psnr"].nunique() == 1
    assert not (tmp_path / "runs" / f"{arm}_s0" / "cache").exists()
    kept, lost = (tmp_path / "rows" / f"{arm}_s0_f{flow_seed}.json" for flow_seed in (0, 1))
    before = kept.stat()
    lost.unlink()  # as by a kill before it
    run_arm(rehearsal, arm, 0, tmp_path)  # everything is resumed at its end
    assert kept.stat().st_ino == before.st_ino, "a row that is there is not computed again"
    same = ["fid", "psnr", "identity", "ae_seconds", "flow_seconds"]
    again = ablations.collect(tmp_path)
    assert again[same].equals(first[same]) and (again[["ae_seconds", "flow_seconds"]] > 0).all(axis=None)
