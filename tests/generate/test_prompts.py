"""Prompts from words, files and JSON."""

from __future__ import annotations

from pathlib import Path

import pytest

from flowlab.generate.prompts import Prompt, as_prompt, check_addresses, read_prompts


def test_text_stays_and_objects_become_compact() -> None:
    for text in ("a  #DDC57A ring, {sic}", '{ "shape": "ring", "size": 1.50, "size": 1e3 }'):
        assert as_prompt(text).prompt == text
    scene = {"objects": [{"shape": "ring", "color": "#DDC57A"}], "place": "Zürich"}
    compact = '{"objects":[{"shape":"ring","color":"#DDC57A"}],"place":"Zürich"}'
    assert as_prompt(scene).prompt == compact


def test_a_text_file_holds_a_prompt_a_line(tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text("a red star\n\n#3366CC ring\n")
    assert [one.prompt for one in read_prompts(tmp_path / "p.txt")] == ["a red star", "#3366CC ring"]


def test_json_lines_carry_settings(tmp_path: Path) -> None:
    (tmp_path / "p.jsonl").write_text(
        '{"prompt": "a star", "seed": 3, "references": ["a.png"], "width": 64, "negative": "blue"}\n'
        '{"prompt": {"shape": "ring"}}\n'
    )
    first, second = read_prompts(tmp_path / "p.jsonl")
    references = (tmp_path / "a.png",)
    assert first == Prompt(prompt="a star", seed=3, references=references, width=64, negative="blue")
    assert second == Prompt(prompt='{"shape":"ring"}')


@pytest.mark.parametrize(
    ("line", "part"),
    [
        ("{", "line 2 is not JSON"),
        ('{"seed": 1}', 'line 2 has no "prompt"'),
        ('{"prompt": "a", "sed": 1}', "unknown field 'sed'; choose from: prompt, negative, seed"),
        ('{"prompt": "a", "seed": "1"}', "seed is '1'; expected int"),
        ('{"prompt": "a", "width": true}', "width is True; expected int"),
    ],
)
def test_a_bad_line_is_named(line: str, part: str, tmp_path: Path) -> None:
    (tmp_path / "p.jsonl").write_text(f'{{"prompt": "fine"}}\n{line}\n')
    with pytest.raises(ValueError, match=part):
        read_prompts(tmp_path / "p.jsonl")


def test_a_json_file_is_one_structured_prompt(tmp_path: Path) -> None:
    (tmp_path / "p.json").write_text('{\n  "shape": "ring",\n  "color": "#3366CC"\n}\n')
    assert read_prompts(tmp_path / "p.json") == [Prompt(prompt='{"shape":"ring","color":"#3366CC"}')]
    (tmp_path / "p.json").write_text('["a star", "a ring"]')
    with pytest.raises(ValueError, match=r"p.json is no JSON object; .json holds one, .jsonl one a line"):
        read_prompts(tmp_path / "p.json")


def test_files_without_prompts_are_named(tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text("\n \n")
    with pytest.raises(ValueError, match="holds no prompt"):
        read_prompts(tmp_path / "empty.txt")
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    with pytest.raises(ValueError, match="is not UTF-8 text"):
        read_prompts(tmp_path / "latin.txt")
    with pytest.raises(ValueError, match="there is no file of prompts"):
        read_prompts(tmp_path / "nosuch.txt")


@pytest.mark.parametrize(
    "prompt",
    [
        "image 2 in red",
        "Images 1 and 2",
        "the star of image 1 onto Image #2",
        "3 stars",
        "image 1 and 3 stars",
        "image 1 as an image 1950s style",
        "image 2 as an image 3d artists make",
        "rotate the image 90 degrees",
        "make the image 50 % brighter and the object in image 2 smaller",
    ],
)
def test_images_that_were_given_may_be_named(prompt: str) -> None:
    check_addresses(prompt, 2)


@pytest.mark.parametrize(("prompt", "number"), [("image 3", 3), ("images 1, 2 and 4", 4), ("use Image 0", 0)])
def test_an_image_that_was_not_given_is_named(prompt: str, number: int) -> None:
    with pytest.raises(ValueError, match=f"image {number}, but 2 references"):
        check_addresses(prompt, 2)
    check_addresses(prompt, 0)
