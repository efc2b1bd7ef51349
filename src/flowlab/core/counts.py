"""A number of images that a data set may fall short of."""

from __future__ import annotations

__all__ = ["AtMost"]


class AtMost(int):
    """That many, or all where a data set holds fewer.

    Defaults of the command line are of this kind. A number that a user writes is a plain int, and more than
    there is stays an error.
    """
