"""FLUX.2's text encoders: three hidden layers of a language model, side by side.

FLUX.2 dev reads Mistral Small 3, klein reads Qwen3. A prompt is set in the template of its training, padded
to 512 tokens, and the states *after* the k-th layer, before any final norm, are joined layer by layer:
channels [layer k1 | layer k2 | layer k3]. The generator attends to the padding too, so its side and length
matter.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from flowlab.core.choices import lookup
from flowlab.text.base import TextFeatures, warn_of_cuts
from flowlab.text.pretrained import find_config, load_model, load_tokenizer, model_identity, token_ids
from flowlab.text.templates import MISTRAL_MARKS, QWEN3_MARKS, mistral, qwen3

__all__ = ["KINDS", "LENGTH", "LanguageEncoder", "LanguageKind", "load"]

LENGTH = 512
"""Tokens of a prompt, with its template."""
RENAMES = {r"^(model\.)?language_model\.(model\.)?": ""}
"""Of a model that also sees (Mistral3ForConditionalGeneration), the language model alone."""


@dataclass(frozen=True, kw_only=True)
class LanguageKind:
    """What sets one family of language models apart."""

    model: str
    """Class of the network in `transformers`, without the head that predicts words."""
    model_types: tuple[str, ...]
    """As config.json says."""
    layers: tuple[int, int, int]
    """Whose outputs are kept; 0 would be the embeddings."""
    padding_side: str
    template: Callable[[str], str]
    marks: tuple[str, ...]
    """Tokens that its tokenizer must know, or the template would fall into letters."""
    tokenizer_options: tuple[tuple[str, Any], ...] = ()
    weights: str
    """Hub id of the published weights."""
    tokenizer: str
    """Hub id of the tokenizer that goes with them."""


KINDS: dict[str, LanguageKind] = {
    "mistral": LanguageKind(
        model="MistralModel",
        model_types=("mistral", "mistral3"),
        layers=(10, 20, 30),
        padding_side="left",
        template=mistral,
        marks=MISTRAL_MARKS,
        # The published tokenizer cuts some words otherwise than Mistral meant; FLUX.2's code leaves it so.
        tokenizer_options=(("fix_mistral_regex", False),),
        weights="mistralai/Mistral-Small-3.2-24B-Instruct-2506",
        tokenizer="mistralai/Mistral-Small-3.1-24B-Instruct-2503",
    ),
    "qwen3": LanguageKind(
        model="Qwen3Model",
        model_types=("qwen3",),
        layers=(9, 18, 27),
        padding_side="right",
        template=qwen3,
        marks=QWEN3_MARKS,
        weights="Qwen/Qwen3-4B",  # klein 4B; klein 9B reads Qwen/Qwen3-8B
        tokenizer="Qwen/Qwen3-4B",
    ),
}


class LanguageEncoder:
    """Prompts => features (B, 512, 3 * hidden size) in the model's number format, on its device.

    Prompts go through the model one by one: memory stays small, and none depends on its neighbours.
    """

    length = LENGTH

    def __init__(self, kind: LanguageKind, model: Any, tokenizer: Any):
        self.kind = kind
        self.model = model
        self.tokenizer = tokenizer
        self.identity = (
            f"{kind.model} {model_identity(model, tokenizer)} layers {kind.layers} of {LENGTH} tokens"
        )

    @property
    def width(self) -> int:
        """Three hidden states."""
        return len(self.kind.layers) * self.model.config.hidden_size

    @torch.no_grad()
    def encode(self, prompts: Sequence[str]) -> TextFeatures:
        """Features of at least one prompt; those of more than 512 tokens are cut, with a warning."""
        warn_of_cuts(prompts, [self.num_tokens(prompt) for prompt in prompts], LENGTH)
        return TextFeatures(torch.cat([self._features(self.kind.template(prompt)) for prompt in prompts]))

    def num_tokens(self, prompt: str) -> int:
        """Tokens of the prompt in its template, before it is padded or cut."""
        return len(token_ids(self.tokenizer, self.kind.template(prompt), special=False))

    def _features(self, text: str) -> torch.Tensor:
        """(1, L, 3 * hidden) of a text that holds all its marks."""
        inputs = self.tokenizer(
            text,
            add_special_tokens=False,
            padding="max_length",
            truncation=True,
            max_length=LENGTH,
            return_tensors="pt",
        ).to(self.model.device)
        states = self.model(
            input_ids=inputs["input_ids"],
            attention_mask=inputs["attention_mask"],
            output_hidden_states=True,
            use_cache=False,
        ).hidden_states
        return torch.cat([states[layer] for layer in self.kind.layers], dim=-1)


# ---- loading -----------------------------------------------------------------------------------------------


def load(
    name: str,
    *,
    path: str | None = None,
    tokenizer: str | None = None,
    dtype: str = "bfloat16",
    device: torch.device | str | None = None,
    quantization: str | None = None,
) -> LanguageEncoder:
    """The encoder of a kind of KINDS, from a folder or hub id; by default the published weights.

    `path` may be a model's own folder or a diffusers folder with `text_encoder` and `tokenizer`; `tokenizer`
    names another place of the tokenizer. `quantization`: None, "4bit" or "8bit".
    """
    kind = lookup(KINDS, name, "language model")
    place = path or kind.weights
    config, subfolder = find_config(place)
    if config.model_type not in kind.model_types:
        raise ValueError(
            f"{place} holds a model of type {config.model_type!r}, not {' or '.join(kind.model_types)}"
        )
    words = load_tokenizer(
        tokenizer or path or kind.tokenizer,
        subfolder="tokenizer" if subfolder and tokenizer is None else "",
        padding_side=kind.padding_side,
        marks=kind.marks,
        **dict(kind.tokenizer_options),
    )
    depth = max(kind.layers)
    model = load_model(
        kind.model,
        place,
        subfolder=subfolder,
        config=_truncated(config.get_text_config(), depth, place),
        renames=RENAMES if config.model_type == "mistral3" else None,
        unused=lambda tensor: _unused(tensor, depth),
        dtype=dtype,
        device=device,
        quantization=quantization,
    )
    # The last kept state would come normed: right behind the last layer of the model, the library norms.
    model.norm = nn.Identity()
    return LanguageEncoder(kind, model, words)


def _truncated(config: Any, depth: int, where: str) -> Any:
    """The configuration with the first `depth` layers alone."""
    if config.num_hidden_layers < depth:
        raise ValueError(
            f"the language model at {where} has {config.num_hidden_layers} layers; FLUX.2 reads layer {depth}"
        )
    config = copy.deepcopy(config)
    config.num_hidden_layers = depth
    if getattr(config, "layer_types", None):  # Qwen3: the attention of each layer
        config.layer_types = config.layer_types[:depth]
    return config


def _unused(tensor: str, depth: int) -> bool:
    """Whether a tensor of the file belongs to what is cut off: later layers, the head, and the eyes."""
    if re.match(r"(lm_head|(model\.)?(vision_tower|multi_modal_projector))\.", tensor):
        return True
    layer = re.match(r"(?:model\.)?layers\.(\d+)\.", tensor)
    return layer is not None and int(layer[1]) >= depth
