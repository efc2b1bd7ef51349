"""Published vision transformers as frozen feature networks: DINOv2, SigLIP2 and MAE.

The networks are `transformers`' own; this is the one file that touches that library. What is pinned here is
what papers differ in without saying: pixel range, resize, mean and std, which tokens are dropped, and the
final norm. All as in RAE (Zheng et al. 2025, arXiv 2510.11690).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from safetensors import SafetensorError
from torch import Tensor, nn

from flowlab.core.choices import lookup
from flowlab.core.weights import load_strict

__all__ = ["ENCODERS", "KINDS", "VisionEncoder", "VisionKind", "VisionSpec", "load"]

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
HALF = (0.5, 0.5, 0.5)
RESIZES = ("bicubic", "bilinear")


@dataclass(frozen=True, kw_only=True)
class VisionSpec:
    """A vision transformer's shape, and how pixels reach it."""

    kind: str = "dinov2"
    """A key of KINDS."""
    width: int = 768
    """Of a token."""
    depth: int = 12
    """Blocks."""
    mlp: int = 3072
    """Width inside a block's MLP."""
    head_width: int = 64
    """Channels of one attention head."""
    patch: int = 14
    """Pixels per token side, after the resize."""
    input_size: int = 224
    """Pixels per side that the network sees; others are resized to it."""
    table_size: int = 518
    """Pixels per side behind its position table, which is resized where `input_size` differs."""
    mean: tuple[float, float, float] = IMAGENET_MEAN
    """Of the colours, in [0, 1]."""
    std: tuple[float, float, float] = IMAGENET_STD
    """Of the colours, in [0, 1]."""
    resize: str = "bicubic"
    """"bicubic" or "bilinear", never antialiased: the published decoders were trained so."""
    affine: bool = False
    """Whether the final norm keeps its scale and shift. RAE drops them, so that tokens are of unit scale."""
    pooling_head: bool = False
    """SigLIP2: carry the attention pooling of its files, which no token passes through."""

    @property
    def grid(self) -> int:
        """Tokens per side."""
        return self.input_size // self.patch


