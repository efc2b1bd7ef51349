"""The report: one file that needs nothing else, read in a real browser; whatever is missing, it says so."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from tests.study import synthetic
from tests.study.browser import Chromium, find_chromium

from flowlab.core.config import to_dict
from flowlab.core.files import write_json
from flowlab.study import report, results
from flowlab.study.sections import material, record
from flowlab.study.sections.common import Numbering
from flowlab.study.sections.record import MAX_ROWS

SECTIONS = [
    *("summary", "learnability", "training", "reconstruction", "best", "sensitivity", "effects", "schedules"),
    *("optima", "sweep", "claims", "published", "pictures", "samples", "rows", "provenance"),
]
MAX_BYTES = 8_000_000


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    return report.write(synthetic.write_run(folder, shifts=(1.0, 2.95, 6.93)))


@pytest.fixture(scope="module")
def text(page: Path) -> str:
    return page.read_text(encoding="utf-8")


# ---- the file ----------------------------------------------------------------------------------------------


def test_it_stands_in_the_run_folder_by_default(page):
    assert page.name == "report.html"
    assert page.stat().st_size < MAX_BYTES


def test_every_section_is_there_and_in_the_contents(text):
    assert re.findall(r'<section id="([a-z]+)"', text) == SECTIONS
    assert re.findall(r'<li><a href="#([a-z]+)"', text) == SECTIONS


def test_every_section_but_the_summary_says_how_to_read_it(text):
    assert text.count('<p class="how">') == len(SECTIONS) - 1


def test_figures_and_tables_are_numbered_in_order(text):
    figures = [int(number) for number in re.findall(r"<b>Figure (\d+)\.</b>", text)]
    tables = [int(number) for number in re.findall(r"<b>Table (\d+)\.</b>", text)]
    assert figures == list(range(1, 13))
    assert tables == list(range(1, 6))


def test_nothing_in_the_markup_points_outside(text):
    markup = re.sub(r"<(script|style)\b.*?</\1>", "", text, flags=re.S)
    assert not re.findall(r'(?:src|href|srcset|action)="(?!#|data:)[^"]*"', markup)
    assert "connect-src 'none'" in markup


def test_the_libraries_are_inlined_once(text):
    assert len(re.findall(r"\* plotly\.js v\d", text)) == 1
    assert text.count('id="datatables-library"') == 1
    assert "cdn." not in re.sub(r"<script\b.*?</script>", "", text, flags=re.S)


def test_writing_again_gives_the_same_bytes(tmp_path):
    folder = _write(tmp_path, synthetic.rows(**ONE_CURVE), synthetic.reconstruction())
    first = report.write(folder).read_bytes()
    assert report.write(folder, tmp_path / "again.html").read_bytes() == first


def test_a_failed_write_leaves_the_old_page(tmp_path, monkeypatch):
    old = tmp_path / "report.html"
    old.write_text("old")
    monkeypatch.setattr(report, "html", lambda _: "\ud800")  # cannot be encoded
    with pytest.raises(UnicodeEncodeError):
        report.write(tmp_path)
    assert old.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


# ---- in a browser ------------------------------------------------------------------------------------------

needs_browser = pytest.mark.skipif(
    find_chromium() is None,
    reason="no chromium on the path; install it (apt-get install chromium) to test the page",
)
READY = "document.documentElement.dataset.ready === 'yes'"
COLUMN = "[...document.querySelectorAll('#table-best tbody tr')].map(row => row.cells[%d].textContent)"


@pytest.fixture(scope="module")
def browser(page: Path) -> Iterator[Chromium]:
    with Chromium() as chromium:
        chromium.open(page)
        chromium.wait(READY)
        yield chromium


@needs_browser
def test_every_figure_is_drawn(browser, text):
    planned = text.count("data-plot=")
    drawn = "[...document.querySelectorAll('.plot')].filter(p => p.querySelector('.main-svg .trace')).length"
    assert planned > 25
    assert browser.run(drawn) == planned
    assert (
        browser.run("document.querySelector('#fig-learnability-0 .ytitle').textContent")
        == "FID, digits judge"
    )


@needs_browser
def test_pressing_a_heading_sorts_the_table(browser):
    heading = "#table-best thead th:nth-child(7)"
    lowest = min(row[6][0] for row in json.loads(_table(browser, "table-best"))["rows"])
    for direction in ("ascending", "descending"):
        browser.click(heading)
        browser.wait(f"document.querySelector('{heading}').ariaSort === '{direction}'")
        shown = [float(cell.split()[0]) for cell in browser.run(COLUMN % 6)]
        assert len(shown) == 10
        assert shown == sorted(shown, reverse=direction == "descending")
        assert (shown[0] == pytest.approx(lowest, abs=0.01)) == (direction == "ascending")


def _table(browser: Chromium, name: str) -> str:
    return browser.run(f"document.querySelector('[data-table={name}]').textContent")


@needs_browser
def test_typing_searches_the_table(browser):
    field = "#best .dt-search input"
    browser.type(field, "flux2 teacher 800")
    browser.wait(f"{COLUMN % 1}.length === 1")
    assert browser.run(COLUMN % 1) == ["FLUX.2"]
    assert browser.run(COLUMN % 2) == ["teacher"]
    browser.run(f"document.querySelector('{field}').value = ''")
    browser.type(field, " ")
    browser.wait(f"{COLUMN % 1}.length === 10")


@needs_browser
def test_a_toggle_changes_what_a_figure_shows(browser):
    traces = "document.getElementById('fig-training-0').data.filter(t => t.visible)"
    shown = f"[...new Set({traces}.map(t => t.meta.repa))]"
    assert browser.run(shown) == ["none"]
    browser.click("#fig-training .toggle button[data-value=teacher]")
    assert browser.run(shown) == ["teacher"]
    browser.click('#fig-training .toggle button[data-value="*"]')
    assert sorted(browser.run(shown)) == ["none", "teacher"]


@needs_browser
def test_a_legend_entry_hides_its_traces(browser):
    traces = "document.getElementById('fig-sensitivity-1').data.filter(t => t.visible)"
    shown = f"{traces}.filter(t => t.meta.ae === 'rae').length"
    key = "#fig-sensitivity .legend button[data-value=rae]"
    assert browser.run(shown) == 1
    browser.click(key)
    assert browser.run(shown) == 0
    browser.click(key)
    assert browser.run(shown) == 1


@needs_browser
def test_a_picture_opens_and_closes(browser):
    open_ = "document.querySelector('dialog').open"
    browser.click(".gallery img")
    assert browser.run(open_)
    browser.click("dialog img")
    assert not browser.run(open_)


@needs_browser
def test_a_phone_never_scrolls_sideways(browser):
    browser.resize(390, 800)
    browser.wait("document.documentElement.scrollWidth <= innerWidth", seconds=20)
    assert not browser.run("document.querySelector('.contents details').open")
    browser.resize(1400, 900)


@needs_browser
def test_the_figures_follow_the_theme(browser):
    ink = "getComputedStyle(document.querySelector('#fig-training-0 .xtitle')).fill"
    light = browser.run(ink)
    browser.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark"}])
    browser.wait(f"{ink} !== '{light}'")
    browser.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "light"}])
    browser.wait(f"{ink} === '{light}'")


@needs_browser
def test_no_fault_and_no_request(browser):
    assert browser.faults == []
    assert browser.foreign_requests == []


@needs_browser
def test_the_page_could_not_ask_the_network_if_it_wanted_to(page):
    with Chromium() as chromium:
        chromium.open(page)
        assert chromium.run("fetch('https://example.org/').then(() => 'asked', () => 'refused')") == "refused"
        assert any("Content Security Policy" in fault for fault in chromium.faults)


# ---- partial data ------------------------------------------------------------------------------------------


def _write(folder: Path, rows: pd.DataFrame, reconstruction: pd.DataFrame | None = None) -> Path:
    results.write_results(folder / "results.parquet", rows)
    if reconstruction is not None:
        results.write_reconstruction(folder / "reconstruction.parquet", reconstruction)
    return folder


def _page(folder: Path) -> str:
    """The report without its libraries."""
    page = re.sub(r"<script>.*?</script>", "", report.write(folder).read_text(encoding="utf-8"), flags=re.S)
    assert re.findall(r'<section id="([a-z]+)"', page) == SECTIONS
    return page


def test_an_empty_folder_says_what_to_run(tmp_path):
    page = _page(tmp_path)
    for name in ("study.json", "results.parquet", "reconstruction.parquet"):
        assert f"{name} is absent" in page
    assert "No rows yet: run `flowlab study run" in page
    assert "No reconstruction was measured." in page


ONE_ROW = {"aes": ("rae",), "seeds": (3,), "families": ("pln",), "shifts": (2.0,), "repas": ("teacher",)}
ONE_CURVE = {
    "aes": ("flux2_plain",),
    "seeds": (0,),
    "families": ("ln",),
    "shifts": (1.0,),
    "repas": ("none",),
}
ONE_SHIFT = {"aes": ("sd", "flux1_semantic"), "seeds": (0,), "families": ("ts", "ln"), "shifts": (1.0,)}
WIDE = {"aes": ("sd", "rae"), "seeds": (0, 1, 2), "families": ("ln",), "shifts": (1.0, 9.99, 13.97)}


@pytest.mark.parametrize(
    "part",
    [ONE_ROW | {"steps": (50,)}, ONE_CURVE, ONE_SHIFT, WIDE | {"steps": (7,)}],
    ids=["one row", "one curve", "one shift", "wide shifts"],
)
def test_a_part_of_the_grid_makes_a_page(tmp_path, part):
    rows = synthetic.rows(**part)
    page = _page(_write(tmp_path, rows))
    assert f"<dd>{len(rows):,}</dd>" in page
    assert "reconstruction.parquet is absent" in page
    assert "for want of a reconstruction row" in page
    assert "No run has been sampled with other steps" in page


def test_an_unfinished_study_lists_what_it_lacks(tmp_path):
    shifts = (1.0, 2.95)
    write_json(tmp_path / "study.json", to_dict(synthetic.study(seeds=(0,), shifts=shifts)))
    rows = synthetic.rows(seeds=(0,), shifts=shifts)
    rows = rows[(rows["run_id"] != "sd_none_ln_1.0_s0") & ~((rows["ae"] == "rae") & (rows["step"] == 800))]
    page = _page(_write(tmp_path, rows, synthetic.reconstruction(("sd", "flux1"))))
    assert "13 of 48 planned runs are absent or incomplete" in page
    assert "sd_none_ln_1.0_s0: 0 of 8 rows" in page
    assert "rae_teacher_pln_2.95_s0: 6 of 8 rows" in page
    assert "no reconstruction was measured for" in page


def test_a_finished_study_lacks_nothing(text):
    assert "Nothing that was planned is missing" in text


def test_a_rehearsal_says_that_it_means_nothing(tmp_path):
    write_json(tmp_path / "study.json", to_dict(replace(synthetic.study(("sd",)), draft=True)))
    assert "This was a rehearsal" in _page(_write(tmp_path, synthetic.rows(**ONE_CURVE)))


def test_runs_of_another_version_are_still_shown(tmp_path):
    (tmp_path / "study.json").write_text('{"name": "x", "unheard_of": 1}')
    page = _page(_write(tmp_path, synthetic.rows(aes=("sd",), seeds=(0,), shifts=(1.0,))))
    assert "study.json cannot be read" in page
    assert "unheard_of" in page


def test_rows_of_two_kinds_are_not_mixed(tmp_path):
    rows = synthetic.rows(aes=("sd",), seeds=(0,), shifts=(1.0,))
    other = rows.head(3).assign(features="inception", run_id="elsewhere")
    page = _page(_write(tmp_path, pd.concat([rows, other])))
    assert "rows with features inception are left out" in page
    assert f"<dd>{len(rows)}</dd>" in page


def test_numbers_that_are_not_finite_leave_a_gap(tmp_path):
    rows = synthetic.rows(aes=("sd", "flux2"), seeds=(0,), shifts=(1.0, 2.95)).assign(
        loss=float("nan"), fid_se=float("nan"), kid=float("nan"), train_seconds=float("nan")
    )
    page = _page(_write(tmp_path, rows, synthetic.reconstruction().assign(rfid_se=float("nan"))))
    assert "NaN" not in page
    assert "nan" not in re.findall(r'data-table="table-rows">(.*?)</script>', page)[0]


def test_a_distance_stands_with_its_features_and_its_error(tmp_path):
    rows = synthetic.rows(aes=("sd",), seeds=(0,), shifts=(1.0,)).assign(kid=0.5, kid_se=0.25)
    page = _page(_write(tmp_path, rows))
    shown = json.loads(re.findall(r'data-table="table-rows">(.*?)</script>', page)[0])
    titles = [column["title"] for column in shown["columns"]]
    assert {"FID, digits judge", "KID × 1000, digits judge"} <= set(titles)
    assert all([500.0, 250.0] in line for line in shown["rows"])


def test_foreign_text_is_shown_not_run(tmp_path):
    evil = "<img src=x onerror=alert(1)>"
    rows = synthetic.rows(aes=("sd",), seeds=(0,), shifts=(1.0,)).assign(
        machine=evil, dataset=evil, torch=evil
    )
    page = _page(
        _write(tmp_path, rows, synthetic.reconstruction(("sd",)).assign(identity=evil, dataset=evil))
    )
    assert evil not in page
    assert "&lt;img src=x" in page


def test_too_many_rows_are_thinned_and_it_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr("flowlab.study.sections.record.MAX_ROWS", 50)
    rows = synthetic.rows(aes=("sd",), seeds=(0,), shifts=(1.0, 2.95))
    page = _page(_write(tmp_path, rows))
    last = (rows["step"] == rows["step"].max()).sum()
    assert MAX_ROWS > 5616  # the whole of mini with its sweep
    assert f"Of {len(rows)} rows the {last} of the last step are shown." in page


# ---- bad input ---------------------------------------------------------------------------------------------


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ValueError, match="nowhere is not a run folder"):
        report.write(tmp_path / "nowhere")


def test_rows_of_another_schema_are_refused(tmp_path):
    pd.DataFrame({"step": [1], "fid": [2.0]}).to_parquet(tmp_path / "results.parquet")
    with pytest.raises(ValueError, match=r"results\.parquet lacks the column 'ae'"):
        report.write(tmp_path)
    assert not (tmp_path / "report.html").exists()


def test_a_damaged_file_is_refused(tmp_path):
    (tmp_path / "results.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(ValueError, match=r"results\.parquet"):
        report.write(tmp_path)


# ---- what it reads -----------------------------------------------------------------------------------------


def test_the_sweep_is_what_was_sampled_in_several_ways(page):
    found = material.gather(page.parent)
    assert set(found.sweep["num_steps"]) == {10, 25, 50, 100}
    assert set(found.sweep["step"]) == {800}
    assert found.sweep["run_id"].nunique() == 8


def test_the_newest_reconstruction_row_counts(tmp_path):
    old = synthetic.reconstruction(("sd",)).assign(psnr=1.0, created="2020-01-01T00:00:00+00:00")
    new = synthetic.reconstruction(("sd",))
    _write(tmp_path, synthetic.rows(aes=("sd",), seeds=(0,), shifts=(1.0,)), pd.concat([new, old]))
    assert material.gather(tmp_path).reconstruction["psnr"].tolist() == new["psnr"].tolist()


def test_a_sweep_changes_neither_the_planned_rows_nor_the_samples_shown(tmp_path):
    """Also where it samples as the study does, at further shifts. Grids are made at the study's first one."""
    shifts, aes = (2.95, 1.0), ("sd", "rae")
    rows, swept = synthetic.rows(aes=aes, seeds=(0,), shifts=shifts), synthetic.sweep_rows(aes)
    again = (swept["sampler"] == "euler") & (swept["num_steps"] == 50) & swept["sampleshift"].isin(shifts)
    for table in (rows, pd.concat([swept[~again].assign(fid=0.01), rows], ignore_index=True)):
        write_json(tmp_path / "study.json", to_dict(synthetic.study(aes, seeds=(0,), shifts=shifts)))
        synthetic.write_pictures(tmp_path / "samples", aes)
        found = material.gather(_write(tmp_path, table))
        assert found.rows["fid"].tolist() == rows["fid"].tolist() and len(found.every_row) == len(table)
        grid = rows[(rows["run_id"] == "sd_none_ln_2.95_s0") & (rows["sampleshift"] == 2.95)].iloc[-1]
        shown = "".join(record.samples(found, Numbering()).parts)
        assert grid["step"] == 800 and f"FID, digits judge: {grid['fid']:.3g}<" in shown
