"""What jobs read and how they fail: the study's settings, and errors as one line."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from flowlab.core.config import from_dict
from flowlab.core.files import read_json
from flowlab.study.grid import Study

__all__ = ["load_study", "reporting"]


def load_study(study_folder: Path) -> Study:
    """The settings in `study.json`."""
    path = study_folder / "study.json"
    if not path.is_file():
        raise ValueError(f"{study_folder} holds no study.json; start the study with `flowlab study run`")
    return from_dict(Study, read_json(path), str(path))


@contextmanager
def reporting() -> Iterator[None]:
    """Turn what a user can cause into one line on stderr and exit code 2; other errors keep their
    traceback."""
    try:
        yield
    except (ValueError, OSError) as problem:
        print(f"error: {problem}", file=sys.stderr)
        sys.exit(2)
