"""Scores of scenes to read and to compute with: Markdown with intervals, and a row for every image."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow
from pyarrow import parquet

from flowlab.core.files import atomic_path
from flowlab.evaluate.scenes import SOURCES, Judged, Scored
from flowlab.metrics.intervals import Interval
from flowlab.metrics.scenes import CHANGE_LIMIT, COLOUR_LIMIT

__all__ = ["MEASURES", "TARGETS", "errors_of", "line", "markdown", "numbers", "write_records"]

MEASURES = {
    "shape":          "shape",
    "median_delta_e": "median ΔE",
    "colour":         f"ΔE ≤ {COLOUR_LIMIT:g}",
    "count":          "count",
    "relation":       "relation",
    "position":       "position",
    "size":           "size",
    "texture":        "texture",
    "background":     "background",
    "unchanged":      "unchanged elsewhere",
    "all":            "everything asked",
    "edit":           "edit success",
}  # fmt: skip
"""Keys of `metrics.scenes.summary` in the order of the tables, with their headings."""
TARGETS = {"shape": 0.80, "median_delta_e": 10.0, "relation": 0.70, "edit": 0.70}
"""What a model is meant to reach: at least, and for the median at most."""
MISSING = "-"

ErrorRates = Mapping[str, Mapping[str, float]]


# ---- Markdown ----------------------------------------------------------------------------------------------


def markdown(results: Sequence[Scored], error_rates: ErrorRates) -> str:
    """A row for each kind of prompt; below it each kind beside its yardsticks, and each kind of edit.

    `error_rates` are the reader's.
    """
    parts = [_overview(results, error_rates)]
    parts += [_detail(one, error_rates) for one in results]
    parts += [_by_edit(one) for one in results if one.questions.edits]
    return "\n\n".join([*parts, *_notes()]) + "\n"


def _overview(results: Sequence[Scored], error_rates: ErrorRates) -> str:
    found = {one.questions.kind: one.judged["model"].numbers() for one in results}
    names = [name for name in MEASURES if any(name in one for one in found.values())]
    rows = [
        [one.questions.kind, str(len(one.questions.prompts)), *(_cell(name, found[kind]) for name in names)]
        for kind, one in zip(found, results, strict=True)
    ]
    errors = ["reader's error", "", *(errors_of(name, error_rates) for name in names)]
    return _table(["prompts", "number", *(MEASURES[name] for name in names)], [*rows, errors])


def _detail(result: Scored, error_rates: ErrorRates) -> str:
    found = {source: judged.numbers() for source, judged in result.judged.items()}
    rows = [
        [
            MEASURES[name],
            *(_cell(name, found[source]) for source in SOURCES),
            errors_of(name, error_rates),
            _target(name, found["model"]),
        ]
        for name in MEASURES
        if name in found["model"]
    ]
    heads = [result.questions.kind, *SOURCES.values(), "reader's error", "target"]
    return _table(heads, rows)


def _by_edit(result: Scored) -> str:
    """Edit success by what had to be done."""
    edits, judged = result.questions.edits, result.judged["model"]
    rows = []
    for kind in dict.fromkeys(sorted(edits)):
        places = [row for row, one in enumerate(edits) if one == kind]
        found = judged.numbers(places)
        rows.append([kind, str(len(places)), *(_cell(name, found) for name in ("all", "unchanged", "edit"))])
    heads = [f"{result.questions.kind}, by edit", "number"]
    return _table([*heads, *(MEASURES[name] for name in ("all", "unchanged", "edit"))], rows)


def _notes() -> list[str]:
    return [
        "In brackets 95 % intervals: Wilson's for shares, with every asked fact a trial (an image of two "
        "objects asks for two shapes), a bootstrap's for medians. ΔE is CIEDE2000 against the colour asked "
        "for; of an object that is absent it is 100.",
        "Reader's error: the share that it gets wrong on held-out truth, clean / spoiled by blur, noise and "
        "the like; of a colour, beyond ΔE 5. What it misreads counts against the model.",
        f"Unchanged elsewhere: a mean difference of at most {CHANGE_LIMIT:g} of 255 from the first reference "
        "outside the region that had to change. Edit success: everything asked, and unchanged elsewhere.",
    ]


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---", *["---:"] * (len(heads) - 1)], *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


# ---- cells -------------------------------------------------------------------------------------------------


def line(judged: Judged) -> str:
    """One line for a terminal."""
    found = judged.numbers()
    return ", ".join(
        f"{MEASURES[name]} {_value(name, found[name].estimate)}" for name in MEASURES if name in found
    )


def errors_of(measure: str, error_rates: ErrorRates) -> str:
    """The reader's error on clean and on spoiled pictures, where one is known."""
    if measure not in error_rates["none"]:
        return MISSING
    return f"{100 * error_rates['none'][measure]:.1f} / {100 * error_rates['mixed'][measure]:.1f} %"


