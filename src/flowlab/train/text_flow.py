"""The text recipe: a FLUX model on captions and edits, on cached latents of targets and references."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from flowlab import autoencoders, backbones, text
from flowlab.autoencoders.base import Autoencoder, Moments
from flowlab.autoencoders.sensitivity import channel_sensitivity, channel_weights
from flowlab.autoencoders.sizes import AUTOENCODERS
from flowlab.backbones.condition import Condition
from flowlab.backbones.flux import Flux, FluxSpec
from flowlab.backbones.flux2 import Flux2Spec
from flowlab.backbones.flux_sizes import FLUX_SIZES, build_flux
from flowlab.core.choices import lookup
from flowlab.core.config import config_id
from flowlab.core.devices import PRECISIONS, autocast, default_device
from flowlab.core.files import findable
from flowlab.core.pixels import to_uint8
from flowlab.core.seeds import Streams
from flowlab.data.batch import Batch
from flowlab.data.buckets import grouped_batches
from flowlab.flow import path
from flowlab.flow.losses import flow_loss
from flowlab.flow.schedules import sampling_grid
from flowlab.generate.flux_sampling import sample
from flowlab.text.base import TextFeatures
from flowlab.text.cache import CachedText, TokenCache
from flowlab.train import optim
from flowlab.train.ema import Ema
from flowlab.train.flow import TimesConfig, check_times, draw_times
from flowlab.train.loop import LoopConfig
from flowlab.train.optim import OptimiserConfig
from flowlab.train.state import Objective, Randomness, Recipe, Trainable, TrainState
from flowlab.train.text_data import (
    BucketsConfig,
    Encoder,
    TextLatents,
    folder_latents,
)
from flowlab.train.text_scenes import LONE_TOKENS, ScenesConfig, scenes_latents

__all__ = ["TEXT_FLOW", "TextFlowConfig"]

NUM_PREVIEWS, PREVIEW_STEPS = 8, 25
NUM_SENSED = 64
"""Examples of each group that the channel weights come from."""


@dataclass(frozen=True, kw_only=True)
class TextFlowConfig:
    """One generator and editor in one latent space."""

    autoencoder: str
    """Name, path or hub id; its final latent is what the model learns."""
    text: str = "embedded"
    """Name or path of the text encoder."""
    dataset: str = "scenes"
    """"scenes", or the path of a folder of captioned pictures (data/captioned.py)."""
    scenes: ScenesConfig = field(default_factory=ScenesConfig)
    """Of "scenes": how many examples of each kind."""
    buckets: BucketsConfig = field(default_factory=BucketsConfig)
    """Of a folder: the sizes of its pictures."""
    cache: str = "runs/cache"
    """Where encoded pictures and prompts are kept between runs."""
    backbone: str = "flux2_scenes"
    """A key of backbones.flux_sizes.FLUX_SIZES."""
    init: str | None = None
    """A file of the same architecture to start from; None = fresh weights."""
    times: TimesConfig = field(default_factory=TimesConfig)
    caption_dropout: float = 0.1
    """Share of examples whose caption is replaced by the empty one, for classifier-free guidance; their
    references stay."""
    window_tokens: int = field(default=24, metadata={"in_id": "unless default"})
    """Tokens of a window's caption that the model sees: `scenes.lone` has at most 19, so padding is cut."""
    guidance_range: tuple[float, float] = (1.0, 1.0)
    """Of a model with the guidance embedding: scales, drawn uniformly, that it is told. At 1 it learns its
    own conditional velocity, which is what a distillation of guidance starts from."""
    channel_power: float = 0.0
    """Weighs each latent channel's loss by how far it moves the decoded pixels, to this power
    (autoencoders/sensitivity.py): 0 = all alike, as published. It helps a model too small or too young."""
    ema_decay: float = 0.999
    """Per update."""
    precision: str = "float32"
    """Of the network: float32, or bfloat16 by autocast; weights, loss and optimiser stay float32."""
    optimiser: OptimiserConfig = field(default_factory=lambda: OptimiserConfig(learning_rate=1e-3))
    loop: LoopConfig = field(default_factory=LoopConfig)
    compile_blocks: bool = field(default=False, metadata={"in_id": False})
    """Compile each block with torch.compile, which waits a minute or more for every new sequence length and
    then saves a quarter of a step on a CPU; rounds differently, hence a run is not repeated to the bit."""
    gate: bool = field(default=True, metadata={"in_id": False})
    """Judge the autoencoder before a cache is written (autoencoders/gate.py); changes no result."""


