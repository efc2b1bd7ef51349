"""Tiny models of the published classes with random weights and tokenizers, saved as folders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from flowlab.text.templates import MISTRAL_MARKS, QWEN3_MARKS

LINES = ["a red star above a #3366CC ring", "two blue squares, left of the circle", '{"shape":"ring"}'] * 4

QWEN3_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n"
    "{% endif %}{% endif %}"
)
MISTRAL_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% set mark = 'SYSTEM_PROMPT' if message.role == 'system' else 'INST' %}[{{ mark }}]"
    "{% for block in message.content %}{{ '[IMG]' if block.type == 'image' else block.text }}{% endfor %}"
    "[/{{ mark }}]{% endfor %}"
)

TEXT: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
}


def save_tokenizer(folder: Path, marks: tuple[str, ...], **options: Any) -> Any:
    """A byte-level BPE whose first token is for padding; `options` of PreTrainedTokenizerFast."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # pyright: ignore
    tokenizer.decoder = decoders.ByteLevel()  # pyright: ignore
    trainer = trainers.BpeTrainer(
        vocab_size=330,
        special_tokens=["<pad>", "</s>", *marks],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(LINES, trainer)
    if options.pop("ends", False):
        tokenizer.post_processor = processors.TemplateProcessing(
            single="$A </s>", special_tokens=[("</s>", 1)]
        )
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", **options)
    fast.save_pretrained(folder)
    return fast


def save_qwen3(folder: Path, num_layers: int = 29) -> Any:
    """Qwen3ForCausalLM of 29 layers in `text_encoder`, as klein's repositories have it."""
    tokenizer = save_tokenizer(
        folder / "tokenizer", QWEN3_MARKS, chat_template=QWEN3_TEMPLATE, eos_token="<|im_end|>"
    )
    config = transformers.Qwen3Config(num_hidden_layers=num_layers, vocab_size=len(tokenizer), **TEXT)
    return _saved(transformers.Qwen3ForCausalLM(config), folder / "text_encoder")


def save_mistral(folder: Path, num_layers: int = 31) -> Any:
    """Mistral3ForConditionalGeneration of 31 layers with eyes, as dev's repository has it."""
    marks = (*MISTRAL_MARKS, "[IMG]", "[IMG_BREAK]", "[IMG_END]")
    tokenizer = save_tokenizer(
        folder / "tokenizer", marks, chat_template=MISTRAL_TEMPLATE, bos_token="<s>", eos_token="</s>"
    )
    config = transformers.Mistral3Config(
        text_config=transformers.MistralConfig(
            num_hidden_layers=num_layers, vocab_size=len(tokenizer), **TEXT
        ),
        vision_config=transformers.PixtralVisionConfig(
            hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2, patch_size=14
        ),
        image_token_index=tokenizer.convert_tokens_to_ids("[IMG]"),
    )
    pictures = transformers.PixtralImageProcessorPil(size={"longest_edge": 112}, patch_size=14)
    pictures.save_pretrained(folder / "tokenizer")
    return _saved(transformers.Mistral3ForConditionalGeneration(config), folder / "text_encoder")


def save_t5_clip(folder: Path) -> tuple[Any, Any]:
    """T5 in `text_encoder_2` and CLIP in `text_encoder`, as FLUX.1's repositories have them."""
    words = save_tokenizer(folder / "tokenizer_2", (), eos_token="</s>", ends=True)
    t5 = transformers.T5Config(
        d_model=16,
        d_kv=8,
        d_ff=24,
        num_layers=2,
        num_heads=2,
        vocab_size=len(words),
        feed_forward_proj="gated-gelu",
    )
    save_tokenizer(folder / "tokenizer", (), eos_token="</s>", ends=True)
    clip = transformers.CLIPTextConfig(
        hidden_size=12,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        vocab_size=len(words),
        eos_token_id=1,
        bos_token_id=0,
    )
    return (
        _saved(transformers.T5EncoderModel(t5), folder / "text_encoder_2"),
        _saved(transformers.CLIPTextModel(clip), folder / "text_encoder"),
    )


def _saved(model: Any, folder: Path) -> Any:
    """Weights large enough that layers differ, drawn from a fixed seed; saved and frozen."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / parameter.shape[-1] ** 0.5)
    model.save_pretrained(folder)
    return model.eval().requires_grad_(False)