def _cell(name: str, found: Mapping[str, Interval]) -> str:
    if name not in found:
        return MISSING
    one = found[name]
    factor = 1 if name == "median_delta_e" else 100
    return f"{_value(name, one.estimate)} [{factor * one.low:.1f}, {factor * one.high:.1f}]"


def _value(name: str, value: float) -> str:
    return f"{value:.1f}" if name == "median_delta_e" else f"{100 * value:.1f} %"


def _target(name: str, found: Mapping[str, Interval]) -> str:
    """The target, and whether it is met or by how much it is missed."""
    if name not in TARGETS:
        return ""
    target, value = TARGETS[name], found[name].estimate
    lower_is_better = name == "median_delta_e"
    missing = value - target if lower_is_better else target - value
    sign = "≤" if lower_is_better else "≥"
    by = f"{missing:.1f}" if lower_is_better else f"{100 * missing:.1f} points"
    return f"{sign} {_value(name, target)}: {'met' if missing <= 0 else f'missed by {by}'}"


# ---- for programs ------------------------------------------------------------------------------------------


def numbers(results: Sequence[Scored]) -> dict[str, dict[str, dict[str, dict[str, Any]]]]:
    """Kind => source => measure => the fields of its interval."""
    return {
        one.questions.kind: {
            source: {name: asdict(interval) for name, interval in judged.numbers().items()}
            for source, judged in one.judged.items()
        }
        for one in results
    }


_SCHEMA = pyarrow.schema(
    {
        "kind": pyarrow.string(),
        "source": pyarrow.string(),
        "index": pyarrow.int64(),
        "prompt": pyarrow.string(),
        "edit": pyarrow.string(),
        "asked": pyarrow.string(),
        "seen": pyarrow.string(),
        "shapes": pyarrow.list_(pyarrow.bool_()),
        "delta_e": pyarrow.list_(pyarrow.float64()),
        "count": pyarrow.bool_(),
        "relations": pyarrow.list_(pyarrow.bool_()),
        "positions": pyarrow.list_(pyarrow.bool_()),
        "sizes": pyarrow.list_(pyarrow.bool_()),
        "textures": pyarrow.list_(pyarrow.bool_()),
        "background": pyarrow.float64(),
        "change": pyarrow.float64(),
        "right": pyarrow.bool_(),
    }
)


def write_records(path: Path, results: Sequence[Scored]) -> None:
    """Parquet with a row for every image of every source: what was asked and seen (JSON), and its score."""
    rows = [row for one in results for row in _records(one)]
    with atomic_path(path) as draft:
        parquet.write_table(pyarrow.Table.from_pylist(rows, schema=_SCHEMA), draft)


def _records(result: Scored) -> Iterator[dict[str, Any]]:
    asked = result.questions
    for source, judged in result.judged.items():
        rows = zip(judged.seen, judged.scores, judged.right(), strict=True)
        for row, (seen, scores, right) in enumerate(rows):
            yield {
                "kind": asked.kind,
                "source": source,
                "index": asked.indices[row],
                "prompt": asked.prompts[row],
                "edit": asked.edits[row] if asked.edits else None,
                "asked": json.dumps(asked.asked[row]),
                "seen": json.dumps(asdict(seen)),
                **asdict(scores),
                "change": None if judged.changes is None else judged.changes[row],
                "right": right,
            }
