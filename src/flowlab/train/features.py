"""The recipes of the two embedded feature networks: a self-supervised teacher and a supervised judge."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from flowlab.core.devices import default_device
from flowlab.core.pixels import to_float, to_uint8
from flowlab.data.batch import Batch, Dataset
from flowlab.data.embedded import Digits, digits
from flowlab.features import embedded
from flowlab.features.embedded import Judge, JudgeSpec, Teacher, TeacherSpec
from flowlab.train import optim
from flowlab.train.ema import Ema
from flowlab.train.loop import LoopConfig
from flowlab.train.optim import OptimiserConfig
from flowlab.train.state import Objective, Randomness, Recipe, Trainable, TrainState

__all__ = ["JUDGE", "TEACHER", "JudgeConfig", "TeacherConfig"]


# ---- teacher -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class TeacherConfig:
    """Self-supervised: no label is read."""

    network: TeacherSpec = field(default_factory=TeacherSpec)
    num_images: int = 65_536
    """Renderings of the training digits."""
    masked_share: float = 0.4
    """Of patches hidden in each view."""
    temperature: float = 0.2
    """Of the contrastive loss."""
    visible_weight: float = 0.25
    """On predicting the visible patches, where the hidden ones weigh 1."""
    pixel_weight: float = 4.0
    """On patch prediction against the contrastive loss."""
    ema_decay: float = 0.995
    optimiser: OptimiserConfig = field(
        default_factory=lambda: OptimiserConfig(
            learning_rate=1.5e-3, weight_decay=0.02, schedule="cosine", warmup_images=4096
        )
    )
    loop: LoopConfig = field(default_factory=lambda: LoopConfig(batch_size=128, num_steps=1500))


class TeacherHeads(nn.Module):
    """What the teacher needs only while it trains: a contrastive projection and a linear pixel prediction."""

    def __init__(self, spec: TeacherSpec):
        super().__init__()
        width = spec.channels
        self.project = nn.Sequential(
            nn.Linear(width, 4 * width, bias=False),
            nn.BatchNorm1d(4 * width),
            nn.ReLU(),
            nn.Linear(4 * width, width, bias=False),
            nn.BatchNorm1d(width, affine=False),
        )
        self.pixels = nn.Linear(width, 3 * spec.patch**2)


def setup_teacher(config: TeacherConfig, dataset: Dataset) -> TrainState:
    """A fresh teacher and its heads."""
    torch.manual_seed(config.loop.seed)
    return _state(
        {"teacher": Teacher(config.network), "heads": TeacherHeads(config.network)}, config, dataset
    )


def teacher_objectives(state: TrainState, batch: Batch, randomness: Randomness) -> Iterator[Objective]:
    """Two masked views of the same handwriting: agree on the mean token (SimCLR, Chen et al. 2020), predict
    the hidden patches from the tokens (masked autoencoding, He et al. 2022)."""
    (config, dataset), (teacher, heads) = state.fixed, state.modules.values()
    assert isinstance(dataset, Digits) and isinstance(teacher, Teacher) and isinstance(heads, TeacherHeads)
    summaries, prediction = [], torch.zeros((), device=state.device)
    for view in ("first view", "second view"):
        views = dataset.views(batch.index.cpu(), randomness(view).to("cpu"))  # digits are drawn on the CPU
        pixels = to_float(views.to(state.device))
        order = randomness(f"{view} mask").uniform(teacher.num_tokens).argsort(1).argsort(1)
        masked = order < round(config.masked_share * teacher.num_tokens)  # (B, N)
        tokens = teacher.head(teacher.layers(pixels, masked)[-1])
        summaries.append(heads.project(tokens.mean(1)))
        prediction = prediction + _patch_error(heads.pixels(tokens), pixels, masked, config)
    same = batch.index % len(dataset.sources)
    agreement = contrastive(summaries[0], summaries[1], same, config.temperature)
    loss = agreement + config.pixel_weight * prediction.mean()
    scalars = {"contrastive": agreement.detach(), "patch_error": prediction.detach().mean() / 2}
    yield Objective("teacher", loss, scalars, batch_level=True)


def contrastive(a: Tensor, b: Tensor, source: Tensor, temperature: float) -> Tensor:
    """NT-Xent over two views (B, D): each must pick its partner among the other images of the batch.

    Rows of the same source digit are no negatives.
    """
    z = F.normalize(torch.cat([a, b]), dim=1)
    source = torch.cat([source, source])
    partner = torch.arange(len(z), device=z.device).roll(len(a))
    logits = z @ z.T / temperature  # (2B, 2B)
    same = source[:, None] == source[None, :]
    same[torch.arange(len(z), device=z.device), partner] = False
    return F.cross_entropy(logits.masked_fill(same, float("-inf")), partner)


def _patch_error(prediction: Tensor, pixels: Tensor, masked: Tensor, config: TeacherConfig) -> Tensor:
    """(B,) squared error per pixel; hidden patches weigh 1, visible ones `visible_weight`."""
    p = config.network.patch
    target = rearrange(pixels, "b c (h p) (w q) -> b (h w) (c p q)", p=p, q=p)
    error = (prediction - target).pow(2).mean(-1)  # (B, N)
    weight = masked.float() + config.visible_weight * (~masked).float()
    return (error * weight).sum(1) / weight.sum(1)


@torch.no_grad()
def preview_teacher(state: TrainState) -> dict[str, Tensor]:
    """Eight originals over what a linear map reads out of their tokens."""
    teacher, heads = state.emas["teacher"].module, state.emas["heads"].module
    assert isinstance(teacher, Teacher) and isinstance(heads, TeacherHeads)
    images = digits("heldout", num_images=8).read(torch.arange(8)).pixels
    assert images is not None
    spec = teacher.spec
    patches = heads.pixels(teacher(images.to(state.device)))
    output = rearrange(patches, "b (h w) (c p q) -> b c (h p) (w q)", h=spec.grid, p=spec.patch, q=spec.patch)
    return {"linear readout": torch.cat([images, to_uint8(output).cpu()])}


# ---- judge -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class JudgeConfig:
    """Supervised, on the judge's own source digits."""

    network: JudgeSpec = field(default_factory=JudgeSpec)
    num_images: int = 65_536
    """Renderings of the judge's digits."""
    attribute_weight: float = 1.0
    """On the squared error of the colours, beside the class's cross-entropy."""
    ema_decay: float = 0.995
    optimiser: OptimiserConfig = field(
        default_factory=lambda: OptimiserConfig(learning_rate=2e-3, weight_decay=0.02, schedule="cosine")
    )
    loop: LoopConfig = field(default_factory=lambda: LoopConfig(batch_size=128, num_steps=1000))


