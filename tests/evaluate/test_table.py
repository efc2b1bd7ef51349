"""The printed table, Markdown, HTML and CSV say the same, escape names, and name what was measured."""

from __future__ import annotations

import csv
import math
from typing import Any

import pytest

from flowlab.evaluate import table


def row(name: str, **columns: Any) -> dict[str, Any]:
    base = {
        "source": name,
        "dataset": "digits",
        "split": "heldout",
        "num_images": 1000,
        "features": "judge A",
    }
    return base | {"weights": "loaded", "gate": "passed", "psnr": 30.126, "psnr_se": 0.044} | columns


ROWS = [row("sd", rfid=0.0452, rfid_se=0.006), row("a|b <c>", rfid=math.nan, rfid_se=math.nan)]


def test_text_is_aligned_and_says_what_is_missing():
    lines = table.text(ROWS).splitlines()
    assert lines[0].split() == ["autoencoder", "PSNR", "dB", "rFID", "weights", "gate"]
    assert lines[2].split() == ["sd", "30.13", "±0.04", "0.0452", "±0.0060", "loaded", "passed"]
    assert lines[3].split()[-3:] == ["-", "loaded", "passed"]
    assert lines[2].index("30.13") == lines[3].index("30.13") == lines[0].index("PSNR")


def test_notes_name_the_features_of_a_distance_that_is_there():
    assert any("judge A" in line for line in table.notes(ROWS))
    assert not any("rFID: against" in line for line in table.notes([row("x", rfid=math.nan)]))
    both = table.notes([row("x", rfid=1.0), row("y", rfid=1.0, features="judge B")])
    assert any("judge A or judge B" in line for line in both)


def test_a_distance_of_few_images_says_so():
    assert not any("biased" in line for line in table.notes(ROWS))
    few = table.notes([row("x", rfid=1.0, num_images=2), ROWS[0]])
    assert few[-1].startswith("rFID: distances from 2 images, fewer than 1,000, are biased upwards")
    assert not any("biased" in line for line in table.notes([row("x", rfid=math.nan, num_images=2)]))


def test_markdown_html_and_csv(tmp_path):
    for ending in table.FORMATS:
        table.write(tmp_path / f"t.{ending}", ROWS)
    markdown = (tmp_path / "t.md").read_text()
    assert "| sd | 30.13 ±0.04 | 0.0452 ±0.0060 | loaded | passed |" in markdown and r"a\|b <c>" in markdown
    page = (tmp_path / "t.html").read_text()
    assert "<td>30.13 ±0.04</td>" in page and "a|b &lt;c&gt;" in page and "http" not in page
    found = list(csv.DictReader((tmp_path / "t.csv").open()))
    assert [float(one["psnr"]) for one in found] == [30.126, 30.126]
    assert [one["rfid"] for one in found] == ["0.0452", ""]


def test_an_unknown_ending_lists_the_known_ones(tmp_path):
    with pytest.raises(ValueError, match=r"t\.tex 'tex'; choose from: md, html, csv"):
        table.write(tmp_path / "t.tex", ROWS)


def test_every_column_is_shown_once():
    names = [name for block in table.BLOCKS for name in block]
    assert len(names) == len(set(names))
    full = row("x") | {name: 1 if digits == "d" else "w" if not digits else 1.0
                       for block in table.BLOCKS for name, (_, digits) in block.items()}  # fmt: skip
    text = table.text([full])
    assert all(heading in text for block in table.BLOCKS for heading, _ in block.values())
