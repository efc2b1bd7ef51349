"""The two small networks that ship with flowlab, so that the study runs with no download.

The *teacher* is a self-supervised vision transformer: alignment target (REPA), semantic loss, perceptual
loss and RAE encoder. The *judge* is a convolutional classifier of another architecture, trained with
labels on source digits of its own; its features give FID and are never used in training. Keeping them
apart is what lets a gain from the teacher count as a gain.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from flowlab.core.choices import lookup
from flowlab.core.pixels import to_float
from flowlab.core.weights import load_strict, read_weights, write_weights

__all__ = [
    "JUDGES",
    "TEACHERS",
    "Judge",
    "JudgeSpec",
    "Teacher",
    "TeacherSpec",
    "load_judge",
    "load_teacher",
    "save",
]

WEIGHTS = Path(__file__).parent / "weights"
PIXEL_MEAN, PIXEL_STD = -0.6, 0.5  # of the training digits in [-1, 1]

# Trained by `flowlab train teacher_digits` and `flowlab train judge_digits`, measured on held-out digits:
# teacher 97.6 % by a linear map of its tokens, 96.8 % by ten nearest neighbours; judge 97.8 % of the classes.
TEACHERS = {"teacher": WEIGHTS / "teacher_digits.safetensors"}
JUDGES = {"digits judge": WEIGHTS / "judge_digits.safetensors"}


# ---- teacher -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class TeacherSpec:
    """A plain ViT: patches, pre-norm blocks, a final norm without affine (as RAE asks)."""

    resolution: int = 32
    """Pixels per side."""
    patch: int = 8
    """Pixels per token side."""
    width: int = 128
    """Of the residual stream."""
    depth: int = 4
    """Blocks."""
    heads: int = 4
    channels: int = 64
    """Of an output token."""

    @property
    def grid(self) -> int:
        """Tokens per side."""
        return self.resolution // self.patch


class Teacher(nn.Module):
    """uint8 (B, 3, H, W) => tokens (B, N, channels), row-major, zero mean and unit variance over channels."""

    def __init__(self, spec: TeacherSpec):
        super().__init__()
        self.spec = spec
        self.patch_in = nn.Linear(3 * spec.patch**2, spec.width)
        self.position = nn.Parameter(torch.randn(1, spec.grid**2, spec.width) * 0.2)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, spec.width))
        self.blocks = nn.ModuleList(transformer_block(spec.width, spec.heads) for _ in range(spec.depth))
        self.norm = nn.LayerNorm(spec.width)
        self.out = nn.Linear(spec.width, spec.channels)

    @property
    def num_tokens(self) -> int:
        """Tokens per image."""
        return self.spec.grid**2

    def forward(self, images: Tensor) -> Tensor:
        return self.tokens(to_float(images))

    def tokens(self, pixels: Tensor) -> Tensor:
        """(B, 3, H, W) in [-1, 1] => (B, N, channels)."""
        return self.head(self.layers(pixels)[-1])

    def layers(self, pixels: Tensor, masked: Tensor | None = None) -> list[Tensor]:
        """Hidden states after each block, (B, N, width) each: the layers of the perceptual distance.

        `masked` (B, N) bool hides patches behind a learned token.
        """
        p = self.spec.patch
        patches = rearrange(pixels, "b c (h p) (w q) -> b (h w) (p q c)", p=p, q=p)
        h = self.patch_in((patches - PIXEL_MEAN) / PIXEL_STD)
        if masked is not None:
            h = torch.where(masked[..., None], self.mask_token.to(h.dtype), h)
        h = h + self.position
        states = []
        for block in self.blocks:
            h = block(h)
            states.append(h)
        return states

    def head(self, hidden: Tensor) -> Tensor:
        """Last hidden state => output tokens (B, N, channels), normalised over channels without affine."""
        out = self.out(self.norm(hidden))
        return F.layer_norm(out, out.shape[-1:])


def transformer_block(width: int, heads: int) -> nn.Module:
    """torch's own pre-norm block: attention and a GELU MLP of ratio 4, no dropout."""
    return nn.TransformerEncoderLayer(
        width, heads, 4 * width, dropout=0.0, activation=F.gelu, batch_first=True, norm_first=True
    )


