"""Writes that are whole or absent: a reader never sees half a file, whatever kills the writer."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Container, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

__all__ = [
    "append_line",
    "atomic_folder",
    "atomic_path",
    "exclusive",
    "findable",
    "read_json",
    "write_json",
]


@contextmanager
def atomic_path(path: Path | str) -> Iterator[Path]:
    """Yield a temporary path beside `path`; it takes the name on success and vanishes on failure."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield draft
        _flush(draft)
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path | str) -> Iterator[Path]:
    """As `atomic_path` for a folder; an existing folder of that name is replaced."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}.part")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir()
    try:
        yield draft
        for item in draft.rglob("*"):
            if item.is_file():
                _flush(item)
        if path.exists():
            shutil.rmtree(path)
        os.replace(draft, path)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def findable(name: str, known: Container[str] = ()) -> str:
    """What finds the same thing from another working directory: an existing path absolute, any other name and
    those in `known` as they are."""
    return str(Path(name).resolve()) if name not in known and Path(name).exists() else name


def write_json(path: Path | str, value: Any) -> None:
    """Write JSON atomically, two spaces deep."""
    with atomic_path(path) as draft:
        draft.write_text(json.dumps(value, indent=2) + "\n")


def read_json(path: Path | str) -> Any:
    """Read JSON; a damaged file is a ValueError that names it."""
    try:
        return json.loads(Path(path).read_text())
    except json.JSONDecodeError as problem:
        raise ValueError(
            f"{path} is not valid JSON ({problem}); delete it and run the command again"
        ) from problem


def append_line(path: Path | str, line: str) -> None:
    """Append one line and force it to disk, so that it survives a kill right after."""
    assert "\n" not in line, "one line at a time"
    with open(path, "a") as file:
        file.write(line + "\n")
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def exclusive(folder: Path | str) -> Iterator[None]:
    """Hold `folder` alone until the end of the block; a second holder is a ValueError. A kill releases it."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"another process works in {folder}; wait for it or stop it") from None
        yield


def _flush(path: Path) -> None:
    with open(path, "rb") as file:
        os.fsync(file.fileno())