def setup_judge(config: JudgeConfig, dataset: Dataset) -> TrainState:
    """A fresh judge."""
    torch.manual_seed(config.loop.seed)
    return _state({"judge": Judge(config.network)}, config, dataset)


def judge_objectives(state: TrainState, batch: Batch, randomness: Randomness) -> Iterator[Objective]:
    """Name the digit and both colours."""
    config, dataset = state.fixed
    judge = state.modules["judge"]
    assert isinstance(judge, Judge) and isinstance(dataset, Digits)
    assert batch.pixels is not None and batch.label is not None
    features = judge.features(to_float(batch.pixels))
    error = F.cross_entropy(judge.classes(features), batch.label, reduction="none")
    colours = (judge.attributes(features) - _colours(dataset, batch.index).to(features)).pow(2).mean(1)
    correct = (judge.classes(features).argmax(1) == batch.label).float()
    scalars = {"accuracy": correct.mean(), "colour_error": colours.detach().mean()}
    yield Objective("judge", error + config.attribute_weight * colours, scalars)


def _colours(dataset: Digits, index: Tensor) -> Tensor:
    """(B, 6) ink and ground in [-1, 1]."""
    looks = dataset.attributes(index.cpu())
    return to_float(torch.cat([looks["ink"], looks["ground"]], dim=1))


def preview_judge(state: TrainState) -> dict[str, Tensor]:
    """The judge has nothing to show."""
    return {}


# ---- both --------------------------------------------------------------------------------------------------


def _state(modules: dict[str, nn.Module], config: Any, dataset: Dataset) -> TrainState:
    device = default_device()
    for module in modules.values():
        module.to(device)
    params = [param for module in modules.values() for param in module.parameters()]
    trainable = Trainable(optim.build(params, config.optimiser), config.optimiser)
    return TrainState(
        modules=modules,
        optimisers={next(iter(modules)): trainable},
        emas={name: Ema(module, config.ema_decay) for name, module in modules.items()},
        device=device,
        fixed=(config, dataset),
    )


def _export(kind: str, state: TrainState, folder: Path) -> Path:
    network = state.emas[kind].module
    assert isinstance(network, (Teacher, Judge))
    path = folder / f"{kind}.safetensors"
    embedded.save(network, path)
    return path


def _check_counts(config: TeacherConfig | JudgeConfig) -> None:
    if config.num_images < 1:
        raise ValueError(f"num_images is {config.num_images}; ask for at least 1")


TEACHER = Recipe(
    validate=_check_counts,
    dataset=lambda config: digits("train", num_images=config.num_images),
    setup=setup_teacher,
    objectives=teacher_objectives,
    preview=preview_teacher,
    export=lambda state, folder: _export("teacher", state, folder),
)
JUDGE = Recipe(
    validate=_check_counts,
    dataset=lambda config: digits("judge", num_images=config.num_images),
    setup=setup_judge,
    objectives=judge_objectives,
    preview=preview_judge,
    export=lambda state, folder: _export("judge", state, folder),
)
