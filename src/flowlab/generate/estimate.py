"""Memory and time of a plan, before anything is loaded: counted from sizes, timed by one matrix product.

Counts, not promises: for one image of a model of 11.5 M parameters on one CPU thread it said 9 s where it
took 15; what is not counted (norms, softmax, copies) weighs most in a small model.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import torch

from flowlab.autoencoders.kl import KLSpec
from flowlab.autoencoders.sizes import AUTOENCODERS, PUBLISHED
from flowlab.backbones.flux1 import Flux1
from flowlab.backbones.flux2 import Flux2
from flowlab.core.choices import lookup
from flowlab.core.config import from_dict
from flowlab.core.weights import read_weights
from flowlab.generate.loading import Located
from flowlab.generate.offload import OFFLOADS, offload_blocks
from flowlab.generate.plans import Plan
from flowlab.generate.variants import VARIANTS

__all__ = ["Estimate", "decoder_of", "estimate"]

BYTES = {"none": None, "8bit": 1.0, "4bit": 0.5}
"""Per weight of a block, by quantisation; None = as the precision says."""
EMBEDDED_TOKENS = 64
"""Of a prompt, where the text encoder is the embedded one."""
TEXT_GB = {
    128: 0.0,  #      embedded
    4096: 9.8,  #     T5 and CLIP
    7680: 6.2,  #     Qwen3 4B
    12288: 11.7,  #   Qwen3 8B
    15360: 34.7,  #   Mistral Small
}
"""Of the encoder that gives features of a width, in bfloat16, counted from the layers that are kept."""
DECODE_FLOPS, DECODE_MAPS, STRIP_MAPS = 580, 8.0, 2.5
"""Of a convolutional decoder of base width c, per pixel: 580 c^2 operations (counted), and 8 c numbers at
once, or in strips 2.5 c."""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What a run will need."""

    tokens: str
    """Of the longest sequence, in words."""
    weights_gb: float
    """Of the transformer, as kept on the device."""
    activations_gb: float
    """Of one block at the batch size."""
    text_gb: float
    """Of the text encoder, as kept on the device."""
    decode_gb: float
    """Of decoding a batch."""
    seconds: float
    """Of sampling and decoding all images, without loading and text."""
    beside_gb: float = 0.0
    """In main memory, with offload: all blocks and the text encoder."""

    @property
    def peak_gb(self) -> float:
        """Model and text encoder are held together; activations and decoding take turns."""
        return self.weights_gb + self.text_gb + max(self.activations_gb, self.decode_gb)

    def lines(self) -> list[str]:
        """For a terminal."""
        parts = f"weights {self.weights_gb:.2f}, text encoder {self.text_gb:.2f}, "
        parts += f"activations {self.activations_gb:.2f}, decoding {self.decode_gb:.2f}"
        beside = f" and {self.beside_gb:.2f} GB of main memory" if self.beside_gb else ""
        return [
            f"tokens    {self.tokens}",
            f"memory    about {self.peak_gb:.2f} GB ({parts}){beside}",
            f"time      about {self.seconds:.1f} s and the time to load",
        ]


def estimate(
    located: Located,
    plans: Sequence[Plan],
    *,
    batch_size: int,
    precision: torch.dtype,
    device: torch.device,
    quantise: str = "none",
    offload: str = "none",
    tiles: bool = False,
) -> Estimate:
    """What `plans` will need on `device`."""
    decoder, model = decoder_of(located.autoencoder), located.outline
    per_weight, fewer = precision.itemsize, lookup(BYTES, quantise, "quantisation")
    away = lookup(OFFLOADS, offload, "offload") is offload_blocks
    blocks, largest = _block_weights(model)
    inside = largest * per_weight if away else blocks * (fewer or per_weight)
    encoder = _text_gb(located) * (fewer or 2) / 2
    weights = sum(one.numel() for one in model.parameters()) - blocks
    flops, longest = _work(model, _text_tokens(located), decoder, plans)
    spec, batch = model.spec, min(batch_size, sum(len(made.requests) for made in plans))
    block_numbers = 6 * spec.width + 4 * spec.mlp_hidden
    pixels = max(made.width * made.height for made in plans)
    maps = STRIP_MAPS if tiles else DECODE_MAPS
    return Estimate(
        tokens=f"text {longest[0]}, image {longest[1]}, references {longest[2]}",
        weights_gb=(weights * per_weight + inside) / 1e9,
        activations_gb=batch * sum(longest) * block_numbers * per_weight / 1e9,
        text_gb=0.0 if away else encoder,
        decode_gb=batch * pixels * maps * decoder.channels * 4 / 1e9,
        seconds=flops / flops_per_second(device, precision, spec.width, sum(longest) * batch),
        beside_gb=blocks * per_weight / 1e9 + encoder if away else 0.0,
    )