# ---- judge -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class JudgeSpec:
    """A small residual convolutional classifier with a 64-number bottleneck before its heads."""

    width: int = 32
    """Of the first level; doubles at each halving."""
    features: int = 64
    """Numbers per image that FID sees."""
    num_classes: int = 10
    num_attributes: int = 6
    """Regression targets beside the class: ink and ground colour, three each, so that features see colour."""


class Judge(nn.Module):
    """uint8 (B, 3, H, W) => features (B, 64)."""

    def __init__(self, spec: JudgeSpec):
        super().__init__()
        self.spec = spec
        w = spec.width
        self.stem = nn.Conv2d(3, w, 3, padding=1)
        self.stages = nn.ModuleList(JudgeStage(w * 2**i, w * 2 ** (i + 1)) for i in range(2))
        self.bottleneck = nn.Linear(4 * w * 4, spec.features)
        self.classes = nn.Linear(spec.features, spec.num_classes)
        self.attributes = nn.Linear(spec.features, spec.num_attributes)

    def forward(self, images: Tensor) -> Tensor:
        return self.features(to_float(images))

    def features(self, pixels: Tensor) -> Tensor:
        """(B, 3, 32, 32) in [-1, 1] => (B, 64)."""
        h = self.stem(pixels)
        for stage in self.stages:
            h = stage(h)
        h = F.adaptive_avg_pool2d(F.relu(h), 2).flatten(1)  # (B, 4 w * 2 * 2)
        return torch.tanh(self.bottleneck(h))


class JudgeStage(nn.Module):
    """A residual pair of 3 x 3 convolutions, then average-pool to half the side and twice the width."""

    def __init__(self, before: int, after: int):
        super().__init__()
        self.conv1 = nn.Conv2d(before, before, 3, padding=1)
        self.conv2 = nn.Conv2d(before, before, 3, padding=1)
        self.norm1 = nn.GroupNorm(8, before)
        self.norm2 = nn.GroupNorm(8, before)
        self.widen = nn.Conv2d(before, after, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.relu(self.norm1(x)))
        h = self.conv2(F.relu(self.norm2(h)))
        return self.widen(F.avg_pool2d(x + h, 2))


# ---- files -------------------------------------------------------------------------------------------------

Network = TypeVar("Network", Teacher, Judge)


def load_teacher(name_or_path: str) -> Teacher:
    """A frozen teacher by its name in TEACHERS or by the path of its weights."""
    return _load(name_or_path, TEACHERS, "teacher", lambda spec: Teacher(TeacherSpec(**spec)))


def load_judge(name_or_path: str) -> Judge:
    """A frozen judge by its name in JUDGES or by the path of its weights."""
    return _load(name_or_path, JUDGES, "judge", lambda spec: Judge(JudgeSpec(**spec)))


def save(network: Teacher | Judge, path: Path) -> None:
    """Write float16 weights with the spec in the metadata."""
    tensors = {name: tensor.half() for name, tensor in network.state_dict().items()}
    write_weights(
        path, tensors, {"spec": json.dumps(asdict(network.spec)), "kind": type(network).__name__.lower()}
    )


def _load(
    name_or_path: str, table: dict[str, Path], kind: str, build: Callable[[dict[str, int]], Network]
) -> Network:
    path = Path(name_or_path) if name_or_path.endswith(".safetensors") else lookup(table, name_or_path, kind)
    tensors, metadata = read_weights(path)
    if metadata.get("kind") != kind:
        raise ValueError(f"{path} holds {metadata.get('kind', 'something else')}, not a {kind}")
    network = build(json.loads(metadata["spec"]))
    load_strict(network, {name: tensor.float() for name, tensor in tensors.items()}, where=str(path))
    return network.eval().requires_grad_(False)
