"""Prompts: from words, a text file, JSON lines or a JSON object; each may carry its own settings."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flowlab.generate.references import Source

__all__ = ["Prompt", "as_prompt", "check_addresses", "read_prompts", "written"]

ADDRESS = re.compile(
    r"\bimage(?:\s+|s\s+(?:#?\d+\s*(?:,|and|or|&)\s*)*)#?\d+\b"
    r"(?!\s*(?:%|°|x\b|times\b|degrees?\b|percent\b|pixels?\b|px\b))",
    re.IGNORECASE,
)
"""How a prompt speaks of its references: "image 2", "images 1 and 3"; not in "rotate the image 9 degrees"."""


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """What one picture (or several, by seed) should show; None leaves a setting to the call."""

    prompt: str
    """Words, or a JSON object as text."""
    negative: str | None = None
    """What should not be seen."""
    seed: int | None = None
    """Of its noise."""
    width: int | None = None
    """Pixels."""
    height: int | None = None
    """Pixels."""
    references: tuple[Source, ...] | None = None
    """Images that "image 1", "image 2" in the prompt mean."""


def as_prompt(value: str | Mapping[str, Any] | Prompt) -> Prompt:
    """A string or a structured prompt (any JSON object) as a Prompt."""
    return value if isinstance(value, Prompt) else Prompt(prompt=written(value))


def written(value: str | Mapping[str, Any]) -> str:
    """A prompt as the model reads it: text as it is, be it words or JSON; an object as compact JSON."""
    if isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def read_prompts(path: Path | str) -> list[Prompt]:
    """A prompt a line: `.jsonl` holds objects with the fields of Prompt, any other file just prompts; a
    `.json` file is one structured prompt.

    References in a JSONL file are found beside it. Empty lines are skipped.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"there is no file of prompts {path}; check its path")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as problem:
        raise ValueError(f"{path} is not UTF-8 text ({problem.reason}); save it so") from problem
    if path.suffix == ".json":
        return [as_prompt(_object(text, str(path)))]
    kept = [(number, line) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    if not kept:
        raise ValueError(f"{path} holds no prompt; write one a line")
    if path.suffix == ".jsonl":
        return [_from_json(line, f"{path} line {number}", path.parent) for number, line in kept]
    return [as_prompt(line.strip()) for _, line in kept]


def check_addresses(prompt: str, num_references: int) -> None:
    """A prompt that speaks of an image that was not given is a ValueError; without references, any may be."""
    if not num_references:
        return
    for match in ADDRESS.finditer(prompt):
        for number in map(int, re.findall(r"\d+", match.group())):
            if not 1 <= number <= num_references:
                raise ValueError(
                    f"the prompt speaks of image {number}, but {num_references} references were given;"
                    " they are numbered from 1 in the order given"
                )


# ---- JSON --------------------------------------------------------------------------------------------------

KINDS: dict[str, tuple[type, ...]] = {
    "prompt": (str, dict),
    "negative": (str,),
    "seed": (int,),
    "width": (int,),
    "height": (int,),
    "references": (list,),
}


def _object(text: str, where: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except json.JSONDecodeError as problem:
        raise ValueError(f"{where} is not JSON ({problem}); .jsonl holds one object a line") from problem
    if not isinstance(found, dict):
        raise ValueError(f"{where} is no JSON object; .json holds one, .jsonl one a line")
    return found


def _from_json(line: str, where: str, folder: Path) -> Prompt:
    fields = _object(line, where)
    if "prompt" not in fields:
        raise ValueError(f'{where} has no "prompt"; write {{"prompt": "a red star"}}')
    for name, value in fields.items():
        if name not in KINDS:
            raise ValueError(f"{where} has the unknown field {name!r}; choose from: {', '.join(KINDS)}")
        if isinstance(value, bool) or not isinstance(value, KINDS[name]):
            raise ValueError(f"{where}: {name} is {value!r}; expected {KINDS[name][0].__name__}")
    references = fields.pop("references", None)
    if references is not None:
        fields["references"] = tuple(folder / str(one) for one in references)
    return Prompt(**{**fields, "prompt": written(fields["prompt"])})
