"""What stays over the steps of one sampling run, and the checks of what a FLUX is given."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from torch import Tensor

from flowlab.backbones.flux_blocks import KeyValue, Surroundings
from flowlab.backbones.flux_spec import FluxSpec

__all__ = ["Modulations", "Prepared", "ReferenceCache", "check_condition", "check_latent"]


@dataclass(frozen=True)
class ReferenceCache:
    """Keys and values of the references of B samples in every block, for any target, text and time."""

    double: tuple[KeyValue, ...]
    """Of each double block, (B, H, M, D) each."""
    single: tuple[KeyValue, ...]
    """Of each single block."""
    mask: Tensor | None
    """(B, M) bool, true at tokens that exist; None where no sample is padded."""

    @property
    def batch(self) -> int:
        """B."""
        return len((self.double or self.single)[0][0])


@dataclass(frozen=True)
class Prepared:
    """What stays over the steps of one sampling run."""

    size: tuple[int, int]
    """Rows and columns of the latent."""
    text: Tensor
    """(B, L, width), projected."""
    references: Tensor | None
    """(B, M, width), projected; they are part of the sequence."""
    cache: ReferenceCache | None
    """Of references that are only looked at."""
    concat: Tensor | None
    """(B, h w, entry_channels - C)."""
    vector: Tensor | None
    """(B, width), what the condition adds to the embedded time."""
    around: Surroundings
    """RoPE table and mask of the whole sequence."""
    times: Tensor | None = None
    """(T,) float32, the times whose modulations are ready; None computes them at each step."""
    modulations: Tensor | None = None
    """(T, B, all vectors)."""


@dataclass(frozen=True)
class Modulations:
    """Shift, scale and gate, vectors (B, 1, width), of one time."""

    double_img: Sequence[Sequence[Tensor]]
    """Six per double block: attention's three, then the MLP's."""
    double_txt: Sequence[Sequence[Tensor]]
    """Likewise of the text stream."""
    single: Sequence[Sequence[Tensor]]
    """Three per single block."""
    final: Sequence[Tensor]
    """Shift and scale of the last layer."""


def check_condition(
    spec: FluxSpec,
    text: Tensor,
    references: bool,
    cache: ReferenceCache | None,
    origin: Tensor | None,
    concat: Tensor | None,
    size: tuple[int, int],
) -> None:
    """Refuse shapes that do not fit; `references` says whether there are any in the sequence."""
    batch = len(text)
    if text.ndim != 3 or text.shape[2] != spec.text_width:
        raise ValueError(
            f"text features are {tuple(text.shape)}; this model takes (batch, tokens, {spec.text_width}),"
            " so encode the prompt with its own text encoder"
        )
    beside = spec.entry_channels - spec.channels
    if concat is None and beside:
        raise ValueError(f"this model needs {beside} channels beside the latent; give them as concat")
    if concat is not None and concat.shape != (batch, beside, *size):
        wanted = f"({batch}, {beside}, {size[0]}, {size[1]})" if beside else "none"
        raise ValueError(f"concat is {tuple(concat.shape)}; this model takes {wanted}")
    if origin is not None and (origin.shape != (batch, 2) or origin.is_floating_point()):
        got = f"{tuple(origin.shape)} {origin.dtype}"
        raise ValueError(f"origin is {got}; give row and column of each, ({batch}, 2) integers")
    if references and beside:
        raise ValueError("this model takes concat channels and no reference tokens; leave references out")
    if cache is not None and cache.batch != batch:
        raise ValueError(
            f"the reference cache holds {cache.batch} samples, the batch {batch}; make a new one"
        )


def check_latent(
    spec: FluxSpec, latent: Tensor, t: Tensor, prepared: Prepared, keep: Collection[int]
) -> None:
    """Refuse what does not fit the model or what was prepared."""
    wanted = (len(prepared.text), spec.channels, *prepared.size)
    if latent.shape != wanted:
        raise ValueError(f"latent is {tuple(latent.shape)}; with this text and model it must be {wanted}")
    if not isinstance(t, Tensor) or t.shape != wanted[:1]:
        got = tuple(t.shape) if isinstance(t, Tensor) else repr(t)
        raise ValueError(f"t is {got}; give a tensor of one time per sample, ({wanted[0]},)")
    depth = spec.double_blocks + spec.single_blocks
    if not all(1 <= number <= depth for number in keep):
        raise ValueError(f"cannot keep blocks {tuple(keep)}; this model has 1 to {depth}")
