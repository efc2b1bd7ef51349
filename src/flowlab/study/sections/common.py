"""Pieces that several sections share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import pandas as pd

from flowlab.study.grid import AUTOENCODERS, REPAS
from flowlab.study.page.html import Block, Toggle, escape, notice
from flowlab.study.page.style import repa_label
from flowlab.study.sections.material import Material

__all__ = ["Numbering", "badge", "filled", "join", "no_rows", "place", "repa_toggle"]

_BADGES = {"holds": ("✓", "holds"), "does not hold": ("✗", "fails"), "undecided": ("?", "open")}


@dataclass
class Numbering:
    """Counts the figures and tables of a page."""

    figures: int = 0
    tables: int = 0

    def figure(self) -> str:
        """The next figure's label."""
        self.figures += 1
        return f"Figure {self.figures}"

    def table(self) -> str:
        """The next table's label."""
        self.tables += 1
        return f"Table {self.tables}"


def filled(block: Block, parts: Sequence[str]) -> Block:
    """The section with its parts."""
    return replace(block, parts=parts)


def no_rows(material: Material) -> str:
    """What stands in a section that has nothing to show yet."""
    return notice(f"No rows yet: run `flowlab study run {material.name}` and write the report again.")


def badge(status: str) -> str:
    """A verdict as a mark and words; the colour only repeats them."""
    mark, name = _BADGES[status]
    return f'<span class="verdict {name}">{mark} {escape(status)}</span>'


def repa_toggle(column: pd.Series, *, both: bool) -> list[Toggle]:
    """Buttons for the REPA settings that occur; none where there is only one."""
    present = [repa for repa in REPAS if repa in set(column)]
    if len(present) < 2:
        return []
    options = {repa: repa_label(repa) for repa in present} | ({"*": "both"} if both else {})
    return [Toggle(name="repa", options=options, start=present[0])]


def place(ae: str) -> tuple[int, str]:
    """Sort key that puts autoencoders in the report's order."""
    known = list(AUTOENCODERS)
    return (known.index(ae) if ae in known else len(known)), ae


def join(column: pd.Series) -> str:
    """The distinct values of a column in order, in one line."""
    return ", ".join(str(value) for value in sorted(column.unique()))
