"""The README against the disk and the command line.

`python tests/test_readme.py` brings the file tree up to date: descriptions that stand there stay, a new file
gets the beginning of its docstring.
"""

from __future__ import annotations

import ast
import importlib
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from flowlab.cli import ABOUT, VERBS
from flowlab.verbs.console import Group, Verb, dispatch

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "flowlab"
README = ROOT / "README.md"
START, END = "<!-- tree -->\n```\n", "```\n<!-- /tree -->"
COLUMN = 42
IGNORED = ("__pycache__", "__init__.py")


# ---- the tree ----------------------------------------------------------------------------------------------


def tree() -> dict[str, str]:
    """Each file and folder under src/flowlab with what its docstring says first, folders before files."""
    return {str(path.relative_to(SOURCE)) + "/" * path.is_dir(): _about(path) for path in _walk(SOURCE)}


def _walk(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.iterdir(), key=lambda path: (path.is_file(), path.name)):
        inside = list(_walk(path)) if path.is_dir() else []
        left_over = path.is_dir() and not inside and not (path / "__init__.py").is_file()
        if path.name not in IGNORED and not path.name.endswith(".part") and not left_over:
            yield path
            yield from inside


def _about(path: Path) -> str:
    if path.name == "weights":
        return "trained weights that ship with the package"
    path = path / "__init__.py" if path.is_dir() else path
    if path.suffix != ".py" or not path.is_file():
        return {".safetensors": "trained weights", ".csv": "numbers"}.get(path.suffix, "")
    first = (ast.get_docstring(ast.parse(path.read_text())) or "").split("\n")[0]
    return re.split(r"; |\. |\.$| \(", first.removeprefix("Level ").lstrip("0123456789: "))[0]


def written() -> dict[str, str]:
    """The same, as the README has it: two spaces of indent per folder."""
    text = README.read_text()
    found, above = {}, []
    for line in text[text.index(START) + len(START) : text.index(END)].splitlines():
        name, about = line[:COLUMN].strip(), line[COLUMN:].strip()
        above = above[: (len(line) - len(line.lstrip())) // 2]
        found["".join(above) + name] = about
        above += [name]
    return found


def drawn(entries: dict[str, str]) -> str:
    """The tree as text."""
    lines = []
    for path, about in entries.items():
        depth = path.rstrip("/").count("/")
        name = "  " * depth + path.rstrip("/").split("/")[-1] + "/" * path.endswith("/")
        lines.append(f"{name:<{COLUMN}}{about}".rstrip() + "\n")
    return "".join(lines)


def test_tree_equals_the_disk() -> None:
    assert list(written()) == list(tree()), "the README's tree has drifted; run: python tests/test_readme.py"


def test_every_line_of_the_tree_says_what_it_is() -> None:
    assert [path for path, about in written().items() if not about] == []


# ---- commands, targets and links ---------------------------------------------------------------------------


def _commands() -> list[str]:
    blocks = re.findall(r"```(?:bash|sh|console)\n(.*?)```", README.read_text(), re.DOTALL)
    lines = (line for block in blocks for line in block.replace("\\\n", " ").splitlines())
    return [words for line in lines if (words := re.split(r"(?:^|\s)#\s", line)[0].strip())]


def test_there_are_two_commands_to_start_with() -> None:
    assert {"make quickstart", "make test"} <= set(_commands())


@pytest.mark.parametrize("command", [line for line in _commands() if re.match(r"flowlab \w", line)])
def test_command_exists_with_its_options(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    check_options(shlex.split(command)[1:], capsys)


def check_options(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Each verb and each option of a command line is known to the help of that verb."""
    path = [word for word in words if not word.startswith("-")]
    verb: Verb | Group | None = None
    depth = 0
    while not isinstance(verb, Verb):
        verbs = VERBS if verb is None else verb.verbs
        verb, depth = verbs[path[depth]], depth + 1
    subject = [path[depth]] if verb.subject and verb.names else []
    with pytest.raises(SystemExit):
        dispatch(VERBS, [*path[:depth], *subject, "--help"], ABOUT)
    known = capsys.readouterr().out
    for option in (word for word in words if word.startswith("--")):
        assert re.search(rf"{re.escape(option)}\b", known), f"{' '.join(words)}: {option} is unknown"


@pytest.mark.parametrize("target", [line.split()[1] for line in _commands() if line.startswith("make ")])
def test_make_target_exists(target: str) -> None:
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE)


@pytest.mark.parametrize(
    "document", [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")], ids=lambda path: path.name
)
def test_links_lead_to_files(document: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)", document.read_text()):
        if not target.startswith(("http:", "https:")):
            assert (document.parent / target).exists(), f"{document.name} links to {target}"


def test_ci_runs_the_command_of_the_readme() -> None:
    assert "make test" in _commands()
    assert re.search(r"^make test\b(?!-)", (ROOT / ".ci" / "run").read_text(), re.MULTILINE)


def test_your_own_autoencoder_as_the_readme_shows_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    diffusers: Any = importlib.import_module("diffusers")
    section = README.read_text().split("## Bring your own autoencoder")[1].split("\n## ")[0]
    (snippet,) = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    stages = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    diffusers.AutoencoderKL(block_out_channels=(32, 64), **stages).save_pretrained("my-autoencoder")
    with pytest.warns(UserWarning, match="unusual latents"):
        exec(snippet, {})
    printed = capsys.readouterr().out
    assert "(16, 16, 16, 16) (16, 3, 64, 64)" in printed and "failed" in printed
    assert (tmp_path / "official.safetensors").is_file()


def test_generating_as_the_readme_shows_it(capsys: pytest.CaptureFixture[str]) -> None:
    section = README.read_text().split("## Generate and edit")[1].split("\n## ")[0]
    (snippet,) = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    exec(snippet, {})
    assert "(4, 3, 64, 64) a red star above a #3366CC ring" in capsys.readouterr().out


if __name__ == "__main__":
    text, known = README.read_text(), written()
    head, tail = text[: text.index(START) + len(START)], text[text.index(END) :]
    README.write_text(head + drawn({path: known.get(path) or about for path, about in tree().items()}) + tail)
