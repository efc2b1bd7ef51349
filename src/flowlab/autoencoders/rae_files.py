"""Published representation autoencoders in and out: folders of diffusers' AutoencoderRAE.

Such a folder is config.json and one safetensors file; the tables of names are in rae_names.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import isqrt
from pathlib import Path
from typing import Any

from torch import Tensor

from flowlab.autoencoders.rae import PublishedRAESpec, RepresentationAutoencoder, StoredWhitening
from flowlab.autoencoders.rae_names import (
    FIRST_MLP,
    NAMINGS,
    POSITION_TABLES,
    current_names,
    join_attention,
    older_names,
    our_to_their_names,
    split_attention,
)
from flowlab.autoencoders.vit_decoder import ViTDecoderSpec
from flowlab.core.choices import lookup
from flowlab.core.files import read_json, write_json
from flowlab.core.weights import check_finite, load_strict, read_weights, write_weights
from flowlab.features.vision import ENCODERS, VisionEncoder, VisionSpec

__all__ = ["from_diffusers", "name_of", "to_diffusers"]

CLASS, WEIGHTS = "AutoencoderRAE", "diffusion_pytorch_model.safetensors"
HEAD_WIDTH = 64  # of every encoder that the class can build
POSITION_SPAN = 16  # its position table spans 0 to 16 whatever the grid


def from_diffusers(folder: Path | str) -> RepresentationAutoencoder:
    """A frozen float32 autoencoder from a folder that diffusers' AutoencoderRAE wrote.

    It is named by its encoder, as in sizes.PUBLISHED: rae_dinov2_base, or rae_dinov2 at a size of its own.
    A folder of another class, an unknown setting, and a missing, unknown, misshapen or non-finite tensor are
    ValueErrors.
    """
    folder = Path(folder)
    if not (folder / "config.json").is_file():
        raise ValueError(f"no config.json in {folder}; give the folder that save_pretrained wrote")
    config = _checked(read_json(folder / "config.json"), folder)
    stored = read_weights(folder / WEIGHTS)[0]
    check_finite(stored, str(folder))
    stored.pop("decoder.decoder_pos_embed", None)  # fixed, so rebuilt; diffusers ignores it as well
    current = current_names(config["encoder_type"], config["encoder_num_hidden_layers"], stored)
    tensors = {current.get(key, key): tensor.float() for key, tensor in stored.items()}
    spec = _spec(config, tensors, str(folder))
    model = RepresentationAutoencoder(spec, name_of(spec.encoder))
    renames = {theirs: ours for ours, theirs in _names(model, spec).items()}
    tensors = join_attention(_without_batch_axis(tensors), spec.decoder.depth)
    load_strict(model, tensors, renames, where=str(folder))
    return model.eval().requires_grad_(False)


def to_diffusers(
    model: RepresentationAutoencoder, folder: Path | str, *, naming: str = "transformers5"
) -> None:
    """Write config.json and weights that diffusers' AutoencoderRAE loads; float32, equal to the bit.

    `naming` is the `transformers` beside that diffusers, a key of NAMINGS. What the class cannot express (an
    encoder of another shape, kept affine, plain positions on a grid other than 16) is a ValueError.
    """
    older = lookup(NAMINGS, naming, "naming")
    spec = model.options
    if not isinstance(spec, PublishedRAESpec):
        raise ValueError(f"{model.spec.name} is an embedded autoencoder; save it with autoencoders.save")
    _check_expressible(spec)
    names = _names(model, spec)
    tensors = {names[ours]: tensor.float() for ours, tensor in model.state_dict().items()}
    tensors = split_attention(tensors, spec.decoder.depth)
    if older:
        old_names = older_names(spec.encoder.kind, spec.encoder.depth, tensors)
        tensors = {old_names.get(key, key): tensor for key, tensor in tensors.items()}
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_weights(folder / WEIGHTS, tensors, {"format": "pt"})
    write_json(folder / "config.json", _config(spec, model))


def name_of(encoder: VisionSpec) -> str:
    """The published name of that encoder's autoencoder, else its kind's."""
    shape = (encoder.kind, encoder.width, encoder.depth)
    for name, known in ENCODERS.items():
        if (known.kind, known.width, known.depth) == shape:
            return f"rae_{name}"
    return f"rae_{encoder.kind}"


def _names(model: RepresentationAutoencoder, spec: PublishedRAESpec) -> dict[str, str]:
    """Our name: theirs."""
    assert isinstance(model.encoder, VisionEncoder)
    return our_to_their_names(model.encoder.network.state_dict(), spec.decoder.depth)


# ---- configuration -----------------------------------------------------------------------------------------

DEFAULTS: dict[str, Any] = {  # of AutoencoderRAE; a config.json may leave out what equals them
    "encoder_type": "dinov2",
    "encoder_hidden_size": 768,
    "encoder_patch_size": 14,
    "encoder_num_hidden_layers": 12,
    "decoder_hidden_size": 512,
    "decoder_num_hidden_layers": 8,
    "decoder_num_attention_heads": 16,
    "decoder_intermediate_size": 2048,
    "patch_size": 16,
    "encoder_input_size": 224,
    "image_size": None,
    "num_channels": 3,
    "encoder_norm_mean": None,
    "encoder_norm_std": None,
    "latents_mean": None,
    "latents_std": None,
    "noise_tau": 0.0,
    "reshape_to_2d": True,
    "use_encoder_loss": False,
    "scaling_factor": 1.0,
}
KINDS = {"dinov2": ENCODERS["dinov2_base"], "siglip2": ENCODERS["siglip2_base"], "mae": ENCODERS["mae_base"]}


def _checked(config: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The settings, defaults filled in."""
    if config.get("_class_name") != CLASS:
        raise ValueError(
            f"{folder} holds a {config.get('_class_name', 'model without a class name')}, not {CLASS}"
        )
    given = {key: value for key, value in config.items() if not key.startswith("_")}
    for key in given:
        lookup(DEFAULTS, key, f"setting in {folder / 'config.json'}")
    whole = DEFAULTS | given
    lookup(KINDS, whole["encoder_type"], "encoder_type")
    if not whole["reshape_to_2d"] or whole["num_channels"] != 3:
        raise ValueError(
            f"{folder}: reshape_to_2d={whole['reshape_to_2d']}, num_channels={whole['num_channels']};"
            " only True and 3 make a latent image of colour pixels"
        )
    return whole


