"""Prompts for scenes, in words or as JSON, together with what each of them asks for.

A prompt states some of a scene and never lies; what it leaves out is free and must not be scored. `asked` is
the scored part as plain data:

    {"objects": [{"shape": "star", "color": "#DC2626", "size": "large", "texture": "striped",
                  "position": "left"}, ...],      shape always, the other keys where they were stated
     "count": 2,                                  objects in the whole image: a prompt names all of them
     "relations": [[0, "above", 1], ...],         of objects by their place in the list
     "background": "#26272E"}                     where it was stated
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import Any

import torch
from torch import Tensor

from flowlab.core.choices import lookup
from flowlab.core.seeds import Streams
from flowlab.data.scenes_objects import (
    Scene,
    SceneObject,
    background_word,
    colour_word,
    position_of,
    relation,
    size_word,
)

__all__ = ["MAX_TOKENS", "STYLES", "Draws", "Prompt", "caption", "noun", "num_tokens", "prompts"]

MAX_TOKENS = 60
"""Of any prompt, as `num_tokens` counts; the embedded text encoder takes 64."""


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """A prompt and what it asks for."""

    text: str
    asked: dict[str, Any]
    """As the head of this file describes."""


class Draws:
    """Numbers of one stream handed out one after the other, for choices made in plain Python."""

    def __init__(self, values: Sequence[float]):
        self._values = iter(values)

    def share(self, probability: float) -> bool:
        """True with that probability."""
        return next(self._values) < probability

    def pick(self, options: Sequence[Any]) -> Any:
        """One of them, each as likely."""
        return options[int(next(self._values) * len(options))]

    @staticmethod
    def rows(seed: int, indices: Tensor, purpose: str, *, step: int = 0, num: int = 32) -> list[Draws]:
        """One for each of indices (B,), with `num` numbers each."""
        streams = Streams.for_samples(seed, indices, step=step, purpose=purpose)
        return [Draws(row) for row in streams.uniform(num, dtype=torch.float64).tolist()]


def caption(scene: Scene, index: int, style: str = "words", seed: int = 0) -> str:
    """One prompt for `scene`; another `index` says another part of it in other words."""
    return prompts([scene], torch.tensor([index]), style, seed)[0].text


def prompts(scenes: Sequence[Scene], indices: Tensor, style: str = "words", seed: int = 0) -> list[Prompt]:
    """Prompts for scenes, keyed by indices (B,); `style` is a key of STYLES."""
    say = lookup(STYLES, style, "style of caption")
    draws = Draws.rows(seed, indices, f"caption {style}")
    return [say(scene, draw) for scene, draw in zip(scenes, draws, strict=True)]


def num_tokens(text: str) -> int:
    """Words, numbers, runs of punctuation, and for a hex code its # and six digits."""
    pieces = re.findall(r"#[0-9a-fA-F]{6}\b|[^\W\d_]+|\d+|[^\w\s#]+|#", text)
    return sum(7 if len(piece) == 7 and piece[0] == "#" else 1 for piece in pieces)


# ---- words -------------------------------------------------------------------------------------------------


def _words(scene: Scene, draws: Draws) -> Prompt:
    """As "a large red star above a #3366CC ring on a dark background", in one of several forms."""
    items = draws.pick(list(permutations(scene.objects)))
    asked: dict[str, Any] = {"objects": [{"shape": item.shape} for item in items], "count": len(items)}
    phrases = [_phrase(item, facts, draws) for item, facts in zip(items, asked["objects"], strict=True)]
    text = _ARRANGED[len(items)](items, phrases, asked, draws)
    if draws.share(0.5):
        asked["background"] = scene.background
        text = f"{text} on a {background_word(scene.background)} background"
    return Prompt(text=text, asked=asked)


def _dense(scene: Scene, draws: Draws) -> Prompt:
    """All there is to say, as "a small dotted red star at the top left, ... on a dark background"."""
    items = draws.pick(list(permutations(scene.objects)))
    facts: list[dict[str, Any]] = [{"shape": item.shape} for item in items]
    *first, last = [
        _placed(item, _phrase(item, said, draws, sized=1.0), said)
        for item, said in zip(items, facts, strict=True)
    ]
    text = f"{', '.join(first)} and {last}" if first else last
    return Prompt(
        text=f"{text} on a {background_word(scene.background)} background",
        asked={"objects": facts, "count": len(items), "background": scene.background},
    )


