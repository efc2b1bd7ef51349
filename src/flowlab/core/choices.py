"""Table lookup whose error lists the names: the only way flowlab turns a name into a thing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

__all__ = ["lookup"]

T = TypeVar("T")


def lookup(table: Mapping[str, T], name: str, what: str) -> T:
    """Return `table[name]`; an unknown name is a ValueError that lists the known ones.

    `what` is the noun of the message, such as "timestep distribution".
    """
    if name not in table:
        raise ValueError(f"unknown {what} {name!r}; choose from: {', '.join(table)}")
    return table[name]