@dataclass(frozen=True)
class Fixed:
    """What stays while a model trains."""

    config: TextFlowConfig
    autoencoder: Autoencoder
    features: Callable[[Sequence[str]], TextFeatures]
    """Of prompts: encoded now, or read from the cache."""
    null: TextFeatures
    """Of the empty prompt, one row."""
    channel_weights: Tensor | None
    """(C,) of the loss; None = all 1."""
    previews: Mapping[str, Batch]
    """Examples to look at, by kind."""
    gate: str
    """What the gate said of the autoencoder."""


def validate(config: TextFlowConfig) -> None:
    """Names, shifts and shares; the files that are named are checked when they are read."""
    check_times(config.times)
    lookup(FLUX_SIZES, config.backbone, "FLUX size")
    lookup(PRECISIONS, config.precision, "precision")
    if not _is_place(config.autoencoder):
        lookup(AUTOENCODERS, config.autoencoder, "autoencoder (or path, or hub id)")
    if not _is_place(config.text):
        lookup(text.ENCODERS, config.text, "text encoder (or path, or hub id)")
    if config.dataset != "scenes" and not Path(config.dataset).is_dir():
        raise ValueError(f"unknown dataset {config.dataset!r}; give 'scenes' or a folder of captioned images")
    config.scenes.validate()
    if not 0 <= config.channel_power <= 1:
        raise ValueError(f"channel_power is {config.channel_power}; give 0 (all channels alike) to 1")
    if config.scenes.lone and config.dataset == "scenes":
        _check_windows(config)
    low, high = config.guidance_range
    if not 0 <= config.caption_dropout < 1 or not 0 < low <= high:
        raise ValueError(
            f"{config.caption_dropout=}, {config.guidance_range=};"
            " give a share below 1 and a rising range above 0"
        )
    if (low, high) != (1, 1) and not FLUX_SIZES[config.backbone].guidance:
        raise ValueError(
            f"guidance_range is {low} to {high}; {config.backbone} is told no guidance, leave it out"
        )
    if config.init is not None and not Path(config.init).is_file():
        raise ValueError(f"init is {config.init!r}, where no file is; give a .safetensors file or None")


def _check_windows(config: TextFlowConfig) -> None:
    """Captions of windows must stay whole, and other encoders put padding or a template first."""
    if config.text != "embedded":
        raise ValueError(f"scenes.lone is {config.scenes.lone}; windows need text='embedded', or give 0")
    if config.window_tokens < LONE_TOKENS:
        raise ValueError(
            f"window_tokens is {config.window_tokens}; give {LONE_TOKENS} or more, or captions are cut"
        )


def _is_place(name: str) -> bool:
    """Whether a name is a path or a hub id, rather than a key of a table."""
    return "/" in name or name.endswith(".safetensors") or Path(name).is_dir()


# ---- data --------------------------------------------------------------------------------------------------


def dataset(config: TextFlowConfig) -> TextLatents:
    """The encoded training set; encoded now where the cache lacks it."""
    model = autoencoders.load(config.autoencoder).to(default_device())
    encoder = Encoder(model, Path(config.cache), config.gate)
    if config.dataset == "scenes":
        return scenes_latents("train", config.scenes, encoder, config.loop.batch_size)
    return folder_latents(config.dataset, config.buckets, encoder, config.loop.batch_size)


def _previews(config: TextFlowConfig, data: TextLatents, autoencoder: Autoencoder) -> dict[str, Batch]:
    """Held-out scenes of each kind; of a folder the first examples of its first four buckets."""
    if config.dataset != "scenes":
        return dict(list(data.first(NUM_PREVIEWS).items())[:4])
    encoder = Encoder(autoencoder, Path(config.cache), gate=False)  # too few pictures to judge by
    return scenes_latents("heldout", config.scenes.at_most(NUM_PREVIEWS), encoder, 1).first(2 * NUM_PREVIEWS)


def _features(config: TextFlowConfig, prompts: Sequence[str]) -> Callable[[Sequence[str]], TextFeatures]:
    """Of the embedded encoder the function itself (2 ms for 64 prompts). Of any other, every prompt and the
    empty one are encoded into the cache, and only the cache stays in memory."""
    encoder: Any = text.load(config.text, device=default_device())
    if config.text == "embedded":
        return encoder.encode
    folder = Path(config.cache) / f"text_{config_id([encoder.identity])}"
    CachedText(encoder, folder).fill(["", *prompts])
    return TokenCache(folder, identity=encoder.identity).read


# ---- recipe ------------------------------------------------------------------------------------------------


