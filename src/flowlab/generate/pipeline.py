"""Prompts in, images out: the whole way of a FLUX model, in Python.

    pipeline = Pipeline.from_pretrained("flux2_scenes")
    images = pipeline("a red star above a #3366CC ring", seed=7)

An image depends on its prompt, references, settings and (seed, index), not on what else is in its batch.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from flowlab.autoencoders.kl import KLAutoencoder
from flowlab.autoencoders.strips import InStrips
from flowlab.backbones.condition import Condition
from flowlab.core.choices import lookup
from flowlab.core.devices import PRECISIONS, default_device
from flowlab.core.pixels import to_uint8
from flowlab.flow.samplers import OnStep
from flowlab.generate import inpaint, references
from flowlab.generate.flux_sampling import initial_noise, sample
from flowlab.generate.loading import Located, LoraFile, Parts, load_parts, locate
from flowlab.generate.offload import OFFLOADS
from flowlab.generate.plans import Plan, Prompts, Request, plan
from flowlab.generate.quantise import QUANTISATIONS
from flowlab.generate.references import Given, Source
from flowlab.generate.variants import VARIANTS
from flowlab.text import TextFeatures

__all__ = ["Images", "Pipeline", "rewritten"]


@dataclass(frozen=True, kw_only=True)
class Images:
    """What a call made."""

    pixels: Tensor
    """uint8 (n, 3, H, W), on the CPU."""
    facts: list[dict[str, Any]]
    """How each came to be: enough to make it again (generate.repeat)."""


class Pipeline:
    """A model, its autoencoder and its text encoder, on one device."""

    def __init__(self, parts: Parts, device: torch.device):
        self.model, self.autoencoder, self.text = parts.model, parts.autoencoder, parts.text
        self.facts, self.device = parts.facts, device
        self.variant: str = parts.facts["model"]["variant"]

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path,
        *,
        autoencoder: str | None = None,
        text: str | None = None,
        device: torch.device | str | None = None,
        dtype: str | None = None,
        variant: str | None = None,
        loras: Sequence[LoraFile] = (),
        offload: str = "none",
        quantise: str = "none",
        tiles: bool = False,
    ) -> Pipeline:
        """A shipped model by name, a model file, a transformer or pipeline folder of diffusers, or a hub id.

        `autoencoder` and `text` are needed where the file names none, `variant` (a key of VARIANTS) where
        shapes do not tell. `dtype` of the model is a key of PRECISIONS: unless told, float32 on a CPU and
        bfloat16 elsewhere. To save memory: `offload`, a key of OFFLOADS (with "blocks" a language model stays
        in main memory, too), or `quantise`, a key of QUANTISATIONS (of a language model, too), and `tiles`
        (decode in strips, exactly).
        """
        if offload != "none" and quantise != "none":
            raise ValueError(f"offload {offload} and quantise {quantise} do not work together; choose one")
        move, shrink = lookup(OFFLOADS, offload, "offload"), lookup(QUANTISATIONS, quantise, "quantisation")
        where = default_device() if device is None else torch.device(device)
        precision = dtype or ("float32" if where.type == "cpu" else "bfloat16")
        located = locate(name_or_path, autoencoder=autoencoder, text_encoder=text, variant=variant)
        kind = lookup(PRECISIONS, precision, "precision")
        beside = _text_options(located, where, offload, quantise)
        parts = load_parts(located, device=where, dtype=kind, loras=loras, text_options=beside)
        parts.facts["precision"] |= {
            "device": str(where),
            "offload": offload,
            "quantise": quantise,
            "tiles": tiles,
        }
        if tiles:
            parts = replace(parts, autoencoder=_in_strips(parts))
        move(shrink(parts.model), where)
        return cls(parts, where)

    def __call__(
        self,
        prompt: Prompts,
        *,
        negative: str | None = None,
        width: int | None = None,
        height: int | None = None,
        num_steps: int | None = None,
        guidance: float | None = None,
        shift: float | None = None,
        seed: int = 0,
        num_images: int = 1,
        references: Sequence[Source] = (),
        reference_cap: int | None = None,
        image: Source | None = None,
        strength: float = 1.0,
        mask: Source | None = None,
        keep_outside: bool = True,
        upsample: str | None = None,
        batch_size: int = 4,
        progress: bool = True,
    ) -> Images:
        """`num_images` images of each prompt (text, a JSON object, or a Prompt with settings of its own).

        None means the model's own: its size (or that of `image`, or of the first reference), steps, guidance
        and schedule; `shift` replaces the schedule by an even grid with that alpha. `references` are images
        that the prompt calls "image 1", "image 2"; `reference_cap` is in pixels each. `image` with `strength`
        below 1 starts from an image, with `mask` (white = repaint) changes only a part of it and, with
        `keep_outside`, leaves its other pixels as they are. `upsample` names a language model that rewrites
        the prompts. What the model cannot do is a ValueError before anything is computed.
        """
        made = plan(
            prompt,
            variant=self.variant,
            stride=self.autoencoder.spec.stride,
            negative=negative,
            width=width,
            height=height,
            num_steps=num_steps,
            guidance=guidance,
            shift=shift,
            seed=seed,
            num_images=num_images,
            references=references,
            reference_cap=reference_cap,
            image=image,
            strength=strength,
            mask=mask,
            keep_outside=keep_outside,
        )
        if upsample is not None:
            levers = {name: self.facts["precision"][name] for name in ("offload", "quantise")}
            (made,) = rewritten([made], upsample, device=self.device, **levers)
        return self.run(made, batch_size=batch_size, progress=progress)

    def run(self, made: Plan, *, batch_size: int = 4, progress: bool = True) -> Images:
        """The images of a plan, in its order."""
        found = sorted(self.stream(made, batch_size=batch_size, progress=progress), key=lambda one: one[0])
        return Images(pixels=torch.stack([pixels for _, pixels, _ in found]), facts=[one[2] for one in found])

    @torch.no_grad()
    def stream(
        self, made: Plan, *, batch_size: int = 4, progress: bool = True
    ) -> Iterator[tuple[int, Tensor, dict[str, Any]]]:
        """(number among the plan's requests, uint8 (3, H, W), facts) of each image when its batch is done."""
        from tqdm import tqdm

        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}; give 1 or more")
        batches = list(_batches(made.requests, batch_size))
        ready = _Ready(self, made)
        total = (len(made.times) - 1) * len(batches)
        with tqdm(total=total, unit="step", disable=not progress, file=sys.stderr) as bar:
            for rows in batches:
                requests = [made.requests[row] for row in rows]
                for place, pixels in enumerate(ready.images(requests, bar.update)):
                    batch = {"size": len(rows), "row": place}
                    yield rows[place], pixels, {**self.facts_of(made, requests[place]), "batch": batch}

    def facts_of(self, made: Plan, request: Request) -> dict[str, Any]:
        """How an image comes to be, but for the batch that it is made in."""
        num_tokens = self.text.num_tokens(request.text)
        return {
            "prompt": request.prompt,
            "rewritten": request.rewritten,
            "tokens": {"prompt": num_tokens, "cut": max(num_tokens - self.text.length, 0)},
            "negative": request.negative,
            "seed": request.seed,
            "index": request.index,
            "width": made.width,
            "height": made.height,
            "num_steps": made.num_steps,
            "guidance": {"scale": made.guidance, "kind": VARIANTS[made.variant].kind},
            "schedule": {"name": made.schedule, "times": made.times.tolist()},
            "sampler": "euler",
            "references": [one.facts() for one in request.references],
            "reference_cap": made.reference_cap,
            "image": made.image and made.image.facts(),
            "strength": made.strength,
            "mask": made.mask and {**made.mask.facts(), "keep_outside": made.keep_outside},
            **self.facts,
        }


