"""config.json of diffusers' two FLUX transformers, read and written."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flowlab.backbones.flux1 import Flux1Spec
from flowlab.backbones.flux2 import Flux2Spec

__all__ = ["CLASSES", "WEIGHTS", "stated", "untold", "written"]

CLASSES = {"flux1": "FluxTransformer2DModel", "flux2": "Flux2Transformer2DModel"}
"""The class of each family."""
WEIGHTS = "diffusion_pytorch_model.safetensors"
"""The weights beside the config."""
_FIXED = {"patch_size": 1, "eps": 1e-6, "timestep_guidance_channels": 256}
"""Settings of diffusers that no FLUX changes."""

_DEFAULTS: dict[str, dict[str, Any]] = {
    "flux1": {
        "in_channels": 64, "num_layers": 19, "num_single_layers": 38, "attention_head_dim": 128,
        "num_attention_heads": 24, "joint_attention_dim": 4096, "guidance_embeds": False,
        "axes_dims_rope": (16, 56, 56), "pooled_projection_dim": 768,
    },
    "flux2": {
        "in_channels": 128, "num_layers": 8, "num_single_layers": 48, "attention_head_dim": 128,
        "num_attention_heads": 48, "joint_attention_dim": 15360, "guidance_embeds": True,
        "axes_dims_rope": (32, 32, 32, 32), "mlp_ratio": 3.0, "rope_theta": 2000,
    },
}  # fmt: skip
"""Of diffusers' classes, where a config leaves them out."""


def stated(config: Mapping[str, Any], where: str) -> Flux1Spec | Flux2Spec:
    """The whole spec, for a model whose tensors are not at hand."""
    families = {kind: family for family, kind in CLASSES.items()}
    if (kind := config.get("_class_name")) not in families:
        raise ValueError(f"{where} is of a {kind}; prompts need one of {', '.join(families)}")
    family = families[str(kind)]
    said = _DEFAULTS[family] | {name: value for name, value in config.items() if value is not None}
    common: dict[str, Any] = {
        "channels": said.get("out_channels", said["in_channels"]),
        "width": said["attention_head_dim"] * said["num_attention_heads"],
        "heads": said["num_attention_heads"],
        "double_blocks": said["num_layers"],
        "single_blocks": said["num_single_layers"],
        "text_width": said["joint_attention_dim"],
        "guidance": said["guidance_embeds"],
        "axes": tuple(said["axes_dims_rope"]),
    }
    if family == "flux2":
        return Flux2Spec(**common, mlp_ratio=said["mlp_ratio"], theta=float(said["rope_theta"]))
    return Flux1Spec(**common, in_channels=said["in_channels"], pooled_width=said["pooled_projection_dim"])


def untold(config: Mapping[str, Any], family: str, guidance: bool, where: str) -> dict[str, Any]:
    """The fields of a spec that shapes do not tell. A config that contradicts the tensors is a ValueError."""
    kind = config.get("_class_name", CLASSES[family])
    if kind != CLASSES[family]:
        raise ValueError(f"{where}: config.json names {kind}, but the tensors are of a {CLASSES[family]}")
    for name, value in _FIXED.items():
        if config.get(name, value) != value:
            raise ValueError(f"{where}: config.json has {name} {config[name]!r}; flowlab has only {value}")
    if config.get("guidance_embeds", guidance) != guidance:
        what = "has" if guidance else "lacks"
        raise ValueError(f"{where}: config.json contradicts the file, which {what} a guidance embedding")
    fields: dict[str, Any] = {}
    if config.get("axes_dims_rope") is not None:
        fields["axes"] = tuple(config["axes_dims_rope"])
    if config.get("rope_theta") is not None:
        fields["theta"] = float(config["rope_theta"])
    return fields


def written(spec: Flux1Spec | Flux2Spec) -> dict[str, Any]:
    """The config of a model; what diffusers' class cannot express is a ValueError."""
    config = {
        "patch_size": 1,
        "in_channels": spec.entry_channels,
        "out_channels": spec.channels,
        "num_layers": spec.double_blocks,
        "num_single_layers": spec.single_blocks,
        "attention_head_dim": spec.width // spec.heads,
        "num_attention_heads": spec.heads,
        "joint_attention_dim": spec.text_width,
        "guidance_embeds": spec.guidance,
        "axes_dims_rope": list(spec.axes),
    }
    if isinstance(spec, Flux2Spec):
        more = {"mlp_ratio": spec.mlp_ratio, "rope_theta": spec.theta, **_FIXED}
        return {"_class_name": CLASSES["flux2"], **config, **more}
    if (spec.mlp_ratio, spec.theta) != (4.0, 10000.0):
        raise ValueError(
            f"diffusers' FLUX.1 has mlp_ratio 4 and theta 10000, this model {spec.mlp_ratio:g} and"
            f" {spec.theta:g}; use save or save_official"
        )
    return {"_class_name": CLASSES["flux1"], **config, "pooled_projection_dim": spec.pooled_width}
