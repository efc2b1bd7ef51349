"""What a caller may say of a FLUX file beside its shapes, in our words or in those of the published code."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from flowlab.backbones.flux1 import Flux1Spec
from flowlab.backbones.flux2 import Flux2Spec
from flowlab.backbones.flux_names import TITLES
from flowlab.core.choices import lookup

__all__ = ["SPECS", "VARIANTS", "settled"]

SPECS: dict[str, type[Flux1Spec] | type[Flux2Spec]] = {"flux1": Flux1Spec, "flux2": Flux2Spec}

ALIASES = {
    # BFL's code                            diffusers' config.json
    "hidden_size": "width",
    "num_heads": "heads",                   "num_attention_heads": "heads",
    "depth": "double_blocks",               "num_layers": "double_blocks",
    "depth_single_blocks": "single_blocks", "num_single_layers": "single_blocks",
    "in_channels": "channels",              "out_channels": "channels",
    "context_in_dim": "text_width",         "joint_attention_dim": "text_width",
    "vec_in_dim": "pooled_width",           "pooled_projection_dim": "pooled_width",
    "guidance_embed": "guidance",           "guidance_embeds": "guidance",
    "axes_dim": "axes",                     "axes_dims_rope": "axes",
                                            "rope_theta": "theta",
}  # fmt: skip
"""Published name of a field => ours, where a spec has no field of that name."""

DENSE, KV = {"variant": "dense"}, {"variant": "kv"}
EMBEDDED, PLAIN = {"guidance": True}, {"guidance": False}
VARIANTS: dict[str, dict[str, dict[str, Any]]] = {
    "flux2": {
        "dense": DENSE,
        "dev": DENSE | EMBEDDED,
        "klein": DENSE | PLAIN, "distilled": DENSE,
        "klein_base": DENSE | PLAIN, "base": DENSE,
        "scenes": DENSE | PLAIN,
        "kv": KV, "klein_kv": KV,
    },
    "flux1": {
        "dev": EMBEDDED, "krea": EMBEDDED, "lite": EMBEDDED,
        "schnell": PLAIN,
        "kontext": EMBEDDED | {"reference_t": 1},
        "fill": EMBEDDED, "canny": EMBEDDED, "depth": EMBEDDED,
    },
}  # fmt: skip
"""Family => name of a published model, without family and size => what it says of the spec."""


def settled(overrides: Mapping[str, Any], family: str, where: str) -> dict[str, Any]:
    """Overrides as fields of the family's spec. An unknown one, or two that differ, is a ValueError."""
    own = {field.name: field.name for field in fields(SPECS[family])}
    known = {**own, "variant": "variant", "dtype": "dtype"}  # as errors list them
    found: dict[str, Any] = {}
    for name, value in overrides.items():
        field = name if name in own else ALIASES.get(name, name)
        if field not in own and name != "variant":
            lookup(known, name, f"override of {TITLES[family]}")
        said = _of_variant(value, family) if name == "variant" else {field: _plain(value)}
        for field, value in said.items():
            if found.setdefault(field, value) != value:
                raise ValueError(f"{where}: {name} says {field}={value!r}, another override {found[field]!r}")
    return found


def _of_variant(name: Any, family: str) -> dict[str, Any]:
    """Of "klein_base", "flux2_klein_base" and "FLUX.2-klein-base-4B" alike, or "FLUX.1-Krea-dev"."""
    words = re.sub(r"[^a-z0-9]+", "_", str(name).casefold())
    words = re.sub(r"^flux_?[12]?_|_\d+b(?=_|$)", "", words)
    words = words.removeprefix("dev_").removesuffix("_dev")
    table = VARIANTS[family]
    return lookup(table, words if words in table else str(name), f"variant of {TITLES[family]}")


def _plain(value: Any) -> Any:
    """Lists as the tuples that specs hold."""
    return tuple(value) if isinstance(value, list) else value