class VisionEncoder(nn.Module):
    """Pixels (B, 3, H, W) float in [-1, 1] => features (B, width, grid, grid); frozen at birth."""

    mean: Tensor
    std: Tensor

    def __init__(self, spec: VisionSpec):
        super().__init__()
        self.kind = _checked(spec)
        self.spec = spec
        self.network = _network(spec, self.kind)
        self.register_buffer("mean", torch.tensor(spec.mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(spec.std).view(1, 3, 1, 1))
        self.eval().requires_grad_(False)

    def forward(self, pixels: Tensor) -> Tensor:
        tokens = self.tokens(pixels)[:, self.kind.num_special :]
        return rearrange(tokens, "b (h w) c -> b c h w", h=self.spec.grid)

    def tokens(self, pixels: Tensor, class_token: Tensor | None = None) -> Tensor:
        """All tokens after the final norm (B, num_special + grid^2, width): class, registers, patches.

        `class_token` (1, 1, width) stands in for the learned embedding of the class token.
        """
        h = self.embed(pixels, class_token)
        for block in self.blocks:
            h = block(h, None)  # None: every token sees every other
        return self.norm(h)

    def layers(self, pixels: Tensor, blocks: Sequence[int] | None = None) -> list[Tensor]:
        """Patch tokens (B, grid^2, width) after each block of `blocks` (counted from 0; all by default).

        Before the final norm; gradients reach the pixels, so that losses and discriminators can use them.
        """
        wanted = range(self.spec.depth) if blocks is None else blocks
        for index in wanted:
            if not 0 <= index < self.spec.depth:
                raise ValueError(f"no block {index}; this {self.spec.kind} has 0 to {self.spec.depth - 1}")
        h, states = self.embed(pixels), []
        for block in self.blocks[: max(wanted, default=-1) + 1]:
            h = block(h, None)
            states.append(h[:, self.kind.num_special :])
        return [states[index] for index in wanted]

    def embed(self, pixels: Tensor, class_token: Tensor | None = None) -> Tensor:
        """Resize, standardise, cut into patches, add positions and special tokens."""
        if pixels.ndim != 4 or pixels.shape[1] != 3:
            raise ValueError(f"pixels have shape {tuple(pixels.shape)}; expected (batch, 3, height, width)")
        x = (_resized((pixels + 1) / 2, self.spec) - self.mean) / self.std
        replaced = {} if class_token is None else {"cls_token": class_token}
        inputs = self.kind.inputs(x, self.spec)
        return self.kind.hidden(
            torch.func.functional_call(self.network.get_submodule("embeddings"), replaced, *inputs)
        )

    def unstandardise(self, x: Tensor) -> Tensor:
        """Pixels of mean 0 and std 1, as the network sees them and RAE's decoder predicts them => [-1, 1]."""
        return (x * self.std + self.mean) * 2 - 1

    @property
    def blocks(self) -> nn.ModuleList:
        """The transformer blocks, first to last."""
        blocks = self.network.get_submodule(self.kind.blocks)
        assert isinstance(blocks, nn.ModuleList)
        return blocks

    @property
    def norm(self) -> nn.Module:
        """The norm after the last block."""
        return self.network.get_submodule(self.kind.norm)


# ---- families ----------------------------------------------------------------------------------------------


Arguments = tuple[tuple[Any, ...], dict[str, Any]]  # positional and named
INTERPOLATE = {"interpolate_pos_encoding": True}  # DINOv2's embeddings always do


@dataclass(frozen=True, kw_only=True)
class VisionKind:
    """What sets one family of encoders apart: names in `transformers`, special tokens, and its embedding."""

    model: str
    """Class of the network; its configuration is `config`."""
    config: str
    model_type: str
    """As its config.json says."""
    blocks: str
    """Path of the list of blocks inside the network."""
    norm: str
    """Path of the final norm inside the network."""
    num_special: int
    """Tokens before the patches."""
    options: Callable[[VisionSpec], dict[str, Any]]
    """Fields of the configuration that the family has alone."""
    inputs: Callable[[Tensor, VisionSpec], Arguments]
    """Standardised pixels => arguments of its embedding."""
    hidden: Callable[[Any], Tensor] = lambda embedded: embedded
    """The tokens in what its embedding returns."""


def _mlp_ratio(spec: VisionSpec) -> dict[str, Any]:
    """DINOv2's configurations give the MLP over the width."""
    return {"mlp_ratio": spec.mlp // spec.width}


def _unmasked(x: Tensor, spec: VisionSpec) -> Arguments:
    """MAE keeps the patches of lowest noise, sorted by it: with none masked, rising noise keeps their order.

    float32 whatever the network's precision: bfloat16 cannot tell 256 from 257, and would shuffle patches.
    """
    order = torch.arange(spec.grid**2, device=x.device, dtype=torch.float32).expand(len(x), -1)
    return (x, order), INTERPOLATE


KINDS: dict[str, VisionKind] = {
    "dinov2": VisionKind(  # one class token and four registers (Darcet et al. 2024, arXiv 2309.16588)
        model="Dinov2WithRegistersModel",
        config="Dinov2WithRegistersConfig",
        model_type="dinov2_with_registers",
        blocks="encoder.layer",
        norm="layernorm",
        num_special=5,
        options=_mlp_ratio,
        inputs=lambda x, spec: ((x,), {}),
    ),
    "dinov2_plain": VisionKind(  # no registers: the target of REPA and VA-VAE (arXiv 2304.07193)
        model="Dinov2Model",
        config="Dinov2Config",
        model_type="dinov2",
        blocks="encoder.layer",
        norm="layernorm",
        num_special=1,
        options=_mlp_ratio,
        inputs=lambda x, spec: ((x,), {}),
    ),
    "siglip2": VisionKind(  # fixed-size SigLIP2 checkpoints are of the SigLIP class (arXiv 2502.14786)
        model="SiglipVisionModel",
        config="SiglipVisionConfig",
        model_type="siglip_vision_model",
        blocks="encoder.layers",
        norm="post_layernorm",
        num_special=0,
        options=lambda spec: {"intermediate_size": spec.mlp, "vision_use_head": spec.pooling_head},
        inputs=lambda x, spec: ((x,), INTERPOLATE),
    ),
    "mae": VisionKind(  # He et al. 2022, arXiv 2111.06377
        model="ViTMAEModel",
        config="ViTMAEConfig",
        model_type="vit_mae",
        blocks="layers",
        norm="layernorm",
        num_special=1,
        options=lambda spec: {"intermediate_size": spec.mlp, "mask_ratio": 0.0},
        inputs=_unmasked,
        hidden=lambda embedded: embedded[0],
    ),
}

DINO = ("dinov2", "dinov2_plain")

# The encoders of the published RAEs; every grid is 16 x 16.
ENCODERS: dict[str, VisionSpec] = {
    "dinov2_small": VisionSpec(width=384, mlp=1536),
    "dinov2_base": VisionSpec(),
    "dinov2_large": VisionSpec(width=1024, depth=24, mlp=4096),
    "siglip2_base": VisionSpec(kind="siglip2", patch=16, input_size=256, table_size=256, mean=HALF, std=HALF),
    "mae_base": VisionSpec(kind="mae", patch=16, input_size=256, table_size=224),
}


# ---- loading -----------------------------------------------------------------------------------------------


def load(folder_or_id: str, **overrides: Any) -> VisionEncoder:
    """An encoder from a folder that `save_pretrained` wrote, or from a hub id.

    Sizes come from its config.json; `overrides` replace fields of VisionSpec, such as `input_size` (by
    default the size that gives a grid of 16). Unfit weights or settings are a ValueError.
    """
    transformers = _transformers()
    whole = _fetched(folder_or_id, lambda: transformers.AutoConfig.from_pretrained(folder_or_id))
    spec = _spec_of(whole.vision_config if whole.model_type == "siglip" else whole, overrides)
    model_class = getattr(transformers, KINDS[spec.kind].model)
    loaded, info = _fetched(
        folder_or_id, lambda: model_class.from_pretrained(folder_or_id, output_loading_info=True)
    )
    if info["missing_keys"]:
        raise ValueError(f"{folder_or_id} lacks {min(info['missing_keys'])!r} of {model_class.__name__}")
    encoder = VisionEncoder(spec)
    for field in ("hidden_act", "layer_norm_eps"):  # no tensor tells them
        own, theirs = (getattr(network.config, field) for network in (encoder.network, loaded))
        if own != theirs:
            raise ValueError(f"{folder_or_id} has {field} {theirs}; only {own} can be used for {spec.kind}")
    norm = f"{encoder.kind.norm}."
    kept = {
        name: tensor.float()
        for name, tensor in loaded.state_dict().items()
        if (spec.affine or not name.startswith(norm)) and (spec.pooling_head or not name.startswith("head."))
    }
    load_strict(encoder.network, kept, where=folder_or_id)
    return encoder


def _fetched(folder_or_id: str, fetch: Callable[[], Any]) -> Any:
    """The library's faults for a wrong path, no network, and damaged or misshapen weights, as one line."""
    try:
        return fetch()
    except (OSError, ValueError, RuntimeError, SafetensorError) as problem:
        raise ValueError(
            f"no vision encoder at {folder_or_id!r} ({str(problem).splitlines()[0]}); give a whole folder of"
            " config.json and model.safetensors, or a hub id"
        ) from problem


def _spec_of(config: Any, overrides: dict[str, Any]) -> VisionSpec:
    kinds = {kind.model_type: name for name, kind in KINDS.items()}
    kind = lookup(kinds, config.model_type, "type of vision encoder")
    half, width = kind == "siglip2", config.hidden_size
    spec = VisionSpec(
        kind=kind,
        width=width,
        depth=config.num_hidden_layers,
        mlp=width * config.mlp_ratio if kind in DINO else config.intermediate_size,
        head_width=width // config.num_attention_heads,
        patch=config.patch_size,
        input_size=16 * config.patch_size,
        table_size=config.image_size,
        mean=HALF if half else IMAGENET_MEAN,
        std=HALF if half else IMAGENET_STD,
    )
    for name in overrides:
        lookup(spec.__dataclass_fields__, name, "field of VisionSpec")
    return replace(spec, **overrides)


def _network(spec: VisionSpec, kind: VisionKind) -> nn.Module:
    """The network with random weights, its final norm without affine unless the spec keeps it."""
    transformers = _transformers()
    config = getattr(transformers, kind.config)(
        hidden_size=spec.width,
        num_hidden_layers=spec.depth,
        num_attention_heads=spec.width // spec.head_width,
        image_size=spec.table_size,
        patch_size=spec.patch,
        **kind.options(spec),
    )
    network = getattr(transformers, kind.model)(config)
    if not spec.affine:
        norm = network.get_submodule(kind.norm)
        network.set_submodule(kind.norm, nn.LayerNorm(spec.width, eps=norm.eps, elementwise_affine=False))
    return network


def _transformers() -> Any:
    try:
        import transformers
    except ImportError as problem:
        raise ValueError(
            "vision encoders need the package transformers; install flowlab with its extra: flowlab[zoo]"
        ) from problem
    return transformers


def _checked(spec: VisionSpec) -> VisionKind:
    """The spec's kind, after the faults that would surface deep inside the network."""
    kind = lookup(KINDS, spec.kind, "vision encoder")
    if spec.resize not in RESIZES:
        raise ValueError(f"unknown resize {spec.resize!r}; choose from: {', '.join(RESIZES)}")
    if spec.input_size % spec.patch:
        raise ValueError(f"input_size {spec.input_size} is not a multiple of the patch, {spec.patch}")
    if spec.width % spec.head_width:
        raise ValueError(f"width {spec.width} is not a multiple of head_width, {spec.head_width}")
    if spec.kind in DINO and spec.mlp % spec.width:
        raise ValueError(f"mlp {spec.mlp} is not a multiple of the width, {spec.width}, as {spec.kind} needs")
    return kind


def _resized(pixels: Tensor, spec: VisionSpec) -> Tensor:
    size = (spec.input_size, spec.input_size)
    if tuple(pixels.shape[2:]) == size:
        return pixels
    return F.interpolate(pixels, size=size, mode=spec.resize, align_corners=False)
