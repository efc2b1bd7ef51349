"""Files are whole or absent, weights strict, checkpoints exact."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from flowlab.core import checkpoints
from flowlab.core.choices import lookup
from flowlab.core.files import append_line, atomic_folder, atomic_path, read_json
from flowlab.core.pixels import contact_sheet, to_float, to_uint8
from flowlab.core.weights import load_strict, read_weights, tensors_id, write_weights


def test_lookup_lists_the_names():
    assert lookup({"a": 1}, "a", "thing") == 1
    with pytest.raises(ValueError, match="unknown thing 'c'; choose from: a, b"):
        lookup({"a": 1, "b": 2}, "c", "thing")


def test_a_failed_write_leaves_the_old_file_and_no_draft(tmp_path):
    path = tmp_path / "f.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError), atomic_path(path) as draft:
        draft.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_a_failed_folder_leaves_the_old_one(tmp_path):
    path = tmp_path / "f"
    with atomic_folder(path) as draft:
        (draft / "x").write_text("1")
    with pytest.raises(RuntimeError), atomic_folder(path) as draft:
        (draft / "x").write_text("2")
        raise RuntimeError
    assert (path / "x").read_text() == "1" and list(tmp_path.iterdir()) == [path]


def test_damaged_json_is_named(tmp_path):
    (tmp_path / "a.json").write_text('{"x": ')
    with pytest.raises(ValueError, match=r"a\.json is not valid JSON"):
        read_json(tmp_path / "a.json")


def test_lines_append(tmp_path):
    for i in range(3):
        append_line(tmp_path / "rows.jsonl", json.dumps({"i": i}))
    assert [json.loads(line)["i"] for line in (tmp_path / "rows.jsonl").read_text().splitlines()] == [0, 1, 2]


# ---- weights -----------------------------------------------------------------------------------------------


def test_weights_round_trip_to_the_bit(tmp_path):
    module = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    write_weights(tmp_path / "w.safetensors", module.state_dict(), {"k": "v"})
    tensors, metadata = read_weights(tmp_path / "w.safetensors")
    assert metadata == {"k": "v"} and tensors_id(tensors) == tensors_id(module.state_dict())
    other = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    load_strict(other, tensors)
    assert all(
        torch.equal(a, b)
        for a, b in zip(module.state_dict().values(), other.state_dict().values(), strict=True)
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("weight"), "lacks 1 tensors of Linear, first 'weight'"),
        (lambda t: t.update(extra=torch.zeros(1)), "unknown to Linear: 'extra'"),
        (lambda t: t.update(weight=torch.zeros(4, 4)), r"'weight' is \(4, 4\), expected \(4, 3\)"),
    ],
)
def test_strict_loading_names_the_key(change, message):
    tensors = dict(nn.Linear(3, 4).state_dict())
    change(tensors)
    with pytest.raises(ValueError, match=message):
        load_strict(nn.Linear(3, 4), tensors)


def test_renames_map_file_names_to_module_names():
    source, target = nn.Linear(2, 2), nn.Linear(2, 2)
    load_strict(target, {"w": source.weight, "b": source.bias}, {"w": "weight", "b": "bias"})
    assert torch.equal(source.weight, target.weight)


def test_a_truncated_or_missing_file_is_named(tmp_path):
    path = tmp_path / "w.safetensors"
    write_weights(path, {"a": torch.randn(1000)})
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(ValueError, match=r"w\.safetensors is not a whole safetensors file"):
        read_weights(path)
    with pytest.raises(ValueError, match="no weights at"):
        read_weights(tmp_path / "none.safetensors")


# ---- checkpoints -------------------------------------------------------------------------------------------


def test_optimiser_state_survives_packing(tmp_path):
    net = nn.Linear(3, 3)
    optimiser = torch.optim.AdamW(net.parameters(), lr=0.1)
    net(torch.randn(2, 3)).sum().backward()
    optimiser.step()
    tensors: dict[str, torch.Tensor] = {}
    packed = json.loads(json.dumps(checkpoints.pack(optimiser.state_dict(), tensors, "s")))
    checkpoints.save(tmp_path, 5, {"o": tensors}, {"packed": packed})
    groups, state = checkpoints.load(tmp_path / "step_00000005")
    again = checkpoints.unpack(state["packed"], groups["o"])
    assert set(again["state"]) == {0, 1} and again["param_groups"][0]["lr"] == 0.1
    for key, value in optimiser.state_dict()["state"][0].items():
        assert torch.equal(torch.as_tensor(again["state"][0][key]), torch.as_tensor(value))


def test_latest_and_keep(tmp_path):
    assert checkpoints.latest(tmp_path) is None
    for step in (1, 20, 3):
        checkpoints.save(tmp_path, step, {}, {"step": step})
    newest = checkpoints.latest(tmp_path)
    assert newest is not None and checkpoints.step_of(newest) == 20
    checkpoints.save(tmp_path, 40, {}, {"step": 40}, keep=2)
    assert [checkpoints.step_of(path) for path in checkpoints.all_checkpoints(tmp_path)] == [20, 40]


def test_a_folder_that_is_no_checkpoint_is_named(tmp_path):
    with pytest.raises(ValueError, match="is not a checkpoint folder"):
        checkpoints.load(tmp_path)


# ---- pixels ------------------------------------------------------------------------------------------------


def test_uint8_survives_the_round_trip_and_floats_round():
    levels = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    assert torch.equal(to_uint8(to_float(levels)), levels)
    assert to_uint8(torch.tensor([-2.0, 0.0, 2.0])).tolist() == [0, 128, 255]
    assert float(to_float(levels).min()) == -1 and float(to_float(levels).max()) == 1


def test_contact_sheet_places_images_row_by_row():
    images = torch.arange(3, dtype=torch.uint8).view(3, 1, 1, 1).expand(3, 3, 2, 2)
    sheet = contact_sheet(images, columns=2, gap=1)
    assert sheet.shape == (3, 7, 7)
    assert [int(sheet[0, 1, 1]), int(sheet[0, 1, 4]), int(sheet[0, 4, 1]), int(sheet[0, 4, 4])] == [
        0,
        1,
        2,
        255,
    ]
