"""Scoring images of scenes, with a tiny random model between the truth and the floor."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from pyarrow import parquet
from tests.generate.small import save_flux2

from flowlab.evaluate import scenes, scenes_sheet, scenes_table
from flowlab.evaluate.scenes import KINDS, NUM_REFERENCES, SOURCES, SceneScoring, Scored
from flowlab.features import scene_reader
from flowlab.features.scene_reader import SceneReader
from flowlab.generate.pipeline import Pipeline

FEW = SceneScoring(num_prompts=5, num_steps=1)
BOTH = ("hex", "one_reference")


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    path = save_flux2(tmp_path_factory.mktemp("flux") / "model.safetensors")
    return Pipeline.from_pretrained(path, autoencoder="flux2_scenes")


@pytest.fixture(scope="module")
def reader() -> SceneReader:
    return scene_reader.load()


@pytest.fixture(scope="module")
def results(pipeline: Pipeline, reader: SceneReader) -> list[Scored]:
    return list(scenes.evaluate(pipeline, reader, tuple(KINDS), FEW, progress=False))


def perfect(result: Scored) -> Scored:
    return replace(result, judged={**result.judged, "model": result.judged["truth"]})


# ---- questions ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", tuple(KINDS))
def test_more_prompts_only_add_to_the_fewer(kind: str) -> None:
    few, more = scenes.questions(kind, 2), scenes.questions(kind, 5)
    assert more.prompts[:2] == few.prompts and more.asked[:2] == few.asked
    assert torch.equal(more.truth[:2], few.truth) and len(more.truth) == len(more.indices) == 5
    shown = 0 if more.references is None else more.references.shape[1]
    assert shown == NUM_REFERENCES[kind]


def test_hex_prompts_name_no_colour() -> None:
    asked = scenes.questions("hex", 12)
    for text, facts in zip(asked.prompts, asked.asked, strict=True):
        assert re.findall(r"#[0-9A-F]{6}", text) == [item["color"] for item in facts["objects"]]


def test_an_edit_leaves_the_rest_of_its_first_reference() -> None:
    asked = scenes.questions("two_references", 6)
    assert asked.references is not None and asked.changed is not None
    differs = (asked.truth != asked.references[:, 0]).any(1)
    assert torch.equal(differs, asked.changed) and bool(asked.changed.flatten(1).any(1).all())


# ---- numbers -----------------------------------------------------------------------------------------------


def test_what_ships_follows_its_prompts(reader: SceneReader) -> None:
    shipped = Pipeline.from_pretrained("flux2_scenes")
    (result,) = scenes.evaluate(shipped, reader, ("hex",), SceneScoring(num_prompts=12), progress=False)
    found, floor = (result.judged[source].numbers() for source in ("model", "floor"))
    assert found["background"].estimate >= 0.9
    assert found["median_delta_e"].estimate < floor["median_delta_e"].estimate / 2


def test_the_truth_is_the_ceiling_and_ignoring_the_prompt_the_floor(results: Sequence[Scored]) -> None:
    for result in results:
        share = {source: judged.numbers()["all"].estimate for source, judged in result.judged.items()}
        shape = {source: judged.numbers()["shape"].estimate for source, judged in result.judged.items()}
        assert share["truth"] > share["floor"] and share["decoded"] > share["model"] == 0
        assert shape["truth"] == 1 and shape["truth"] > max(shape["floor"], shape["model"])
    edits = {result.questions.kind: result.judged for result in results if result.questions.edits}
    assert list(edits) == ["one_reference", "two_references"]
    for judged in edits.values():
        assert judged["truth"].changes == judged["floor"].changes == (0.0,) * 5
        assert judged["truth"].numbers()["edit"].estimate > judged["floor"].numbers()["edit"].estimate


def test_shares_are_shares_and_intervals_hold_them(results: Sequence[Scored]) -> None:
    for kind, sources in scenes_table.numbers(results).items():
        assert list(sources) == list(SOURCES)
        for source, measures in sources.items():
            for name, one in measures.items():
                assert name in scenes_table.MEASURES, "every measure has a row"
                assert 0 <= one["low"] <= one["estimate"] <= one["high"], (kind, source, name)
                assert one["high"] <= (100 if name == "median_delta_e" else 1)


def test_a_seed_gives_the_same_table_whatever_the_batch_size(
    pipeline: Pipeline, reader: SceneReader, results: Sequence[Scored]
) -> None:
    def again(config: SceneScoring) -> list[Scored]:
        return list(scenes.evaluate(pipeline, reader, BOTH, config, progress=False))

    before = [one for one in results if one.questions.kind in BOTH]
    after, other = again(replace(FEW, batch_size=3)), again(replace(FEW, seed=1))
    table = scenes_table.markdown(before, reader.error_rates)
    assert scenes_table.markdown(after, reader.error_rates) == table
    for old, new in zip(before, other, strict=True):
        assert old.questions.prompts == new.questions.prompts
        assert not torch.equal(old.judged["model"].pixels, new.judged["model"].pixels)
        assert {one["seed"] for one in old.facts}.isdisjoint(one["seed"] for one in new.facts)


def test_noise_differs_between_prompts(results: Sequence[Scored]) -> None:
    assert all(len({one["seed"] for one in result.facts}) == 5 for result in results)


# ---- what is written ---------------------------------------------------------------------------------------


def test_the_table_has_a_row_for_each_kind_and_says_what_is_missed(
    results: Sequence[Scored], reader: SceneReader
) -> None:
    table = scenes_table.markdown(results, reader.error_rates)
    overview = table.split("\n\n")[0].splitlines()
    assert [row.split("|")[1].strip() for row in overview[2:]] == [*KINDS, "reader's error"]
    assert all(len(row.split("|")) == len(overview[0].split("|")) for row in overview)
    assert f"| {scenes_table.errors_of('shape', reader.error_rates)} |" in overview[-1]
    text = table.split("\n\n")[1]
    shape = results[0].judged["model"].numbers()["shape"].estimate
    assert f"≥ 80.0 %: missed by {80 - 100 * shape:.1f} points" in text
    met = scenes_table.markdown([perfect(results[0])], reader.error_rates)
    assert "≥ 80.0 %: met" in met and "≤ 10.0: met" in met and "missed" not in met


def test_the_rows_of_images_give_the_numbers_again(results: Sequence[Scored], tmp_path: Path) -> None:
    scenes_table.write_records(tmp_path / "scores.parquet", results)
    rows = parquet.read_table(tmp_path / "scores.parquet").to_pylist()
    assert len(rows) == len(KINDS) * len(SOURCES) * 5
    for kind, sources in scenes_table.numbers(results).items():
        for source, measures in sources.items():
            mine = [row for row in rows if (row["kind"], row["source"]) == (kind, source)]
            shapes = [right for row in mine for right in row["shapes"]]
            assert sum(shapes) / len(shapes) == measures["shape"]["estimate"]
            right = measures["edit" if "edit" in measures else "all"]
            assert sum(row["right"] for row in mine) == round(5 * right["estimate"])


def test_the_sheet_frames_what_is_right(results: Sequence[Scored], tmp_path: Path) -> None:
    text = results[0]
    scenes_sheet.write(tmp_path / "wrong.png", text, num_images=3)
    scenes_sheet.write(tmp_path / "right.png", perfect(text), num_images=3)
    corner = (scenes_sheet.GAP, scenes_sheet.GAP)
    assert text.judged["truth"].right()[0] and not text.judged["model"].right()[0]
    for name, colour in (("wrong", scenes_sheet.WRONG), ("right", scenes_sheet.RIGHT)):
        with Image.open(tmp_path / f"{name}.png") as sheet:
            found = sheet.getpixel(corner)
        assert isinstance(found, tuple) and "#{:02X}{:02X}{:02X}".format(*found) == colour


# ---- faults ------------------------------------------------------------------------------------------------


def test_faults_name_value_and_remedy() -> None:
    with pytest.raises(ValueError, match="'words'.*text, json, hex, one_reference, two_references"):
        scenes.questions("words", 5)
    with pytest.raises(ValueError, match="num_prompts is 1; ask for at least 2"):
        SceneScoring(num_prompts=1)