def _phrase(item: SceneObject, facts: dict[str, Any], draws: Draws, sized: float = 0.5) -> str:
    """ "a large striped #DDC57A ring", its size at a chance of `sized`; what it says is added to `facts`."""
    words = []
    if draws.share(sized):
        facts["size"] = size_word(item.size)
        words.append(facts["size"])
    if item.texture != "plain":
        facts["texture"] = item.texture
        words.append(item.texture)
    facts["color"] = item.colour
    return noun(" ".join([*words, colour_word(item.colour), item.shape]))


def noun(words: str) -> str:
    """The words with "a" or "an" before them."""
    return f"{'an' if words[0] in 'aeio' else 'a'} {words}"


def _one(items: Sequence[SceneObject], phrases: list[str], asked: dict[str, Any], draws: Draws) -> str:
    return _placed(items[0], phrases[0], asked["objects"][0]) if draws.share(0.5) else phrases[0]


def _two(items: Sequence[SceneObject], phrases: list[str], asked: dict[str, Any], draws: Draws) -> str:
    word = relation(items[0], items[1])
    form = draws.pick(("relation", "relation", "relation", "places", "count", "list"))
    if form == "relation" and word:
        asked["relations"] = [[0, word, 1]]
        return f"{phrases[0]} {word} {phrases[1]}"
    if form == "places":
        phrases = [_placed(*parts) for parts in zip(items, phrases, asked["objects"], strict=True)]
    return f"{'two objects: ' if form == 'count' else ''}{phrases[0]} and {phrases[1]}"


def _three(items: Sequence[SceneObject], phrases: list[str], asked: dict[str, Any], draws: Draws) -> str:
    one, two, three = phrases
    pairs = {(i, j): relation(items[i], items[j]) for i, j in permutations(range(3), 2)}
    form = draws.pick(("between", "chain", "chain", "chain", "count", "list"))
    if form == "between" and pairs[1, 0] and pairs[1, 0] == pairs[0, 2]:
        asked["relations"] = [[1, pairs[1, 0], 0], [0, pairs[0, 2], 2]]
        return f"{one} between {two} and {three}"
    if form == "chain" and pairs[0, 1] and pairs[0, 2]:
        asked["relations"] = [[0, pairs[0, 1], 1], [0, pairs[0, 2], 2]]
        return f"{one} {pairs[0, 1]} {two} and {pairs[0, 2]} {three}"
    return f"{'three objects: ' if form == 'count' else ''}{one}, {two} and {three}"


_ARRANGED = {1: _one, 2: _two, 3: _three}


def _placed(item: SceneObject, phrase: str, facts: dict[str, Any]) -> str:
    facts["position"] = position_of(item.x, item.y)
    return f"{phrase} {'in' if facts['position'] == 'center' else 'at'} the {facts['position']}"


# ---- JSON --------------------------------------------------------------------------------------------------


def _json(scene: Scene, draws: Draws) -> Prompt:
    """Compact JSON: shape and colour of every object, and of the rest what is drawn and fits MAX_TOKENS."""
    items = draws.pick(list(permutations(scene.objects)))
    asked: dict[str, Any] = {"objects": [{"shape": item.shape} for item in items], "count": len(items)}
    said: dict[str, Any] = {"objects": [{"shape": i.shape, "color": colour_word(i.colour)} for i in items]}
    for facts, item in zip(asked["objects"], items, strict=True):
        facts["color"] = item.colour
    if draws.share(0.5):
        asked["background"], said["background"] = scene.background, background_word(scene.background)
    for i, item in enumerate(items):
        facts = {"size": size_word(item.size), "position": position_of(item.x, item.y)}
        if item.texture != "plain":
            facts["texture"] = item.texture
        for key, value in facts.items():
            longer = [{**each, key: value} if i == j else each for j, each in enumerate(said["objects"])]
            if draws.share(0.5) and num_tokens(_compact({**said, "objects": longer})) <= MAX_TOKENS:
                said["objects"] = longer
                asked["objects"][i][key] = value
    return Prompt(text=_compact(said), asked=asked)


def _compact(value: dict[str, Any]) -> str:
    return json.dumps(value, separators=(",", ":"))


STYLES = {"words": _words, "json": _json, "dense": _dense}
