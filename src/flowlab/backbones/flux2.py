"""FLUX.2: shared modulations, SwiGLU, four RoPE axes, no bias anywhere.

Black Forest Labs 2025 (github.com/black-forest-labs/flux2); names and row orders of the weights are theirs.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from flowlab.backbones.flux import Flux
from flowlab.backbones.flux_blocks import BlockShape
from flowlab.backbones.flux_inputs import Modulations
from flowlab.backbones.flux_spec import FluxSpec
from flowlab.core.choices import lookup
from flowlab.layers.modulation import Modulation

__all__ = ["VARIANTS", "Flux2", "Flux2Spec"]

VARIANTS = {
    "dense": False,  # every token sees every token
    "kv": True,  #     references see only each other, at t = 0, and can be cached (klein 9B KV)
}


@dataclass(frozen=True, kw_only=True)
class Flux2Spec(FluxSpec):
    """FluxSpec with FLUX.2's constants, and its variant."""

    channels: int = 128
    mlp_ratio: float = 3.0
    axes: tuple[int, ...] = (32, 32, 32, 32)
    theta: float = 2000.0
    variant: str = "dense"
    """A key of VARIANTS: weights trained with one do not work with another, and shapes cannot tell them."""

    @property
    def entry_channels(self) -> int:
        """The latent's own."""
        return self.channels

    @property
    def num_axes(self) -> int:
        """(t, row, column, l): text tokens are counted on the last."""
        return 4

    @property
    def spacing(self) -> int:
        """References sit at t = 10, 20, ..."""
        return 10

    @property
    def block(self) -> BlockShape:
        """Without biases or modulations of its own."""
        return BlockShape(
            width=self.width,
            heads=self.heads,
            mlp_hidden=self.mlp_hidden,
            gated_mlp=True,
            bias=False,
            own_modulation=False,
        )

    def validate(self) -> None:
        """FluxSpec's, and the variant."""
        lookup(VARIANTS, self.variant, "variant of FLUX.2")
        super().validate()


class Flux2(Flux):
    """model(x_t, t, condition) -> Output, and `velocity`; see Flux."""

    def __init__(self, spec: Flux2Spec):
        super().__init__(spec)
        self.spec: Flux2Spec = spec
        self.double_stream_modulation_img = Modulation(spec.width, 6, bias=False)
        self.double_stream_modulation_txt = Modulation(spec.width, 6, bias=False)
        self.single_stream_modulation = Modulation(spec.width, 3, bias=False)
        self.initialise()

    @property
    def caches_references(self) -> bool:
        """In the variant "kv"."""
        return VARIANTS[self.spec.variant]

    def modulation_layers(self) -> list[Modulation]:
        """Image, text, single, final."""
        return [
            self.double_stream_modulation_img,
            self.double_stream_modulation_txt,
            self.single_stream_modulation,
            self.final_layer.modulation,
        ]

    def arranged(self, vectors: list[tuple[Tensor, ...]]) -> Modulations:
        """Every block of a kind gets the same."""
        img, txt, single, final = vectors
        spec = self.spec
        return Modulations(
            [img] * spec.double_blocks, [txt] * spec.double_blocks, [single] * spec.single_blocks, final
        )

    def embed_pooled(self, pooled: Tensor | None, batch: int) -> Tensor | None:
        """None: FLUX.2 takes no pooled text."""
        if pooled is not None:
            raise ValueError("FLUX.2 takes no pooled text vector; leave pooled out")
        return None
