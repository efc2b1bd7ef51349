"""Names of the tensors of diffusers' AutoencoderRAE and of RAE's own decoders, theirs and ours, in one table
per part.

The encoder's names are those of the `transformers` that wrote the file, which version 5 changed; both are
read, and either can be written.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

__all__ = [
    "FIRST_MLP",
    "NAMINGS",
    "POSITION_TABLES",
    "current_names",
    "join_attention",
    "older_names",
    "original_names",
    "our_to_their_names",
    "split_attention",
]

NAMINGS = {"transformers5": False, "transformers4": True}  # whether the encoder's names are the older ones
AFFINE = ("weight", "bias")

POSITION_TABLES = {  # name, and its rows that belong to no patch
    "dinov2": ("encoder.embeddings.position_embeddings", 1),
    "siglip2": ("encoder.embeddings.position_embedding.weight", 0),
    "mae": ("encoder.embeddings.position_embeddings", 1),
}
FIRST_MLP = {
    "dinov2": "encoder.encoder.layer.0.mlp.fc1.weight",
    "siglip2": "encoder.encoder.layers.0.mlp.fc1.weight",
    "mae": "encoder.layers.0.mlp.fc1.weight",
}
TOP = {  # ours: theirs
    "encoder.mean": "encoder_mean",
    "encoder.std": "encoder_std",
    "normalise.mean": "_latents_mean",
    "normalise.std": "_latents_std",
    "decoder.class_token": "decoder.trainable_cls_token",
    "decoder.latent_in.weight": "decoder.decoder_embed.weight",
    "decoder.latent_in.bias": "decoder.decoder_embed.bias",
    "decoder.norm.weight": "decoder.decoder_norm.weight",
    "decoder.norm.bias": "decoder.decoder_norm.bias",
    "decoder.pixels_out.weight": "decoder.decoder_pred.weight",
    "decoder.pixels_out.bias": "decoder.decoder_pred.bias",
}
BLOCK = {  # ours: theirs, inside a decoder block; `join_attention` makes to_qkv of to_q, to_k and to_v
    "norm1": "layernorm_before",
    "attention.qkv": "attention.to_qkv",
    "attention.proj": "attention.to_out.0",
    "norm2": "layernorm_after",
    "mlp.in_layer": "intermediate.dense",
    "mlp.out_layer": "output.dense",
}
ATTENTION = {  # transformers 5: transformers 4
    "attention.q_proj": "attention.attention.query",
    "attention.k_proj": "attention.attention.key",
    "attention.v_proj": "attention.attention.value",
    "attention.o_proj": "attention.output.dense",
}
ORIGINAL = {  # RAE's own decoder is MAE's of transformers 4: its name inside a block: diffusers'
    "attention.attention.query": "attention.to_q",
    "attention.attention.key": "attention.to_k",
    "attention.attention.value": "attention.to_v",
    "attention.output.dense": "attention.to_out.0",
}
OLDER_BLOCK = {  # (path of the blocks now, path then, names inside a block that changed)
    "dinov2": ("encoder.encoder.layer", "encoder.encoder.layer", ATTENTION),
    "mae": (
        "encoder.layers",
        "encoder.encoder.layer",
        ATTENTION
        | {
            "layernorm_before": "layernorm_before",
            "layernorm_after": "layernorm_after",
            "mlp.fc1": "intermediate.dense",
            "mlp.fc2": "output.dense",
        },
    ),
}


def our_to_their_names(network: Iterable[str], depth: int) -> dict[str, str]:
    """Our name: theirs, for every tensor; the decoder's queries, keys and values still joined.

    `network` are the names inside the encoder's network, `depth` counts the decoder's blocks.
    """
    blocks = {
        f"decoder.blocks.{i}.{ours}.{part}": f"decoder.decoder_layers.{i}.{theirs}.{part}"
        for i in range(depth)
        for ours, theirs in BLOCK.items()
        for part in AFFINE
    }
    return TOP | blocks | {f"encoder.network.{key}": f"encoder.{key}" for key in network}


def older_names(kind: str, depth: int, tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """transformers 5: transformers 4, for the encoder's names that differ."""
    if kind == "siglip2":  # all of them, behind one more prefix
        prefix = "encoder."
        return {
            key: f"encoder.vision_model.{key.removeprefix(prefix)}"
            for key in tensors
            if key.startswith(prefix)
        }
    now, then, names = OLDER_BLOCK[kind]
    return {
        f"{now}.{i}.{current}.{part}": f"{then}.{i}.{older}.{part}"
        for i in range(depth)
        for current, older in names.items()
        for part in AFFINE
    }


def current_names(kind: str, depth: int, tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """The inverse of `older_names`; names that are current already are not in it."""
    if kind == "siglip2":
        prefix = "encoder.vision_model."
        return {key: f"encoder.{key.removeprefix(prefix)}" for key in tensors if key.startswith(prefix)}
    return {older: current for current, older in older_names(kind, depth, tensors).items()}


def original_names(depth: int) -> dict[str, str]:
    """RAE's own name of a decoder's tensor: diffusers', where they differ by more than the prefix."""
    return {
        f"decoder_layers.{i}.{original}.{part}": f"decoder_layers.{i}.{theirs}.{part}"
        for i in range(depth)
        for original, theirs in ORIGINAL.items()
        for part in AFFINE
    }


# ---- tensors -----------------------------------------------------------------------------------------------


def join_attention(tensors: Mapping[str, Tensor], depth: int) -> dict[str, Tensor]:
    """Queries, keys and values of each decoder block stacked into one matrix; a missing one stays missing."""
    joined = dict(tensors)
    for i in range(depth):
        for part in AFFINE:
            names = _attention_names(i, part)
            if all(name in joined for name in names):
                joined[_joined_name(i, part)] = torch.cat([joined.pop(name) for name in names])
    return joined


def split_attention(tensors: Mapping[str, Tensor], depth: int) -> dict[str, Tensor]:
    """The inverse of `join_attention`."""
    split = dict(tensors)
    for i in range(depth):
        for part in AFFINE:
            split.update(
                zip(_attention_names(i, part), split.pop(_joined_name(i, part)).chunk(3), strict=True)
            )
    return split


def _attention_names(block: int, part: str) -> list[str]:
    return [f"decoder.decoder_layers.{block}.attention.to_{letter}.{part}" for letter in "qkv"]


def _joined_name(block: int, part: str) -> str:
    return f"decoder.decoder_layers.{block}.attention.to_qkv.{part}"
