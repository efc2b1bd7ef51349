"""FLUX.1: a modulation per block, GELU, three RoPE axes, pooled text, biases everywhere.

Black Forest Labs 2024 (github.com/black-forest-labs/flux); names and row orders of the weights are theirs.
Its 2 x 2 packing is part of our final latent (64 channels at 1/16 of the pixels), so the model sees one token
per place.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from torch import Tensor

from flowlab.backbones.flux import Flux
from flowlab.backbones.flux_blocks import BlockShape
from flowlab.backbones.flux_inputs import Modulations
from flowlab.backbones.flux_spec import FluxSpec
from flowlab.layers.embeddings import VectorEmbedding
from flowlab.layers.modulation import Modulation

__all__ = ["Flux1", "Flux1Spec"]


@dataclass(frozen=True, kw_only=True)
class Flux1Spec(FluxSpec):
    """FluxSpec with FLUX.1's constants, its pooled text and the channels that Fill, Canny and Depth add."""

    channels: int = 64
    in_channels: int = 64
    """Of an image token as it enters: 64, or with concat 128 (Canny, Depth) or 384 (Fill)."""
    text_width: int = 4096
    pooled_width: int = 768
    """Of the pooled text vector."""
    mlp_ratio: float = 4.0
    axes: tuple[int, ...] = (16, 56, 56)
    theta: float = 10000.0
    reference_t: int = 1
    """RoPE time of the first reference (Kontext's is 1); further ones follow at its multiples."""

    @property
    def entry_channels(self) -> int:
        """in_channels."""
        return self.in_channels

    @property
    def num_axes(self) -> int:
        """(t, row, column): all text tokens sit at 0."""
        return 3

    @property
    def spacing(self) -> int:
        """reference_t."""
        return self.reference_t

    @property
    def block(self) -> BlockShape:
        """With biases and a modulation of its own."""
        return BlockShape(
            width=self.width,
            heads=self.heads,
            mlp_hidden=self.mlp_hidden,
            gated_mlp=False,
            bias=True,
            own_modulation=True,
        )

    def validate(self) -> None:
        """FluxSpec's, and the widths of FLUX.1."""
        if self.in_channels < self.channels:
            raise ValueError(f"in_channels {self.in_channels} is less than the latent's {self.channels}")
        if self.pooled_width < 1:
            raise ValueError(f"pooled_width of a FLUX.1 is {self.pooled_width}; it must be at least 1")
        super().validate()


class Flux1(Flux):
    """model(x_t, t, condition) -> Output, and `velocity`; see Flux."""

    def __init__(self, spec: Flux1Spec):
        super().__init__(spec)
        self.spec: Flux1Spec = spec
        self.vector_in = VectorEmbedding(spec.pooled_width, spec.width)
        self.initialise()

    @property
    def caches_references(self) -> bool:
        """Never."""
        return False

    def modulation_layers(self) -> list[Modulation]:
        """Image and text of each double block, then each single block, then the final layer."""
        of_blocks = [layer for block in self.doubles() for layer in (block.img_mod, block.txt_mod)]
        of_blocks += [block.modulation for block in self.singles()]
        return [cast(Modulation, layer) for layer in of_blocks] + [self.final_layer.modulation]

    def arranged(self, vectors: list[tuple[Tensor, ...]]) -> Modulations:
        """Every block gets its own."""
        doubles = 2 * self.spec.double_blocks
        return Modulations(vectors[:doubles:2], vectors[1:doubles:2], vectors[doubles:-1], vectors[-1])

    def embed_pooled(self, pooled: Tensor | None, batch: int) -> Tensor | None:
        """(B, width)."""
        wanted = (batch, self.spec.pooled_width)
        if pooled is None or pooled.shape != wanted:
            got = None if pooled is None else tuple(pooled.shape)
            raise ValueError(f"pooled text is {got}; FLUX.1 needs {wanted} from its CLIP text encoder")
        return self.vector_in(pooled.to(self.img_in.weight.dtype))
