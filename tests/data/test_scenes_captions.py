"""Prompts never lie, fit the text encoder, and ask for what they say: read back from the text alone."""

from __future__ import annotations

import json
import re

import pytest
import torch

from flowlab.data.scenes import Scene, SceneObject, boxes, caption, prompts
from flowlab.data.scenes_captions import STYLES, num_tokens
from flowlab.data.scenes_objects import (
    BACKGROUNDS,
    COLOURS,
    POSITIONS,
    RELATIONS,
    SHAPES,
    SIZES,
    TEXTURES,
    position_of,
    size_word,
)
from flowlab.data.scenes_sample import draw_table

ROWS = torch.arange(2000)
SCENES = draw_table(ROWS, split="train").scenes()
SAID = {style: prompts(SCENES, ROWS, style) for style in STYLES}
ADJECTIVES = {**dict.fromkeys(SIZES, "size"), **dict.fromkeys(TEXTURES, "texture")}


def by_shape(scene: Scene, shape: str) -> SceneObject:
    (found,) = [item for item in scene.objects if item.shape == shape]
    return found


def colour_of(word: str) -> str:
    return word if word[0] == "#" else COLOURS[word]


# ---- truth -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("style", STYLES)
def test_what_is_asked_is_true(style):
    for scene, prompt in zip(SCENES, SAID[style], strict=True):
        asked = prompt.asked
        assert asked["count"] == len(asked["objects"]) == len(scene.objects)
        assert asked.get("background", scene.background) == scene.background
        for facts in asked["objects"]:
            item = by_shape(scene, facts["shape"])
            assert facts["color"] == item.colour and facts.get("texture", item.texture) == item.texture
            assert facts.get("size") in (None, size_word(item.size))
            assert facts.get("position") in (None, position_of(item.x, item.y))


def test_relations_hold_between_the_boxes():
    stated = 0
    for scene, prompt, box in zip(SCENES, SAID["words"], boxes(SCENES), strict=True):
        shapes = [item.shape for item in scene.objects]
        for first, word, second in prompt.asked.get("relations", []):
            names = [prompt.asked["objects"][i]["shape"] for i in (first, second)]
            a, b = (box[shapes.index(name)] for name in names)
            right, below = RELATIONS[word]
            assert ((b - a)[:2] + (b - a)[2:]) @ torch.tensor([right, below]).float() > 0.2
            stated += 1
    assert stated > 500


@pytest.mark.parametrize("style", STYLES)
def test_every_prompt_fits_the_encoder(style):
    pattern = r"[a-z]+|[0-9]+|[^a-z0-9\s#]+"
    for prompt in SAID[style]:
        plain, codes = re.subn(r"#[0-9A-F]{6}", " ", prompt.text)
        tokens = len(re.findall(pattern, plain)) + 7 * codes
        assert tokens <= 60 and num_tokens(prompt.text) <= 60


def test_a_dense_caption_leaves_nothing_out():
    for scene, prompt in zip(SCENES, SAID["dense"], strict=True):
        assert prompt.asked["background"] == scene.background and prompt.text.endswith(" background")
        for facts in prompt.asked["objects"]:
            item = by_shape(scene, facts["shape"])
            assert set(facts) == {"shape", "color", "size", "position"} | (
                set() if item.texture == "plain" else {"texture"}
            )
            named = [facts.get("size"), facts.get("texture"), facts["shape"], f"the {facts['position']}"]
            assert all(word in prompt.text for word in named if word)


# ---- the text says what is asked ---------------------------------------------------------------------------


def test_words_read_back():
    """A small reader of the sentences finds each asked fact in the text, and nothing else."""
    for prompt in SAID["words"]:
        found = []
        body, _, ground = re.sub(r",", " ", prompt.text).partition(" on a ")
        for piece in re.split(r" (?=an? )", body.replace("objects: ", "objects ")):
            found += _object_in(piece)
        asked = prompt.asked
        assert found == asked["objects"], prompt.text
        assert asked.get("background") == (BACKGROUNDS[ground.split()[0]] if ground else None)
        spoken = [word for word in RELATIONS if f" {word} " in prompt.text]
        if " between " not in prompt.text:
            assert {word for _, word, _ in asked.get("relations", [])} == set(spoken)


def _object_in(piece: str) -> list[dict[str, str]]:
    words = piece.split()
    shapes = [i for i, word in enumerate(words) if word in SHAPES]
    if not shapes:
        return []
    (place,) = shapes
    facts = {"shape": words[place], "color": colour_of(words[place - 1])}
    for word in words[1 : place - 1]:
        facts[ADJECTIVES[word]] = word
    stated = re.search(r" (?:at|in) the (.+?)(?: and)?$", piece)
    if stated:
        facts["position"] = next(name for name in POSITIONS if name == stated.group(1).strip())
    return [facts]


def test_json_reads_back():
    for prompt in SAID["json"]:
        said = json.loads(prompt.text)
        objects = [{**item, "color": colour_of(item["color"])} for item in said["objects"]]
        assert objects == prompt.asked["objects"] and prompt.text == json.dumps(said, separators=(",", ":"))
        assert prompt.asked.get("background") == BACKGROUNDS.get(said.get("background"))


@pytest.mark.parametrize("style", ["words", "json"])
def test_a_caption_is_keyed_by_its_index(style):
    assert caption(SCENES[5], 5, style) == SAID[style][5].text
    assert len({caption(SCENES[5], index, style) for index in range(40)}) > 3, "the same scene in other words"


def test_every_form_occurs():
    text = "\n".join(prompt.text for prompt in SAID["words"])
    for form in (" between ", "two objects: ", "three objects: ", *[f" {word} " for word in RELATIONS]):
        assert text.count(form) > 5, form
    assert "a #" in text and "an orange" in text and "in the center" in text and "a or" not in text


def test_unknown_style_lists_the_styles():
    with pytest.raises(ValueError, match="unknown style of caption 'verse'; choose from: words, json"):
        caption(SCENES[0], 0, "verse")
