"""A command line in this process."""

from __future__ import annotations

from flowlab.cli import ABOUT, VERBS
from flowlab.verbs.console import dispatch, guarded

__all__ = ["flowlab"]


def flowlab(*words: object) -> int:
    """Run `flowlab WORDS` and return its exit code."""
    return guarded(lambda: dispatch(VERBS, [str(word) for word in words], ABOUT))