def decoder_of(name_or_path: str) -> KLSpec:
    """What is known of an autoencoder without loading it; FLUX.2's size where nothing is."""
    known = (AUTOENCODERS | PUBLISHED).get(name_or_path)
    if isinstance(known, KLSpec):
        return known
    path = Path(name_or_path)
    if path.is_file() and path.suffix == ".safetensors":
        metadata = read_weights(path)[1]
        described = json.loads(metadata.get("autoencoder", "{}"))
        if described.get("family") == "kl":
            return from_dict(KLSpec, described["options"], str(path))
    published = PUBLISHED["flux2_f8c32"]
    assert isinstance(published, KLSpec)
    return published


# ---- counting ----------------------------------------------------------------------------------------------


def _work(
    model: Flux1 | Flux2, text: int, decoder: KLSpec, plans: Sequence[Plan]
) -> tuple[float, tuple[int, int, int]]:
    """Operations of all images, and the longest sequence: tokens of text, image and references."""
    flops, longest = 0.0, (0, 0, 0)
    forward = cache(partial(_forward_flops, model, text))
    for made in plans:
        target = (made.width // decoder.stride) * (made.height // decoder.stride)
        guided = VARIANTS[made.variant].kind == "cfg" and made.guidance != 1
        evaluations = (len(made.times) - 1) * (2 if guided else 1)
        for request in made.requests:
            shown = [one.image.size for one in request.references]
            extra = sum((width // decoder.stride) * (height // decoder.stride) for width, height in shown)
            longest = max(longest, (text, target, extra), key=sum)
            flops += forward(target + extra) * evaluations
            flops += DECODE_FLOPS * decoder.channels**2 * made.width * made.height
    return flops, longest


def _block_weights(model: Flux1 | Flux2) -> tuple[int, int]:
    """Weights in all blocks, and in the largest matrix of one."""
    sizes = [one.numel() for name, one in model.named_parameters() if "_blocks." in name]
    return sum(sizes), max(sizes)


def _forward_flops(model: Flux1 | Flux2, text: int, image: int) -> float:
    """Of one forward pass of one sample: two operations a weight and token, and attention."""
    flops = 0.0
    for name, one in model.named_parameters():
        if one.ndim != 2 or "_blocks." not in name or "mod" in name:
            continue
        tokens = text + image if name.startswith("single") else text if ".txt_" in name else image
        flops += 2.0 * one.numel() * tokens
    spec = model.spec
    return flops + (spec.double_blocks + spec.single_blocks) * 4.0 * (text + image) ** 2 * spec.width


def flops_per_second(device: torch.device, dtype: torch.dtype, width: int, rows: int) -> float:
    """Measured on a product of the model's shape, for a tenth of a second after a warm-up."""
    a = torch.ones(min(rows, 4096), width, device=device, dtype=dtype)
    b = torch.ones(width, 4 * width, device=device, dtype=dtype)
    (a @ b)[0, 0].item()
    start, runs = time.perf_counter(), 0
    while time.perf_counter() - start < 0.1:
        (a @ b)[0, 0].item()  # waits for the device
        runs += 1
    return runs * 8.0 * len(a) * width**2 / (time.perf_counter() - start)


def _text_tokens(located: Located) -> int:
    return EMBEDDED_TOKENS if located.text == "embedded" else VARIANTS[located.variant].text_length


def _text_gb(located: Located) -> float:
    """By the width that the model reads; of another, the files of a folder, layers not kept included."""
    if (width := located.outline.spec.text_width) in TEXT_GB:
        return TEXT_GB[width]
    files = Path(located.text).glob("text_encoder*/*.safetensors")
    return sum(file.stat().st_size for file in files) / 1e9
