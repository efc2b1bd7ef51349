"""The flow recipe: a rectified-flow model on cached latents, with or without representation alignment."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from flowlab import autoencoders, backbones
from flowlab.autoencoders import gate
from flowlab.autoencoders.base import Autoencoder, Moments
from flowlab.autoencoders.sizes import AUTOENCODERS
from flowlab.backbones.sizes import SIZES, build
from flowlab.core.choices import lookup
from flowlab.core.config import config_id
from flowlab.core.devices import default_device
from flowlab.core.files import findable
from flowlab.core.pixels import to_float, to_uint8
from flowlab.core.seeds import Streams
from flowlab.core.weights import tensors_id
from flowlab.data import datasets
from flowlab.data.batch import Batch, Dataset
from flowlab.data.latents import LatentDataset, write_cache
from flowlab.data.transforms import RESIZE
from flowlab.flow import path, times
from flowlab.flow.alignment import Projector, alignment_loss
from flowlab.flow.losses import flow_loss
from flowlab.flow.samplers import euler
from flowlab.flow.schedules import check_shift, sampling_grid
from flowlab.train import frozen, optim
from flowlab.train.ema import Ema
from flowlab.train.loop import LoopConfig
from flowlab.train.optim import OptimiserConfig
from flowlab.train.state import Objective, Randomness, Recipe, Trainable, TrainState

__all__ = [
    "FLOW",
    "POSTERIORS",
    "AlignmentConfig",
    "FlowConfig",
    "TimesConfig",
    "check_times",
    "ensure_latents",
]


@dataclass(frozen=True, kw_only=True)
class TimesConfig:
    """The law of the training time (docs/theory.md, equations 5 to 7)."""

    distribution: str = "ln"
    """A key of flow.times.DISTRIBUTIONS."""
    alpha: float = 1.0
    """Training shift."""
    mu: float = 0.0
    """Centre in logit space before the shift (ln and pln)."""
    sigma: float = 1.0
    """Width in logit space (ln and pln)."""


@dataclass(frozen=True, kw_only=True)
class AlignmentConfig:
    """REPA (Yu et al. 2025, arXiv 2410.06940): a hidden state must predict a frozen network's tokens."""

    teacher: str = "teacher"
    """All that frozen.load takes: an embedded network's name or file, or the folder or hub id of a DINOv2,
    SigLIP2 or MAE. Its tokens are cached beside the latents."""
    weight: float = 0.0
    """On the mean negative cosine over tokens; 0 turns alignment off, REPA uses 0.5."""
    block: int = 2
    """The block, counted from 1, whose output is aligned."""
    hidden: int = 256
    """Width of the projector, which is dropped after training."""


POSTERIORS: dict[str, Callable[[Randomness], Streams | None]] = {  # what to_latent draws from
    "sample": lambda randomness: randomness("posterior"),  # latent-diffusion, so SD, and SiT
    "mean": lambda randomness: None,  #                      FLUX.1's and FLUX.2's code
}
ADDED_LATER = {"in_id": "unless default"}
"""Of a field that a study had rows without: at its default the ids of those rows stay."""


@dataclass(frozen=True, kw_only=True)
class FlowConfig:
    """One generator in one latent space."""

    autoencoder: str
    """All that autoencoders.load takes: a name, a file, a diffusers folder, a hub id. The model learns its
    final latent."""
    resolution: int | None = field(default=None, metadata=ADDED_LATER)
    """Pixels per side that it encodes; by default its own, which is 256 where nothing says."""
    dataset: str = "digits"
    """A data set's name or the path of a folder of class folders."""
    split: str = field(default="train", metadata=ADDED_LATER)
    """A split of the data set; `all` for a folder without splits."""
    resize: str = field(default="exact", metadata=ADDED_LATER)
    """What a folder's images go through: exact (they have the size already) or adm (ADM's centre crop)."""
    num_images: int | None = 16_384
    """Training images (rendered data sets are unlimited); None for all of a folder."""
    cache: str = "runs/cache"
    """Where encoded data sets are kept between runs."""
    backbone: str = "tiny"
    """A key of backbones.sizes.SIZES."""
    times: TimesConfig = field(default_factory=TimesConfig)
    alignment: AlignmentConfig = field(default_factory=AlignmentConfig)
    posterior: str = field(default="sample", metadata=ADDED_LATER)
    """What the model learns of an image whose encoder gives a mean and a variance: a key of POSTERIORS, a
    fresh sample at each step, as the study's rows were made, or the mean, as FLUX.1 and FLUX.2 encode."""
    class_dropout: float = 0.1
    """Share of labels replaced by the null label, for classifier-free guidance."""
    ema_decay: float = 0.99
    """Per update."""
    optimiser: OptimiserConfig = field(default_factory=lambda: OptimiserConfig(learning_rate=1e-3))
    loop: LoopConfig = field(default_factory=LoopConfig)
    gate: bool = field(default=True, metadata={"in_id": False})
    """Judge the autoencoder before the cache is written (autoencoders/gate.py); changes no result."""


