"""What FLUX.1 and FLUX.2 share: a sequence of text, target and references through double and single blocks.

The sequence is [text, target, references], and only the target's outputs are kept. `velocity` is one call;
over the steps of a sampling run `prepare` does once what does not change (text projection, RoPE tables,
reference tokens, and the modulations of all times) and `denoise` the rest.

The time is embedded in float32. The published code rounds 1000 t to bfloat16 first, which moves it by up to
3.5 of 1000 units, and the guidance scale likewise (`time_rounding="bfloat16"` does so, too); diffusers rounds
otherwise again; their images differ from ours by as much.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flowlab.backbones.condition import Condition
from flowlab.backbones.flux_blocks import DoubleBlock, FinalLayer, SingleBlock, Surroundings
from flowlab.backbones.flux_inputs import (
    Modulations,
    Prepared,
    ReferenceCache,
    check_condition,
    check_latent,
)
from flowlab.backbones.flux_spec import ROUNDINGS, FluxSpec
from flowlab.backbones.output import Output
from flowlab.backbones.reference_tokens import (
    ReferenceTokens,
    image_ids,
    joined_ids,
    reference_tokens,
    text_ids,
)
from flowlab.backbones.tokens import patchify, unpatchify
from flowlab.layers.embeddings import TimeEmbedding, VectorEmbedding
from flowlab.layers.modulation import Modulation
from flowlab.layers.rope import rope_planes

__all__ = ["Flux"]


class Flux(nn.Module, ABC):
    """The abstract model. A fresh one answers exactly 0."""

    def __init__(self, spec: FluxSpec):
        super().__init__()
        spec.validate()
        block, bias = spec.block, spec.block.bias
        self.spec = spec
        self.img_in = nn.Linear(spec.entry_channels, block.width, bias=bias)
        self.txt_in = nn.Linear(spec.text_width, block.width, bias=bias)
        self.time_in = TimeEmbedding(block.width, 1000.0, bias=bias)
        self.guidance_in = TimeEmbedding(block.width, 1000.0, bias=bias) if spec.guidance else None
        self.double_blocks = nn.ModuleList(DoubleBlock(block) for _ in range(spec.double_blocks))
        self.single_blocks = nn.ModuleList(SingleBlock(block) for _ in range(spec.single_blocks))
        self.final_layer = FinalLayer(block.width, spec.channels, bias)

    # ---- what a family decides -----------------------------------------------------------------------------

    @property
    @abstractmethod
    def caches_references(self) -> bool:
        """Whether references see only each other, at t = 0, so that their keys and values can be kept."""

    @abstractmethod
    def modulation_layers(self) -> list[Modulation]:
        """Every modulation, in the order in which `arranged` receives their vectors."""

    @abstractmethod
    def arranged(self, vectors: list[tuple[Tensor, ...]]) -> Modulations:
        """The vectors of `modulation_layers`, block by block."""

    @abstractmethod
    def embed_pooled(self, pooled: Tensor | None, batch: int) -> Tensor | None:
        """(B, width), or None in a family that takes no pooled text; refuses what it does not take."""

    # ---- what it is called for -----------------------------------------------------------------------------

    def forward(self, x_t: Tensor, t: Tensor, condition: Condition, keep: Collection[int] = ()) -> Output:
        """The backbone contract: velocity at x_t (B, C, h, w) and t (B,).

        `keep` names blocks, numbered from 1 through double and then single, whose target tokens (B, h w,
        width) come back in `hidden`.
        """
        prepared = self.prepare(
            (x_t.shape[-2], x_t.shape[-1]),
            condition.text,
            pooled=condition.pooled,
            guidance=condition.guidance,
            references=condition.references,
            origin=condition.origin,
            concat=condition.concat,
        )
        return self.denoise(x_t, t, prepared, keep)

    def velocity(
        self,
        latent: Tensor,
        t: Tensor,
        text: Tensor,
        *,
        pooled: Tensor | None = None,
        guidance: Tensor | None = None,
        references: Sequence[Sequence[Tensor]] | None = None,
        reference_cache: ReferenceCache | None = None,
        concat: Tensor | None = None,
        origin: Tensor | None = None,
    ) -> Tensor:
        """noise - data (B, C, h, w) in the latent's dtype, computed in the precision of the weights.

        latent (B, C, h, w); t (B,), 1 is noise; text (B, L, text_width); pooled (B, pooled_width); guidance
        (B,), the scale itself; references: per sample a list of latents (C, h, w); concat (B, in_channels -
        C, h, w); origin (B, 2), of windows (Condition). What the model needs and does not get, or gets and
        does not take, is a ValueError.
        """
        prepared = self.prepare(
            (latent.shape[-2], latent.shape[-1]),
            text,
            pooled=pooled,
            guidance=guidance,
            references=references,
            reference_cache=reference_cache,
            concat=concat,
            origin=origin,
        )
        return self.denoise(latent, t, prepared).velocity

    def prepare(
        self,
        size: tuple[int, int],
        text: Tensor,
        *,
        pooled: Tensor | None = None,
        guidance: Tensor | None = None,
        references: Sequence[Sequence[Tensor]] | None = None,
        reference_cache: ReferenceCache | None = None,
        origin: Tensor | None = None,
        concat: Tensor | None = None,
        times: Tensor | None = None,
    ) -> Prepared:
        """All that `denoise` can share between steps, for latents of `size` (rows, columns).

        `origin` (B, 2) says where in its picture each latent begins, if it is a window (Condition).
        `times` (T,): the grid of a sampler, whose modulations are then computed here, once; `denoise` at any
        other time answers NaN, since looking for it on the host would wait for the device.
        """
        dtype, batch = self.img_in.weight.dtype, len(text)
        if references is not None and reference_cache is not None:
            raise ValueError("both references and reference_cache are given; give one of the two")
        if reference_cache is not None and not self.caches_references:
            raise ValueError(_NO_CACHE)
        given = self._tokens_of(references, batch)
        vector = self._vector(pooled, guidance, batch)
        if given is not None and self.caches_references:
            reference_cache, given = self._run_alone(given, vector), None
        check_condition(self.spec, text, given is not None, reference_cache, origin, concat, size)
        return Prepared(
            size=size,
            text=self.txt_in(text.to(dtype)),
            references=None if given is None else self.img_in(given.tokens.to(dtype)),
            cache=reference_cache,
            concat=None if concat is None else patchify(concat).to(dtype),
            vector=vector,
            around=self._around(text, size, origin, given, reference_cache),
            times=times if times is None else times.to(text.device, torch.float32),
            modulations=None if times is None else self._table(times.to(text.device), vector, batch),
        )

    def reference_cache(
        self, references: Sequence[Sequence[Tensor]], guidance: Tensor | None = None
    ) -> ReferenceCache:
        """Keys and values of references, one list per sample of latents (C, h, w), for any number of calls.

        Only for weights trained so (the FLUX.2 variant "kv"): there references see only each other, at t = 0.
        A model that embeds the guidance scale needs it here, too, and the cache serves that scale only;
        klein, the one published so, embeds none.
        """
        if not self.caches_references:
            raise ValueError(_NO_CACHE)
        given = self._tokens_of(references, len(references))
        if given is None:
            raise ValueError("no sample has a reference to cache; call velocity without a cache")
        return self._run_alone(given, self._vector(None, guidance, len(references)))

    def denoise(self, latent: Tensor, t: Tensor, prepared: Prepared, keep: Collection[int] = ()) -> Output:
        """One evaluation: latent (B, C, h, w) of the prepared size at t (B,)."""
        check_latent(self.spec, latent, t, prepared, keep)
        tokens = patchify(latent).to(self.img_in.weight.dtype)  # (B, N, C)
        if prepared.concat is not None:
            tokens = torch.cat([tokens, prepared.concat], dim=-1)  # (B, N, entry_channels)
        img = self.img_in(tokens)
        if prepared.references is not None:
            img = torch.cat([img, prepared.references], dim=1)  # (B, N + M, width)
        mods = self._modulations(t, prepared)
        out, hidden = self._through_blocks(prepared, img, mods, tokens.shape[1], keep)
        velocity = unpatchify(self.final_layer(out, mods.final), *prepared.size)
        return Output(velocity.to(latent.dtype), hidden)

    def initialise(self) -> None:
        """Xavier-uniform and zero bias; zero modulations and output, as in DiT.

        Time, guidance and pooled text are embedded at unit size (He's normal): with DiT's N(0, 0.02) they
        are 26 times smaller at width 192 (7 at 3072), and the modulations, all zero, learn from nothing else.
        """
        if self.img_in.weight.is_meta:  # nothing to fill, and torch would import its compiler to do so
            return
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for module in self.modules():
            if isinstance(module, (TimeEmbedding, VectorEmbedding)):
                nn.init.kaiming_normal_(module.in_layer.weight)
                nn.init.kaiming_normal_(module.out_layer.weight)
        for layer in (*(layer.lin for layer in self.modulation_layers()), self.final_layer.linear):
            nn.init.zeros_(layer.weight)

    def doubles(self) -> list[DoubleBlock]:
        """`double_blocks`, typed."""
        return [cast(DoubleBlock, block) for block in self.double_blocks]

    def singles(self) -> list[SingleBlock]:
        """`single_blocks`, typed."""
        return [cast(SingleBlock, block) for block in self.single_blocks]

    # ---- the sequence --------------------------------------------------------------------------------------

    def _through_blocks(
        self, prepared: Prepared, img: Tensor, mods: Modulations, num_target: int, keep: Collection[int]
    ) -> tuple[Tensor, dict[int, Tensor]]:
        """The target's tokens after the last block, and those asked for on the way."""
        txt, hidden = prepared.text, {}
        cache, around = prepared.cache, prepared.around
        for i, block in enumerate(self.doubles()):
            cached = None if cache is None else cache.double[i]
            txt, img = block(txt, img, mods.double_txt[i], mods.double_img[i], around, cached)
            if i + 1 in keep:
                hidden[i + 1] = img[:, :num_target]
        x, target = torch.cat([txt, img], dim=1), slice(txt.shape[1], txt.shape[1] + num_target)
        for i, block in enumerate(self.singles()):
            x = block(x, mods.single[i], around, None if cache is None else cache.single[i])
            if (number := len(self.double_blocks) + i + 1) in keep:
                hidden[number] = x[:, target]
        return x[:, target], hidden

    def _run_alone(self, given: ReferenceTokens, vector: Tensor | None) -> ReferenceCache:
        """Run references alone, at t = 0 and the condition's `vector`; keep keys and values of each block."""
        x = self.img_in(given.tokens.to(self.img_in.weight.dtype))  # (B, M, width)
        mods = self._arranged(self._flat(self._activated(x.new_zeros(len(x)), vector)))
        seen = None
        if given.mask is not None:  # a sample without references sees padding: softmax needs one key
            seen = (given.mask | ~given.mask.any(dim=1, keepdim=True))[:, None, None]
        around = Surroundings(rope_planes(given.ids, self.spec.axes, self.spec.theta), seen)
        double, single = [], []
        for i, block in enumerate(self.doubles()):
            x, kept = block.image_alone(x, mods.double_img[i], around)
            double.append(kept)
        for i, block in enumerate(self.singles()):
            x, kept = block.with_keys(x, mods.single[i], around)
            single.append(kept)
        return ReferenceCache(tuple(double), tuple(single), given.mask)

    def _tokens_of(self, references: Sequence[Sequence[Tensor]] | None, batch: int) -> ReferenceTokens | None:
        spec = self.spec
        return reference_tokens(
            references,
            batch=batch,
            channels=spec.channels,
            num_axes=len(spec.axes),
            spacing=spec.spacing,
        )

    def _around(
        self,
        text: Tensor,
        size: tuple[int, int],
        origin: Tensor | None,
        given: ReferenceTokens | None,
        cache: ReferenceCache | None,
    ) -> Surroundings:
        """RoPE of [text, target, references], and the mask of padded references."""
        axes, device = self.spec.axes, text.device
        ids = [
            text_ids(text.shape[1], len(axes), device),
            image_ids(*size, len(axes), origin=origin, device=device),
        ]
        own = sum(part.shape[-2] for part in ids)
        if given is not None:
            ids.append(given.ids.to(device))
        table = rope_planes(joined_ids(ids), axes, self.spec.theta)
        padding = given.mask if given is not None else cache.mask if cache is not None else None
        if padding is None:
            return Surroundings(table)
        mask = torch.cat([padding.new_ones(len(padding), own), padding], dim=1)
        return Surroundings(table, mask[:, None, None])

    # ---- the condition's vectors ---------------------------------------------------------------------------

    def _vector(self, pooled: Tensor | None, guidance: Tensor | None, batch: int) -> Tensor | None:
        """(B, width): guidance and pooled text, embedded and added; None where the model takes neither."""
        vector = self.embed_pooled(pooled, batch)
        if self.guidance_in is None:
            if guidance is not None:
                raise ValueError("this model has no guidance embedding; leave guidance out (or use true CFG)")
            return vector
        if guidance is None:
            raise ValueError("this model embeds the guidance scale; give guidance, (B,), such as 4.0 each")
        if not isinstance(guidance, Tensor) or guidance.shape != (batch,):
            got = tuple(guidance.shape) if isinstance(guidance, Tensor) else repr(guidance)
            raise ValueError(f"guidance is {got}; give a tensor of one scale per sample, ({batch},)")
        embedded = self.guidance_in(ROUNDINGS[self.spec.time_rounding](guidance))
        return embedded if vector is None else embedded + vector

    def _activated(self, t: Tensor, vector: Tensor | None) -> Tensor:
        """(..., width): SiLU of the embedded time plus the condition's vector."""
        embedded = self.time_in(ROUNDINGS[self.spec.time_rounding](t))
        return F.silu(embedded if vector is None else embedded + vector)

    def _flat(self, activated: Tensor) -> Tensor:
        """(..., width) => (..., all vectors of all modulations)."""
        return torch.cat([layer.lin(activated) for layer in self.modulation_layers()], dim=-1)

    def _table(self, times: Tensor, vector: Tensor | None, batch: int) -> Tensor:
        """(T, B, all vectors)."""
        flat = self._flat(self._activated(times[:, None], vector))  # (T, B or 1, all)
        return flat.expand(-1, batch, -1)

    def _modulations(self, t: Tensor, prepared: Prepared) -> Modulations:
        if prepared.times is None or prepared.modulations is None:
            return self._arranged(self._flat(self._activated(t, prepared.vector)))
        same = prepared.times[:, None] == t.to(torch.float32)  # (T, B)
        flat = prepared.modulations[same.int().argmax(dim=0), torch.arange(len(t), device=t.device)]
        return self._arranged(flat.masked_fill(~same.any(dim=0)[:, None], torch.nan))

    def _arranged(self, flat: Tensor) -> Modulations:
        """(B, all) => the vectors (B, 1, width) of each block."""
        layers = self.modulation_layers()
        runs = flat[:, None].split([layer.num * self.spec.width for layer in layers], dim=-1)
        return self.arranged([run.chunk(layer.num, dim=-1) for run, layer in zip(runs, layers, strict=True)])


_NO_CACHE = (
    "this model's references see the whole sequence, so they cannot be cached; load weights trained for it"
    ' with variant="kv", or give references'
)
