"""The report's page pieces: styles, axes, labels, tables, pictures."""

from __future__ import annotations

import io
import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from tests.study import synthetic

from flowlab.study.grid import AUTOENCODERS
from flowlab.study.page import axes, html, labels, pictures, style

# ---- style -------------------------------------------------------------------------------------------------


def test_every_autoencoder_has_a_look_of_its_own():
    looks = [style.ae_style(name) for name in AUTOENCODERS]
    assert [name for name in AUTOENCODERS if style.ae_style(name).label == name] == []
    assert len({look.colour for look in looks}) == len({look.symbol for look in looks}) == len(looks)
    assert style.ordered(AUTOENCODERS) == list(AUTOENCODERS)


def test_an_unknown_autoencoder_keeps_its_name_and_colour():
    assert style.ae_style("mine").label == "mine"
    assert style.ae_style("mine") == style.ae_style("mine")
    assert style.ordered(["zebra", "rae", "ant", "sd", "sd"]) == ["sd", "rae", "ant", "zebra"]


def _luminance(colour: str) -> float:
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


@pytest.mark.parametrize("name", AUTOENCODERS)
def test_colours_stand_out_on_both_themes(name):
    own = _luminance(style.ae_style(name).colour)
    assert (1 + 0.05) / (own + 0.05) > 2.2  # on white
    assert (own + 0.05) / (_luminance("#14171b") + 0.05) > 3


def test_shifts_have_distinct_colours():
    assert len(set(style.shift_colours([1.0, 1.78, 2.95, 4.63, 6.93, 9.99, 13.97]).values())) == 7
    assert len(style.shift_colours([2.0])) == 1


# ---- axes and labels ---------------------------------------------------------------------------------------

POSITIVE = st.floats(1e-3, 1e4)


@given(POSITIVE, st.floats(1.05, 1e4))
def test_log_ticks_lie_within_the_range(low, factor):
    ticks = axes.log_ticks(low, low * factor)
    assert all(low <= tick <= low * factor for tick in ticks["tickvals"])
    assert len(ticks["tickvals"]) == len(ticks["ticktext"])
    assert len(ticks["tickvals"]) >= 3 or factor < 3


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=9))
def test_rooms_hold_their_values(values):
    low, high = axes.linear_room(values, 0.1)
    assert low < high
    assert low <= min(values) <= max(values) <= high
    bottom, top = axes.log_room(values)
    assert 0 < bottom < top
    assert all(bottom <= value <= top for value in values if value > 0)


BOXES = st.tuples(*[st.integers(0, 60)] * 2).map(lambda spot: labels.around(spot[0], spot[1], 14, 8))


@given(st.lists(BOXES, min_size=1, max_size=6), st.lists(BOXES, max_size=6))
def test_a_free_place_is_taken_where_there_is_one(candidates, taken):
    frame = (-100.0, -100.0, 200.0, 200.0)
    chosen = candidates[labels.emptiest(candidates, taken, frame)]
    assert labels.overlap(chosen, taken) == min(labels.overlap(box, taken) for box in candidates)


def test_labels_stay_in_the_frame():
    frame = (0.0, 0.0, 100.0, 50.0)
    outside, inside = labels.around(99, 20, 30, 10), labels.around(60, 20, 30, 10)
    assert labels.emptiest([outside, inside], [], frame) == 1


def test_an_error_bar_shows_only_where_there_is_an_error():
    assert not axes.error_bar([0.0, 0.0], "#000000")["visible"]
    assert axes.error_bar([0.0], "#000000", [0.1])["visible"]


# ---- tables and text ---------------------------------------------------------------------------------------


def test_a_data_table_writes_what_json_knows():
    columns = [html.Column(title="a"), html.Column(title="b", kind="measure", digits=1)]
    rows = [["</script>", (math.nan, np.float64(0.5))], [np.int64(3), (math.inf, None)]]
    page = html.data_table("t", "Table 1", "c", columns, rows)
    (text,) = re.findall(r'data-table="t">(.*?)</script>', page)
    assert json.loads(text)["rows"] == [["</script>", [None, 0.5]], [3, [None, None]]]


def test_text_is_escaped():
    assert html.notice("<b>&") == '<p class="notice">&lt;b&gt;&amp;</p>'
    assert html.ae_chip("<i>").count("<i>") == 0


def test_a_plain_table_marks_its_numbers():
    table = html.plain_table("Table 1", "c", ["name", "x"], [["a", "1"]])
    assert "<td>a</td><td class=n>1</td>" in table


# ---- pictures ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("samples")
    synthetic.write_pictures(folder, ("sd", "flux2"))
    return folder


def _open(webp: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(webp)).convert("RGBA"))


def test_originals_stand_once_above_their_reconstructions(samples):
    found, problems = pictures.read_manifest(samples)
    assert not problems
    strips = pictures.strips([picture for picture in found if picture.kind == "reconstruction"], num_images=3)
    assert [strip.ae for strip in strips] == [None, "sd", "flux2"]
    assert len({(strip.width, strip.height) for strip in strips}) == 1


def test_the_detail_is_the_box_enlarged(samples):
    found, _ = pictures.read_manifest(samples)
    (picture,) = [p for p in found if p.kind == "reconstruction" and p.ae == "sd"]
    sheet = np.asarray(Image.open(io.BytesIO(picture.png)).convert("RGB"))
    x, y, width, height = picture.box
    original = sheet[2:34, 2:34]
    strip = _open(pictures.strips([picture], num_images=1)[0].webp)
    middle = strip[48, 98 + 48, :3]  # the centre of the detail, which is 96 wide and starts at 98
    assert (middle == original[y + height // 2, x + width // 2]).all()


def test_a_sample_grid_keeps_every_pixel(samples):
    found, _ = pictures.read_manifest(samples)
    picture = next(p for p in found if p.kind == "samples")
    grid = _open(pictures.sample_grid(picture, columns=6))
    sheet = np.asarray(Image.open(io.BytesIO(picture.png)).convert("RGB"))
    assert grid.shape == (6 * 33 - 1, 6 * 33 - 1, 4)
    assert (grid[:32, 33:65, :3] == sheet[2:34, 36:68]).all()  # the second image
    assert (grid[33:65, :32, :3] == sheet[2:34, 2 + 6 * 34 : 34 + 6 * 34]).all()  # the seventh


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda folder: (folder / "manifest.json").unlink(), "manifest.json is not in"),
        (lambda folder: (folder / "manifest.json").write_text("[{"), "not valid JSON"),
        (lambda folder: (folder / "manifest.json").write_text('{"a": 1}'), "is left out"),
        (lambda folder: (folder / "manifest.json").write_text('[{"file": "x"}]'), "is left out"),
        (lambda folder: (folder / "reconstruction_sd.png").write_bytes(b"\x89PNG nothing"), "is left out"),
        (lambda folder: (folder / "reconstruction_sd.png").unlink(), "is left out"),
    ],
)
def test_a_damaged_picture_is_named_and_left_out(tmp_path, damage, says):
    synthetic.write_pictures(tmp_path, ("sd",))
    damage(tmp_path)
    found, problems = pictures.read_manifest(tmp_path)
    assert len(problems) == 1
    assert says in problems[0]
    assert all(picture.kind == "samples" for picture in found)