@dataclass(frozen=True)
class Fixed:
    """What stays while a flow model trains."""

    config: FlowConfig
    autoencoder: Autoencoder
    null_label: int
    gate: str
    """What the gate said of the autoencoder."""


def validate(config: FlowConfig) -> None:
    """Names, shifts and shares; the data set's own are checked when it is read."""
    check_times(config.times)
    depth = lookup(SIZES, config.backbone, "backbone size").depth
    if config.alignment.weight and not 1 <= config.alignment.block <= depth:
        raise ValueError(
            f"alignment.block is {config.alignment.block}; {config.backbone} has blocks 1 to {depth}"
        )
    autoencoders.check_source(config.autoencoder)
    lookup(RESIZE, config.resize, "resize policy")
    lookup(POSTERIORS, config.posterior, "posterior")
    for name, value in (("resolution", config.resolution), ("num_images", config.num_images)):
        if value is not None and value < 1:
            raise ValueError(f"{name} is {value}; give 1 or more")
    if not 0 <= config.class_dropout < 1:
        raise ValueError(f"class_dropout is {config.class_dropout}; give a share from 0 to less than 1")


def check_times(law: TimesConfig, place: str = "times") -> None:
    """Refuse an unknown law, or one whose shift or width is not positive; `place` is its field."""
    check_shift(law.alpha, f"{place}.alpha")
    times.quantile(law.distribution, 0.5, alpha=law.alpha, mu=law.mu, sigma=law.sigma)


# ---- data --------------------------------------------------------------------------------------------------


def ensure_latents(config: FlowConfig) -> LatentDataset:
    """The encoded training set; encoded now where the cache lacks it.

    Teacher tokens are encoded where the run is aligned, and read nowhere else: a run that is not aligned
    takes a cache with tokens if there is one.
    """
    device = default_device()
    model = load_autoencoder(config).to(device)
    teacher = frozen.load(config.alignment.teacher).to(device)
    data = training_images(config, model.spec.resolution)
    teacher_identity = tensors_id(teacher.state_dict())
    plain, with_tokens = (
        Path(config.cache) / f"{model.spec.name}_{config_id([model.identity, data.identity, *rest])}"
        for rest in ([], [teacher_identity])
    )
    aligned = bool(config.alignment.weight)
    tokens = aligned or (with_tokens / "index.json").is_file()
    folder = with_tokens if tokens else plain

    @torch.no_grad()
    def encode(images: Tensor) -> tuple[Tensor, Tensor | None]:
        return model.encode(to_float(images).to(device))

    write_cache(
        folder,
        data,
        encode,
        identity=model.identity,
        teacher=(lambda images: teacher.tokens(to_float(images).to(device))) if tokens else None,
        teacher_identity=teacher_identity if tokens else None,
        dtype="float16",
        gate=lambda pictures: gate.check(model, pictures, enabled=config.gate).outcome,
    )
    wanted = teacher_identity if aligned else None
    return LatentDataset(folder, identity=model.identity, teacher_identity=wanted)


def load_autoencoder(config: FlowConfig) -> Autoencoder:
    """At the resolution that the configuration asks for."""
    asked: dict[str, Any] = {} if config.resolution is None else {"resolution": config.resolution}
    return autoencoders.load(config.autoencoder, **asked)


def training_images(config: FlowConfig, resolution: int) -> Dataset:
    """The labelled pictures; a data set without classes is a ValueError."""
    data = datasets.load(
        config.dataset,
        config.split,
        num_images=config.num_images,
        resolution=resolution,
        resize=config.resize,
    )
    if not data.num_classes:
        raise ValueError(
            f"{config.dataset} has no classes to learn; give digits or a folder of class folders"
        )
    return data


# ---- recipe ------------------------------------------------------------------------------------------------


