"""`flowlab doctor`."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from tests.verbs.command import flowlab

from flowlab.verbs.doctor import EXTRAS, remedy


def test_doctor_tells_what_is_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert flowlab("doctor", "--runs", tmp_path) == 0
    text = capsys.readouterr().out
    assert all(word in text for word in ("flowlab", "torch 2", "cores", "memory", "study", "can be written"))


@pytest.mark.parametrize("extra", EXTRAS)
def test_a_missing_module_names_its_extra(extra: str) -> None:
    for module, package in EXTRAS[extra].items():
        assert remedy(module) == f"{package} is not installed; run: pip install 'flowlab[{extra}]'"
    assert remedy("nosuch") is None


def test_extras_are_those_of_the_package() -> None:
    path = Path(__file__).parents[2] / "pyproject.toml"
    declared = tomllib.loads(path.read_text())["project"]["optional-dependencies"]
    named = {extra: {re.split(r"[\[<>=]", line)[0] for line in lines} for extra, lines in declared.items()}
    assert named == {extra: set(modules.values()) for extra, modules in EXTRAS.items()}
