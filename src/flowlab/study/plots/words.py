"""What figures and tables call things: a FID with its features, a setting, the autoencoders of a legend."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pandas as pd

from flowlab.study.page.html import Key
from flowlab.study.page.style import ae_style, ordered, repa_label

__all__ = ["ae_keys", "distance_label", "fid_label", "setting"]


def fid_label(rows: pd.DataFrame) -> str:
    """The axis title of a FID: never without the features it was measured in."""
    return distance_label("FID", rows)


def distance_label(name: str, rows: pd.DataFrame) -> str:
    """As `fid_label` for any distance in the same features, such as KID; the bare name without rows."""
    return f"{name}, {' and '.join(sorted(rows['features'].unique()))}" if len(rows) else name


def setting(line: dict[str, Any]) -> str:
    """A row's setting in words."""
    return (
        f"{line['trainp']}, training shift {line['trainshift']:g}, sampling shift {line['sampleshift']:g}, "
        f"{repa_label(line['repa'])}"
    )


def ae_keys(names: Iterable[str]) -> list[Key]:
    """Legend of the autoencoders in `names`."""
    styles = [(name, ae_style(name)) for name in ordered(names)]
    return [Key(label=s.label, colour=s.colour, name="ae", value=name, symbol=s.symbol) for name, s in styles]
