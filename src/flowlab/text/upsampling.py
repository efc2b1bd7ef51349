"""Prompt upsampling: a language model on this machine rewrites a prompt before the generator reads it.

Settings as in FLUX.2's own code: temperature 0.15, at most 512 new tokens, one system message for text to
image and one for edits; the references of an edit are shown side by side in one picture. Two deliberate
differences: prompts are rewritten one by one from a seed, so that a rewrite is the same whatever stands
beside it, and they are not padded.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from flowlab.core.choices import lookup
from flowlab.text.language import KINDS
from flowlab.text.pretrained import (
    find_config,
    load_image_processor,
    load_model,
    load_tokenizer,
    num_parameters,
)
from flowlab.text.templates import PICTURE_MARKS, mistral_rewriting, qwen3_rewriting

__all__ = ["Upsampler", "load_upsampler", "montage", "upsampler_gb"]

TEMPERATURE = 0.15
MAX_NEW_TOKENS = 512
MAX_PIXELS = 768**2
"""Of the picture that the model sees."""


@dataclass(frozen=True, kw_only=True)
class Writer:
    """A whole language model, with the head that predicts words."""

    model: str
    """Class in `transformers`."""
    kind: str
    """A key of KINDS, for the tokenizer."""
    template: Callable[..., str]
    sees: bool
    """Whether references are shown to it."""


WRITERS: dict[str, Writer] = {  # by the model type of config.json
    "mistral3": Writer(
        model="Mistral3ForConditionalGeneration", kind="mistral", template=mistral_rewriting, sees=True
    ),
    "mistral": Writer(model="MistralForCausalLM", kind="mistral", template=mistral_rewriting, sees=False),
    "qwen3": Writer(model="Qwen3ForCausalLM", kind="qwen3", template=qwen3_rewriting, sees=False),
}


class Upsampler:
    """Rewrites prompts; made by `load_upsampler`."""

    def __init__(self, writer: Writer, model: Any, tokenizer: Any, image_processor: Any = None):
        self.writer = writer
        self.model = model
        self.tokenizer = tokenizer
        self.image_processor = image_processor

    def rewrite(
        self,
        prompts: Sequence[str],
        references: Sequence[Sequence[Image.Image]] | None = None,
        *,
        seed: int = 0,
    ) -> list[str]:
        """The prompts in more words. `references`: those of each prompt, in order; a prompt that has some is
        rewritten as an edit. Where the model fails or says nothing, the prompt stays, with a warning.
        """
        shown = references or [()] * len(prompts)
        if len(shown) != len(prompts):
            raise ValueError(
                f"{len(shown)} lists of references for {len(prompts)} prompts; give one for each"
            )
        return [self._rewritten(prompt, images, seed) for prompt, images in zip(prompts, shown, strict=True)]

    def _rewritten(self, prompt: str, images: Sequence[Image.Image], seed: int) -> str:
        try:
            answer, fault = self._answer(prompt, images, seed).strip(), "the answer is empty"
        except (RuntimeError, ValueError, IndexError) as problem:  # memory, a text or picture it cannot take
            answer, fault = "", (str(problem).strip() or type(problem).__name__).splitlines()[0]
        if not answer:
            warnings.warn(f"prompt {prompt!r} is used as it stands: no rewrite ({fault})", stacklevel=3)
        return answer or prompt

    @torch.no_grad()
    def _answer(self, prompt: str, images: Sequence[Image.Image], seed: int) -> str:
        device = self.model.device
        picture, grid = self._picture(images) if self.writer.sees and images else ({}, {})
        text = self.writer.template(prompt, edit=len(images) > 0, **grid)
        inputs = self.tokenizer(text, add_special_tokens=False, return_tensors="pt").to(device)
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            torch.manual_seed(seed)
            output = self.model.generate(
                input_ids=inputs["input_ids"],
                attention_mask=inputs["attention_mask"],
                **picture,
                max_new_tokens=MAX_NEW_TOKENS,
                do_sample=True,
                temperature=TEMPERATURE,
                use_cache=True,
                pad_token_id=self.tokenizer.pad_token_id,
            )
        new = output[0, inputs["input_ids"].shape[1] :]
        return self.tokenizer.decode(new, skip_special_tokens=True)

    def _picture(self, images: Sequence[Image.Image]) -> tuple[dict[str, Tensor], dict[str, tuple[int, int]]]:
        """All images of a prompt as one picture: the model's inputs, and the template's (rows, columns)."""
        config = self.model.config
        patch = config.vision_config.patch_size * config.spatial_merge_size  # pixels per side of a token
        inputs = self.image_processor(images=[montage(images)], patch_size=patch, return_tensors="pt")
        pixels = inputs["pixel_values"].to(self.model.device, self.model.dtype)  # (1, 3, H, W)
        sizes = inputs["image_sizes"]  # (1, 2)
        rows, columns = (int(side) // patch for side in sizes[0])
        return {"pixel_values": pixels, "image_sizes": sizes.to(pixels.device)}, {"image": (rows, columns)}


def load_upsampler(
    path: str,
    *,
    tokenizer: str | None = None,
    dtype: str = "bfloat16",
    device: torch.device | str | None = None,
    quantization: str | None = None,
) -> Upsampler:
    """The whole language model of a folder or hub id: Mistral Small 3 (which sees references), or Qwen3.

    A diffusers folder of FLUX.2 will do, as its `text_encoder` is a whole model. `tokenizer` names another
    place of the tokenizer and of the settings for pictures.
    """
    config, subfolder = find_config(path)
    writer = lookup(WRITERS, config.model_type, "language model for rewriting")
    kind = KINDS[writer.kind]
    marks = kind.marks + (PICTURE_MARKS if writer.sees else ())
    words, place = tokenizer or path, "tokenizer" if subfolder and tokenizer is None else ""
    return Upsampler(
        writer,
        load_model(
            writer.model, path, subfolder=subfolder, dtype=dtype, device=device, quantization=quantization
        ),
        load_tokenizer(words, subfolder=place, marks=marks, **dict(kind.tokenizer_options)),
        load_image_processor(words, subfolder=place) if writer.sees else None,
    )


def upsampler_gb(path: str, quantization: str | None = None) -> float:
    """Size of the weights that `load_upsampler` would load (10^9 bytes), from the configuration alone."""
    config, _ = find_config(path)
    writer = lookup(WRITERS, config.model_type, "language model for rewriting")
    return num_parameters(writer.model, config) * {None: 2, "8bit": 1, "4bit": 0.5}[quantization] / 1e9


def montage(images: Sequence[Image.Image]) -> Image.Image:
    """RGB images side by side on white, centred in height; shrunk to at most 768^2 pixels."""
    height = max(image.height for image in images)
    joined = Image.new("RGB", (sum(image.width for image in images), height), "white")
    left = 0
    for image in images:
        joined.paste(image.convert("RGB"), (left, (height - image.height) // 2))
        left += image.width
    scale = (MAX_PIXELS / (joined.width * joined.height)) ** 0.5
    if scale >= 1:
        return joined
    size = int(joined.width * scale), int(joined.height * scale)
    return joined.resize(size, Image.Resampling.LANCZOS)