def setup(config: TextFlowConfig, data: TextLatents) -> TrainState:
    """A fresh model, or the one in `init`, and one optimiser over it."""
    torch.manual_seed(config.loop.seed)
    device = default_device()
    autoencoder = autoencoders.load(config.autoencoder).to(device)
    previews = _previews(config, data, autoencoder)
    shown = [prompt for batch in previews.values() for prompt in batch.text or ()]
    features = _features(config, [*data.prompts, *shown])
    null = features([""]).to(device, torch.float32)
    model = _model(config).to(device)
    _check_fit(config, model.spec, autoencoder.spec.channels, null.tokens.shape[-1])
    ema = Ema(model, config.ema_decay)  # a copy, from before the blocks are compiled
    if config.compile_blocks:
        for block in (*model.double_blocks, *model.single_blocks):
            block.compile(dynamic=False)
    return TrainState(
        modules={"model": model},
        optimisers={"flow": Trainable(optim.build(model.parameters(), config.optimiser), config.optimiser)},
        emas={"model": ema},
        device=device,
        fixed=Fixed(
            config=config,
            autoencoder=autoencoder,
            features=features,
            null=null,
            channel_weights=_channel_weights(config, data, autoencoder),
            previews=previews,
            gate=data.gate,
        ),
    )


def _model(config: TextFlowConfig) -> Any:
    """In training mode and float32."""
    model: Any = build_flux(config.backbone)
    if config.init is not None:
        start: Any = backbones.load(config.init)
        if start.spec != model.spec:
            raise ValueError(_of_another_size(config, start.spec, model.spec))
        model = start
    return model.float().train().requires_grad_(True)


def _of_another_size(config: TextFlowConfig, found: Any, wanted: Any) -> str:
    """What differs between the model in `init` and the one that is asked for."""
    if type(found) is not type(wanted):
        kinds = [type(spec).__name__.removesuffix("Spec") for spec in (found, wanted)]
        return f"init {config.init} is a {kinds[0]}, {config.backbone} a {kinds[1]}; give another of the two"
    differing = [
        f"{one.name} {getattr(found, one.name)} and not {getattr(wanted, one.name)}"
        for one in fields(wanted)
        if getattr(found, one.name) != getattr(wanted, one.name)
    ]
    return (
        f"init {config.init} is no {config.backbone}, it has {', '.join(differing)};"
        " give weights of that size or another backbone"
    )


def _channel_weights(config: TextFlowConfig, data: TextLatents, autoencoder: Autoencoder) -> Tensor | None:
    """From the first examples of each group; of groups of windows only where there are no others."""
    if config.channel_power == 0:
        return None
    batches = list(data.first(NUM_SENSED).values())
    batches = [batch for batch in batches if batch.windows is None] or batches
    latents = [_latent(autoencoder, batch.to(default_device())) for batch in batches]
    found = [channel_sensitivity(autoencoder, latent) for latent in latents]
    return channel_weights(torch.stack(found).mean(0), config.channel_power)


def _check_fit(config: TextFlowConfig, spec: Any, channels: int, text_width: int) -> None:
    if spec.channels != channels:
        raise ValueError(
            f"{config.backbone} takes {spec.channels} latent channels, autoencoder {config.autoencoder} gives"
            f" {channels}; choose another of the two"
        )
    if spec.text_width != text_width:
        raise ValueError(
            f"{config.backbone} takes text of width {spec.text_width}, encoder {config.text} gives"
            f" {text_width}; choose another of the two"
        )


def objectives(state: TrainState, batch: Batch, randomness: Randomness) -> Iterator[Objective]:
    """Conditional flow matching (docs/theory.md, equation 4)."""
    fixed: Fixed = state.fixed
    config, model = fixed.config, state.modules["model"]
    x0 = _target(fixed, batch)
    noise = randomness("noise").normal(*x0.shape[1:])
    t = draw_times(config.times, randomness("time"))
    dropped = randomness("caption dropout").uniform() < config.caption_dropout
    condition = _condition(fixed, model, batch, dropped, _guidance(config, randomness))
    with autocast(state.device, config.precision):
        velocity = model(path.interpolate(x0, noise, t), t, condition).velocity
    loss = flow_loss(velocity, path.target(x0, noise), fixed.channel_weights)
    yield Objective("flow", loss, {"flow": loss.detach().mean()})


def _target(fixed: Fixed, batch: Batch) -> Tensor:
    """Final latents, or their windows (B, C, side, side)."""
    latent = _latent(fixed.autoencoder, batch)
    if batch.windows is None:
        return latent
    return torch.stack(
        [
            one[:, row : row + side, column : column + side]
            for one, (row, column, side) in zip(latent, batch.windows, strict=True)
        ]
    )


@torch.no_grad()
def _latent(autoencoder: Autoencoder, batch: Batch) -> Tensor:
    assert batch.moments is not None and batch.text is not None, (
        "text models train on encoded, captioned images"
    )
    return autoencoder.to_latent(Moments(*batch.moments))


def _guidance(config: TextFlowConfig, randomness: Randomness) -> Tensor:
    """(B,) scales."""
    low, high = config.guidance_range
    return low + (high - low) * randomness("guidance").uniform()