def setup(config: FlowConfig, dataset: LatentDataset) -> TrainState:
    """A fresh model, its projector where it is aligned, and one optimiser over both."""
    torch.manual_seed(config.loop.seed)
    device = default_device()
    autoencoder = load_autoencoder(config).to(device)
    spec = autoencoder.spec
    model = build(config.backbone, channels=spec.channels, grid=spec.grid, num_classes=dataset.num_classes)
    modules: dict[str, nn.Module] = {"model": model}
    if config.alignment.weight:
        channels = frozen.load(config.alignment.teacher).channels
        modules["projector"] = Projector(model.spec.width, config.alignment.hidden, channels)
    for module in modules.values():
        module.to(device)
    params = [param for module in modules.values() for param in module.parameters() if param.requires_grad]
    return TrainState(
        modules=modules,
        optimisers={"flow": Trainable(optim.build(params, config.optimiser), config.optimiser)},
        emas={"model": Ema(model, config.ema_decay)},
        device=device,
        fixed=Fixed(config, autoencoder, dataset.num_classes, dataset.gate),
    )


def objectives(state: TrainState, batch: Batch, randomness: Randomness) -> Iterator[Objective]:
    """Conditional flow matching (equation 4), plus the weighted alignment loss."""
    fixed: Fixed = state.fixed
    config = fixed.config
    assert batch.moments is not None and batch.label is not None, (
        "flow models train on labelled, encoded images"
    )
    x0 = fixed.autoencoder.to_latent(Moments(*batch.moments), POSTERIORS[config.posterior](randomness))
    noise = randomness("noise").normal(*x0.shape[1:])
    t = draw_times(config.times, randomness("time"))
    dropped = randomness("class dropout").uniform() < config.class_dropout
    labels = torch.where(dropped, fixed.null_label, batch.label)
    keep = (config.alignment.block,) if "projector" in state.modules else ()
    output = state.modules["model"](path.interpolate(x0, noise, t), t, labels, keep=keep)
    loss = flow_loss(output.velocity, path.target(x0, noise))
    scalars = {"flow": loss.detach().mean()}
    if keep:
        assert batch.teacher is not None, "the latent cache holds no teacher features"
        aligned = alignment_loss(state.modules["projector"](output.hidden[keep[0]]), batch.teacher)
        scalars["alignment"] = aligned.detach().mean()
        loss = loss + config.alignment.weight * aligned
    yield Objective("flow", loss, scalars)


def draw_times(config: TimesConfig, streams: Streams) -> Tensor:
    """(B,) float32 times by the exact inverse CDF."""
    uniform = streams.uniform(dtype=torch.float64)
    return times.quantile(
        config.distribution, uniform, alpha=config.alpha, mu=config.mu, sigma=config.sigma
    ).float()


@torch.no_grad()
def preview(state: TrainState) -> dict[str, Tensor]:
    """Sixteen samples of the EMA weights by 25 Euler steps, classes in turn."""
    fixed, model = state.fixed, state.emas["model"].module
    indices = torch.arange(16, device=state.device)
    spec = fixed.autoencoder.spec
    x = Streams.for_samples(fixed.config.loop.seed, indices, purpose="preview").normal(
        spec.channels, spec.grid, spec.grid
    )
    labels = indices % fixed.null_label
    z = euler(lambda x, t: model(x, t, labels).velocity, x, sampling_grid(25, fixed.config.times.alpha))
    return {"samples": to_uint8(fixed.autoencoder.decode(z)).cpu()}


def export(state: TrainState, folder: Path) -> Path:
    """Write the EMA weights as `model.safetensors`, with what they were trained in beside them."""
    file, fixed = folder / "model.safetensors", state.fixed
    metadata = where_again(fixed.config) | {
        "autoencoder_identity": fixed.autoencoder.identity,
        "gate": fixed.gate,
    }
    backbones.save(state.emas["model"].module, file, metadata)
    return file


def where_again(config: FlowConfig) -> dict[str, str]:
    """What finds the autoencoder again, from another working directory too."""
    found = {"autoencoder": findable(config.autoencoder, AUTOENCODERS)}
    return found if config.resolution is None else {**found, "resolution": str(config.resolution)}


FLOW = Recipe(
    validate=validate,
    dataset=ensure_latents,
    setup=setup,
    objectives=objectives,
    preview=preview,
    export=export,
)
