"""The published study's numbers in tidy form, to stand beside ours (ImageNet 256, DiT-XL: another scale)."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from flowlab.core.choices import lookup

__all__ = ["COLUMNS", "PATH", "load", "of"]

PATH = Path(__file__).with_name("published.csv")
COLUMNS = ("quantity", "ae", "condition", "value", "error", "source", "note")


def load() -> pd.DataFrame:
    """Every published number: the columns of COLUMNS, one row per quantity, autoencoder and condition.

    `value` and `error` are float64, nan where only words were published (then `note` holds them); shares such
    as sensitivities lie in [0, 1]; what the published +- means is not stated, so only values are checkable.
    """
    text = ["quantity", "ae", "condition", "source", "note"]
    table = pd.read_csv(PATH, dtype=dict.fromkeys(text, str) | {"value": float, "error": float})
    return table.assign(**{name: table[name].fillna("") for name in text})[list(COLUMNS)]


def of(quantity: str) -> pd.DataFrame:
    """The rows of one quantity; an unknown name is a ValueError that lists the known ones."""
    table = load()
    lookup(dict.fromkeys(table["quantity"]), quantity, "published quantity")
    return table[table["quantity"] == quantity].reset_index(drop=True)