def _spec(config: Mapping[str, Any], tensors: Mapping[str, Tensor], where: str) -> PublishedRAESpec:
    """Sizes from the settings, and from the tensors what the settings do not tell."""
    kind = config["encoder_type"]
    width, patch = config["encoder_hidden_size"], config["encoder_patch_size"]
    positions, special = POSITION_TABLES[kind]
    num_positions = _tensor(tensors, positions, where).shape[-2] - special
    num_statistics = _tensor(tensors, "_latents_mean", where).numel()
    encoder = VisionSpec(
        kind=kind,
        width=width,
        depth=config["encoder_num_hidden_layers"],
        mlp=len(_tensor(tensors, FIRST_MLP[kind], where)),
        head_width=HEAD_WIDTH,
        patch=patch,
        input_size=config["encoder_input_size"],
        table_size=isqrt(num_positions) * patch,
        mean=_colours(tensors, "encoder_mean", where),
        std=_colours(tensors, "encoder_std", where),
        pooling_head="encoder.head.probe" in tensors,
    )
    decoder = ViTDecoderSpec(
        latent_channels=width,
        width=config["decoder_hidden_size"],
        depth=config["decoder_num_hidden_layers"],
        heads=config["decoder_num_attention_heads"],
        mlp=config["decoder_intermediate_size"],
        patch=config["patch_size"],
        grid=encoder.grid,
        position_span=POSITION_SPAN,
    )
    return PublishedRAESpec(
        encoder=encoder,
        decoder=decoder,
        statistics={1: "none", width: "channel"}.get(num_statistics, "position"),
        scale=float(config["scaling_factor"]),
        noise_tau=float(config["noise_tau"]),
    )


def _check_expressible(spec: PublishedRAESpec) -> None:
    """Refuse what AutoencoderRAE would rebuild as something else."""
    encoder, decoder, kind = spec.encoder, spec.decoder, KINDS[spec.encoder.kind]
    mlp = 4 * encoder.width if encoder.kind == "dinov2" else kind.mlp  # the class sets it so
    span = decoder.grid if decoder.position_span is None else decoder.position_span
    faults = {
        "an encoder's final norm with affine": encoder.affine,
        f"the resize {encoder.resize!r}": encoder.resize != "bicubic",
        f"attention heads of {encoder.head_width} channels": encoder.head_width != HEAD_WIDTH,
        f"an encoder MLP of {encoder.mlp} at width {encoder.width}": encoder.mlp != mlp,
        f"a position table of {encoder.table_size} px": (
            encoder.table_size // encoder.patch != kind.table_size // encoder.patch
        ),
        f"decoder positions over 0 to {span}": span != POSITION_SPAN,
        f"{spec.eps=}": spec.eps != 1e-5,
    }
    for what, found in faults.items():
        if found:
            raise ValueError(f"{CLASS} cannot hold {what}; save this model with autoencoders.save")


def _config(spec: PublishedRAESpec, model: RepresentationAutoencoder) -> dict[str, Any]:
    encoder, decoder = spec.encoder, spec.decoder
    assert isinstance(model.normalise, StoredWhitening)
    statistics = {}
    if spec.statistics != "none":  # the class sizes its buffers by these lists
        statistics = {
            "latents_mean": model.normalise.mean.tolist(),
            "latents_std": model.normalise.std.tolist(),
        }
    return DEFAULTS | {
        "_class_name": CLASS,
        "encoder_type": encoder.kind,
        "encoder_hidden_size": encoder.width,
        "encoder_patch_size": encoder.patch,
        "encoder_num_hidden_layers": encoder.depth,
        "decoder_hidden_size": decoder.width,
        "decoder_num_hidden_layers": decoder.depth,
        "decoder_num_attention_heads": decoder.heads,
        "decoder_intermediate_size": decoder.mlp,
        "patch_size": decoder.patch,
        "encoder_input_size": encoder.input_size,
        "image_size": model.spec.resolution,
        "encoder_norm_mean": list(encoder.mean),
        "encoder_norm_std": list(encoder.std),
        **statistics,
        "noise_tau": spec.noise_tau,
        "scaling_factor": spec.scale,
    }


def _tensor(tensors: Mapping[str, Tensor], name: str, where: str) -> Tensor:
    if name not in tensors:
        raise ValueError(f"{where} lacks {name!r}; a whole {CLASS} file has it")
    return tensors[name]


def _colours(tensors: Mapping[str, Tensor], name: str, where: str) -> tuple[float, float, float]:
    red, green, blue = _tensor(tensors, name, where).flatten().tolist()
    return red, green, blue


def _without_batch_axis(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Statistics (1, C, h, w) => (C, h, w): some files keep the axis that they were averaged over."""
    whole = dict(tensors)
    for name in ("_latents_mean", "_latents_std"):
        if name in whole and whole[name].ndim == 4 and len(whole[name]) == 1:
            whole[name] = whole[name][0]
    return whole