# ---- what a call computes once -----------------------------------------------------------------------------


class _Ready:
    """Features of all texts and latents of all images of a plan, each computed once and by itself."""

    def __init__(self, pipeline: Pipeline, made: Plan):
        self.pipeline, self.plan = pipeline, made
        self.guided = VARIANTS[made.variant].kind == "cfg" and made.guidance != 1
        texts = {request.text for request in made.requests}
        texts |= {request.negative or "" for request in made.requests} if self.guided else set()
        self.features = {one: pipeline.text.encode([one]) for one in sorted(texts)}
        shown = {one.sha256 + str(one.transforms): one for r in made.requests for one in r.references}
        latents = references.encode(pipeline.autoencoder, list(shown.values()), pipeline.device)
        self.references = dict(zip(shown, latents, strict=True))
        self.latent, self.mask, self.concat = self._canvas(made.image, made.mask)

    def _canvas(
        self, image: Given | None, mask: Given | None
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """The image's latent (1, C, h, w), its mask (1, 1, H, W), and what goes beside the noise."""
        if image is None:
            return None, None, None
        pipeline, kind = self.pipeline, VARIANTS[self.plan.variant].image
        whole = None if mask is None else inpaint.weights_of(mask.image).to(pipeline.device)
        if kind == "fill":
            assert whole is not None
            pixels = image.pixels.to(pipeline.device)
            return None, whole, inpaint.fill_channels(pipeline.autoencoder, pixels, whole)
        latent = references.encode(pipeline.autoencoder, [image], pipeline.device)[0][None]
        return (None, None, latent) if kind == "control" else (latent, whole, None)

    def images(self, requests: Sequence[Request], advance: Any) -> Tensor:
        """uint8 (B, 3, H, W) on the CPU; `advance(1)` after each step."""
        pipeline, made = self.pipeline, self.plan
        spec = pipeline.autoencoder.spec
        shape = (spec.channels, made.height // spec.stride, made.width // spec.stride)
        noise = initial_noise([r.seed for r in requests], [r.index for r in requests], shape)
        noise = noise.to(pipeline.device)
        x = noise if self.latent is None else inpaint.started(self.latent, noise, made.times[0])
        if len(made.times) > 1:
            condition = self._condition(requests, [request.text for request in requests])
            negative = [request.negative or "" for request in requests]
            x = sample(
                pipeline.model,
                condition,
                self._condition(requests, negative) if self.guided else None,
                x,
                made.times,
                scale=made.guidance if self.guided else 1.0,
                on_step=self._on_step(noise, advance),
            )
        pixels = to_uint8(pipeline.autoencoder.decode(x).float())
        if self.mask is not None and made.image is not None and made.keep_outside:
            pixels = inpaint.paste(pixels, made.image.pixels.to(pixels.device), self.mask)
        return pixels.cpu()

    def _condition(self, requests: Sequence[Request], texts: Sequence[str]) -> Condition:
        features = _stacked([self.features[one] for one in texts]).to(self.pipeline.device)
        embedded = VARIANTS[self.plan.variant].kind == "embedded"
        scale = (
            torch.full((len(texts),), self.plan.guidance, device=self.pipeline.device) if embedded else None
        )
        shown = [
            [self.references[one.sha256 + str(one.transforms)] for one in r.references] for r in requests
        ]
        return Condition(
            text=features.tokens,
            pooled=features.pooled,
            guidance=scale,
            references=shown if any(shown) else None,
            concat=None if self.concat is None else self.concat.expand(len(texts), -1, -1, -1),
        )

    def _on_step(self, noise: Tensor, advance: Any) -> OnStep:
        """Count the step, and keep what is outside the mask."""
        keep = None
        if self.mask is not None and self.latent is not None:
            inside = inpaint.latent_mask(self.mask, self.pipeline.autoencoder.spec.stride)
            keep = inpaint.keep_outside(self.latent, noise, inside)

        def on_step(i: int, t: Tensor, x: Tensor) -> Tensor:
            advance(1)
            return x if keep is None else keep(i, t, x)

        return on_step


def _batches(requests: Sequence[Request], batch_size: int) -> Iterator[list[int]]:
    """Row numbers, together where references have the same sizes: nothing is padded, so nothing masked."""
    groups: dict[Any, list[int]] = {}
    for row, request in enumerate(requests):
        groups.setdefault(tuple(one.image.size for one in request.references), []).append(row)
    for rows in groups.values():
        for start in range(0, len(rows), batch_size):
            yield rows[start : start + batch_size]


def _stacked(features: Sequence[TextFeatures]) -> TextFeatures:
    pooled = [one.pooled for one in features if one.pooled is not None]
    return TextFeatures(torch.cat([one.tokens for one in features]), torch.cat(pooled) if pooled else None)


def _text_options(located: Located, device: torch.device, offload: str, quantise: str) -> dict[str, Any]:
    """How the text encoder is loaded."""
    if located.text == "embedded":
        return {}
    options = _language_options(device, offload, quantise)
    if located.variant.startswith("flux1"):
        options["length"] = VARIANTS[located.variant].text_length
    return options


def _language_options(device: torch.device, offload: str, quantise: str) -> dict[str, Any]:
    """How a language model is loaded: in main memory where blocks are, in fewer bits where the model is."""
    options: dict[str, Any] = {"device": torch.device("cpu") if offload == "blocks" else device}
    return options if quantise == "none" else {**options, "quantization": quantise}


def _in_strips(parts: Parts) -> InStrips:
    if not isinstance(parts.autoencoder, KLAutoencoder):
        name = parts.autoencoder.spec.name
        raise ValueError(f"tiles need a convolutional autoencoder, which {name} is not; leave tiles out")
    return InStrips(parts.autoencoder)


def rewritten(
    plans: Sequence[Plan],
    name: str,
    *,
    device: torch.device | None = None,
    offload: str = "none",
    quantise: str = "none",
) -> list[Plan]:
    """The plans with every prompt rewritten once by the language model at `name`, however many its images.

    It is loaded as a pipeline with these levers loads its text encoder, and let go before this returns.
    """
    from flowlab.text.upsampling import load_upsampler

    model = load_upsampler(name, **_language_options(device or default_device(), offload, quantise))
    new: dict[Any, str] = {}

    def of(request: Request) -> Request:
        key = (request.prompt, tuple(one.sha256 for one in request.references))
        if key not in new:
            new[key] = model.rewrite([request.prompt], [[one.image for one in request.references]])[0]
        return replace(request, rewritten=new[key])

    return [replace(made, requests=tuple(map(of, made.requests))) for made in plans]
