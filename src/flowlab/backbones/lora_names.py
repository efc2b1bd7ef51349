"""Which module of ours a key of a LoRA file means, whoever wrote it.

Keys are a prefix, a module and a role. The module is in official names (BFL, ComfyUI, kohya: there with
underscores for dots), in diffusers' (PEFT) or in ours; the role is A or down, B or up, alpha, or the bias of
B. BFL's control LoRAs also hold whole norm scales, under their names in the model (`norm_of`).
"""

from __future__ import annotations

import re
from functools import cache
from typing import NamedTuple

from flowlab.backbones.flux_names import PLACES, Place

__all__ = ["Key", "Target", "norm_of", "parse", "target"]

PREFIXES = (
    "base_model.model.",  #       PEFT
    "transformer.",  #            diffusers
    "model.diffusion_model.",  #  ComfyUI
    "diffusion_model.",  #        ComfyUI, ai-toolkit
    "lora_unet_",  #              kohya
    "lora_transformer_",  #       OneTrainer
)
ROLES = {
    "lora_A": "down",
    "lora_down": "down",
    "lora.down": "down",
    "lora_B": "up",
    "lora_up": "up",
    "lora.up": "up",
    "alpha": "alpha",
    "bias": "bias",
}
_KEY = re.compile(
    r"(?P<module>.+)\.(?:(?P<role>lora_[AB]|lora[_.](?:down|up))(?:\.default)?\.weight|(?P<alpha>alpha)"
    r"|lora_B(?:\.default)?\.(?P<bias>bias))"
)
_BLOCK = re.compile(
    r"(?P<stack>(?:double|single|transformer|single_transformer)_blocks)(?P<dot>[._])(?P<i>\d+)(?=[._])"
)


class Key(NamedTuple):
    """A key taken apart."""

    module: str
    """As the file names it, without prefixes."""
    role: str
    """"down", "up", "alpha" or "bias"."""


class Target(NamedTuple):
    """The rows of a module of ours that an adapter changes."""

    module: str
    """Our name."""
    part: int | None
    """Which of `parts` of a fused weight, in order; None: all rows."""
    parts: int
    """In how many pieces the file's naming keeps the weight."""
    swapped: bool
    """The rows are [scale | shift] in the file, [shift | scale] in ours."""
    families: frozenset[str]
    """Which have such a module, keys of TITLES."""


def parse(key: str) -> Key | None:
    """None for a key of another form."""
    found = _KEY.fullmatch(key)
    if found is None:
        return None
    return Key(_bare(found["module"]), ROLES[found["role"] or found["alpha"] or found["bias"]])


def norm_of(key: str) -> str | None:
    """The norm scale of ours that a key of official or our names is; None for any other key."""
    name = _bare(key)
    if (found := _BLOCK.match(name)) is None or not name.endswith(".scale"):
        return None
    pattern = f"{found['stack']}.{{i}}{name[found.end() :].removesuffix('.scale')}"
    ours = next((p.ours for p in _norms() if pattern in (p.ours, p.official)), None)
    return ours and f"{ours.format(i=int(found['i']))}.scale"


def _bare(name: str) -> str:
    bare, shorter = "", name
    while bare != shorter:  # prefixes come in pairs, too
        bare = shorter
        for prefix in PREFIXES:
            shorter = shorter.removeprefix(prefix)
    return bare


def _norms() -> list[Place]:
    return [place for places in PLACES.values() for place in places if place.kind == "norm"]


def target(module: str) -> Target | None:
    """What a module of `parse` is in ours; None if it is in neither family."""
    found = _BLOCK.match(module)
    if found is None:
        return _table().get(module)
    pattern = f"{found['stack']}{found['dot']}{{i}}{module[found.end() :]}"
    entry = _table().get(pattern)
    return entry and entry._replace(module=entry.module.format(i=int(found["i"])))


@cache
def _table() -> dict[str, Target]:
    """Every name of a linear layer, dotted and underscored, `{i}` for the block => its target."""
    table: dict[str, Target] = {}
    for family, places in PLACES.items():
        for place in places:
            if place.kind != "linear":
                continue
            parts = len(place.diffusers)
            named = {
                name: Target(place.ours, None, 1, False, frozenset()) for name in (place.ours, place.official)
            }
            for k, name in enumerate(place.diffusers):
                named[name] = Target(place.ours, k if parts > 1 else None, parts, place.swapped, frozenset())
            for name, entry in named.items():
                for form in {name, name.replace(".", "_")}:
                    known = table.get(form, entry)
                    assert known[:4] == entry[:4], f"{form} means two things"
                    table[form] = known._replace(families=known.families | {family})
    return table