@torch.no_grad()
def _condition(fixed: Fixed, model: Any, batch: Batch, dropped: Tensor, guidance: Tensor) -> Condition:
    """What the model is told of a batch; captions `dropped` (B,) bool are the empty one."""
    assert batch.text is not None, "text models train on captions"
    features, windows = fixed.features(batch.text).to(dropped.device, torch.float32), batch.windows
    pooled = features.pooled
    if pooled is not None and fixed.null.pooled is not None:
        pooled = torch.where(dropped[:, None], fixed.null.pooled, pooled)
    tokens = torch.where(dropped[:, None, None], fixed.null.tokens, features.tokens)
    return Condition(
        text=tokens if windows is None else tokens[:, : fixed.config.window_tokens],
        pooled=pooled,
        guidance=guidance if model.spec.guidance else None,
        references=_references(fixed.autoencoder, batch),
        origin=None
        if windows is None
        else torch.tensor([window[:2] for window in windows], device=tokens.device),
    )


def _references(autoencoder: Autoencoder, batch: Batch) -> list[list[Tensor]] | None:
    """Final latents (C, h, w), one list per example; None where no example has any."""
    if batch.references is None:
        return None
    return [[autoencoder.to_latent(Moments(mean[None], None))[0] for mean in row] for row in batch.references]


# ---- looking at it -----------------------------------------------------------------------------------------


@torch.no_grad()
def preview(state: TrainState) -> dict[str, Tensor]:
    """For each kind, row by row: references, target, and a sample of the EMA weights by 25 Euler steps
    without guidance."""
    return {name: _sheet(state, batch.to(state.device)) for name, batch in state.fixed.previews.items()}


def _sheet(state: TrainState, batch: Batch) -> Tensor:
    """uint8 (B columns, 3, H, W): the pictures of each example side by side, white before them to a power of
    two, so that examples start at the columns of a sheet of eight."""
    fixed: Fixed = state.fixed
    sampled = fixed.autoencoder.decode(_sampled(state, batch))
    target = fixed.autoencoder.decode(_target(fixed, batch))
    references = _references(fixed.autoencoder, batch) or [[] for _ in range(len(batch))]
    columns = 1 << (max(map(len, references)) + 1).bit_length()
    pictures = []
    for latents, *last in zip(references, target, sampled, strict=True):
        first = [_resized(fixed.autoencoder.decode(latent[None]), last[0]) for latent in latents]
        white = [torch.ones_like(last[0])] * (columns - len(first) - len(last))
        pictures += [*white, *first, *last]
    return to_uint8(torch.stack(pictures)).cpu()


def _sampled(state: TrainState, batch: Batch) -> Tensor:
    fixed: Fixed = state.fixed
    config, model = fixed.config, cast(Flux, state.emas["model"].module)
    shape = _target(fixed, batch).shape[1:]
    indices = torch.arange(len(batch), device=state.device)
    x = Streams.for_samples(config.loop.seed, indices, purpose="preview").normal(*shape)
    nothing = torch.zeros(len(batch), dtype=torch.bool, device=state.device)
    condition = _condition(
        fixed, model, batch, nothing, torch.full_like(x[:, 0, 0, 0], config.guidance_range[0])
    )

    with autocast(state.device, config.precision):
        return sample(model, condition, None, x, sampling_grid(PREVIEW_STEPS, config.times.alpha))


def _resized(picture: Tensor, like: Tensor) -> Tensor:
    """(1, 3, h, w) => (3, H, W) of `like`."""
    return F.interpolate(picture, like.shape[1:], mode="bilinear", antialias=True)[0]


def export(state: TrainState, folder: Path) -> Path:
    """Write the EMA weights as `model.safetensors`, with what they were trained in beside them."""
    file, model = folder / "model.safetensors", cast(Flux, state.emas["model"].module)
    backbones.save(model, file, _surroundings(state.fixed, model.spec))
    return file


def _surroundings(fixed: Fixed, spec: FluxSpec) -> dict[str, str]:
    """What `generate` needs to know, and the training's judgement of its latents.

    Of the variants only klein's base samples as a FLUX.2 without guidance was trained; the embedded ones are
    known by their text.
    """
    config = fixed.config
    found = {
        "autoencoder": findable(config.autoencoder, AUTOENCODERS),
        "autoencoder_identity": fixed.autoencoder.identity,
        "text": findable(config.text, text.ENCODERS),
        "gate": fixed.gate,
    }
    undistilled = isinstance(spec, Flux2Spec) and not spec.guidance and config.text != "embedded"
    return {**found, "variant": "flux2_klein_base"} if undistilled else found


TEXT_FLOW = Recipe(
    validate=validate,
    dataset=dataset,
    setup=setup,
    objectives=objectives,
    preview=preview,
    export=export,
    batches=grouped_batches,
)
