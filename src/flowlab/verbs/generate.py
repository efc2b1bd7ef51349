"""`flowlab generate`: prompts, or the labels of a class-conditional model file, become images."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

__all__ = ["GenerateOptions", "generate", "load_model", "sampling", "told"]

MODEL_FILES = (".safetensors", ".pt", ".pth", ".ckpt")


@dataclass(frozen=True, kw_only=True)
class GenerateOptions:
    """Of what, how, and where to. What is left out is the model's own default."""

    model: str = "flux2_scenes"
    """For prompts: a shipped name, a model file, or a folder of diffusers."""
    prompts: Path | None = None
    """A file with one prompt a line; in .jsonl each an object, with "prompt" and its own "negative", "seed",
    "width", "height", "references"; a .json file is one structured prompt."""
    negative: str | None = None
    """What should not be seen; for models with true guidance."""
    references: tuple[Path, ...] = ()
    """Up to 10 images that the prompt calls "image 1", "image 2", in this order."""
    reference_cap: int | None = None
    """Pixels of a reference above which it is shrunk."""
    image: Path | None = None
    """An image to start from (--strength), to change a part of (--mask), or to follow (Canny, Depth)."""
    strength: float = 1.0
    """How much of --image may change: 0 nothing, 1 everything."""
    mask: Path | None = None
    """An image as large as --image, white where it is repainted."""
    width: int | None = None
    """Pixels, in steps of the autoencoder's stride (FLUX: 16)."""
    height: int | None = None
    """Pixels."""
    num_steps: int | None = field(default=None, metadata={"aliases": ("--steps",)})
    """Updates from noise to image."""
    guidance: float | None = None
    """Guidance scale; 1 = off."""
    shift: float | None = None
    """Sampling shift alpha of an even grid, in the place of the model's schedule."""
    seed: int = 0
    """Image i of a prompt is a function of (seed, i), whatever the batch size."""
    num_images: int | None = None
    """Images, of each prompt (1) or of a class-conditional model (36)."""
    batch_size: int | None = None
    """Images at once; for prompts 4, for classes 250. Changes speed and memory."""
    upsample: str | None = None
    """A language model (folder or hub id) that rewrites the prompts first; the PNG keeps both."""
    lora: tuple[str, ...] = ()
    """Adapters to merge: PATH or PATH:SCALE."""
    autoencoder: str | None = None
    """Name or path; by default the one that the model's file names."""
    text: str | None = None
    """Text encoder, name or path; by default the one that the model's file names."""
    variant: str | None = None
    """What shapes do not tell, such as flux2_klein_base."""
    precision: str | None = None
    """float32 or bfloat16; by default float32 on a CPU and, for prompts, bfloat16 on a GPU."""
    offload: str = "none"
    """"blocks" keeps the model in main memory and brings one layer at a time to the device."""
    quantise: str = "none"
    """"8bit" or "4bit" weights, by bitsandbytes."""
    tiles: bool = False
    """Decode in strips: less memory, the same image."""
    from_image: Path | None = field(default=None, metadata={"option": "from"})
    """A PNG made from a prompt: make it again, to the bit."""
    classes: tuple[int, ...] = ()
    """Class-conditional: labels, repeated in turn; by default drawn at random, one per image."""
    sampler: str = "euler"
    """Class-conditional: euler or heun."""
    guidance_interval: tuple[float, float] = (0.0, 1.0)
    """Class-conditional: times within which guidance acts."""
    out: Path | None = None
    """The image folder; by default `samples` beside a class-conditional model, else a new one here."""
    dry_run: bool = False
    """Print the plan and stop: of prompts with memory and time, before anything is loaded; of a
    class-conditional model once it is read."""


FOR_CLASSES = ("classes", "sampler", "guidance_interval")
FOR_BOTH = ("num_steps", "guidance", "shift", "seed", "num_images", "batch_size", "autoencoder", "precision",
            "out", "dry_run")  # fmt: skip


def generate(subjects: tuple[str, ...], options: GenerateOptions) -> None:
    """A model file => images of classes; anything else is prompts."""
    from flowlab.verbs import prompted

    for name in ("num_images", "batch_size"):
        if (count := getattr(options, name)) is not None and count < 1:
            raise ValueError(f"--{name.replace('_', '-')} is {count}; ask for 1 or more")
    if len(subjects) == 1 and _is_model(subjects[0]):
        names = {one.name for one in fields(options)} - {*FOR_BOTH, *FOR_CLASSES}
        _refuse(options, names, f"{subjects[0]} is a class-conditional model; for prompts give --model")
        generate_classes(subjects[0], options)
        return
    _refuse(
        options, FOR_CLASSES, "prompts have none; give a class-conditional model file as the first argument"
    )
    if options.from_image is not None:
        names = {one.name for one in fields(options)} - {"from_image", "out"}
        _refuse(options, names, "--from repeats an image with the settings inside it, alone or with --out")
        if subjects:
            raise ValueError(f"--from repeats the prompt of {options.from_image}; leave {subjects[0]!r} out")
        prompted.repeat_image(options.from_image, options.out)
        return
    prompted.generate_prompts(subjects, options)


def _is_model(word: str) -> bool:
    return word.endswith(MODEL_FILES) or os.path.exists(word)


def _refuse(options: GenerateOptions, names: Sequence[str] | set[str], reason: str) -> None:
    """An option that this use ignores would mislead."""
    for one in fields(options):
        if one.name in names and getattr(options, one.name) != one.default:
            name = one.metadata.get("option", one.name.replace("_", "-"))
            raise ValueError(f"--{name} does nothing here: {reason}")


# ---- classes -----------------------------------------------------------------------------------------------


def generate_classes(path: str, options: GenerateOptions) -> None:
    """A model file => PNG images with a manifest."""
    import torch

    from flowlab.core.config import to_dict
    from flowlab.core.devices import device_of
    from flowlab.core.weights import tensors_id
    from flowlab.evaluate.generation import decode
    from flowlab.generate.images import check_folder, write_folder
    from flowlab.generate.sampling import check, random_labels, sample_latents

    sampling, num_images = _sampling_of(options), options.num_images or 36
    check(sampling, "--shift")
    folder = check_folder(options.out or Path(path).parent / "samples")
    model, autoencoder = load_model(path, options.autoencoder)
    spec, num_classes, device = autoencoder.spec, model.spec.num_classes, device_of(model)
    for label in options.classes:
        if not 0 <= label < num_classes:
            raise ValueError(f"--classes holds {label}; {path} knows 0 to {num_classes - 1}")
    steps = f"{sampling.num_steps} {sampling.sampler} steps"
    print(f"{num_images} images, {spec.resolution} pixels a side, {steps} => {folder}")
    if options.dry_run:
        return
    indices = torch.arange(num_images, device=device)
    chosen = torch.tensor(options.classes, dtype=torch.int64, device=device)
    labels = (
        chosen[indices % len(chosen)] if len(chosen) else random_labels(num_classes, indices, options.seed)
    )
    latents = sample_latents(
        model, (spec.channels, spec.grid, spec.grid), labels, indices, options.seed, sampling
    )
    facts = [{"index": i, "label": label, "seed": options.seed} for i, label in enumerate(labels.tolist())]
    common = {
        "model": {"file": path, "identity": tensors_id(model.state_dict())},
        "autoencoder": {"name": spec.name, "identity": autoencoder.identity},
        "size": spec.resolution,
        "sampling": to_dict(sampling),
        "references": [],
    }
    images = decode(autoencoder, latents, sampling.precision).cpu()
    print(write_folder(folder, images, facts, common))


def _sampling_of(options: GenerateOptions) -> Any:
    """The sampling of a class-conditional model, with what the options say."""
    from flowlab.generate.sampling import SamplingConfig

    said = {one.name: getattr(options, one.name, None) for one in fields(SamplingConfig)}
    return SamplingConfig(**{name: value for name, value in said.items() if value is not None})


def load_model(path: str, autoencoder: str | None) -> tuple[Any, Any]:
    """The class-conditional model in `path` and the autoencoder of its latent, on the default device."""
    from flowlab import backbones
    from flowlab.backbones.sit import SiT
    from flowlab.core.devices import default_device

    facts = told(path)
    name = autoencoder or facts.get("autoencoder")
    if name is None:
        raise ValueError(f"{path} does not say which autoencoder it was trained in; give --autoencoder")
    model = backbones.load(path)
    if not isinstance(model, SiT):
        raise ValueError(
            f'{path} reads prompts, not classes; run: flowlab generate "a red star" --model {path}'
        )
    decoder = _decoder(path, name, facts, chosen=autoencoder is not None)
    spec: Any = model.spec
    theirs, ours = (decoder.spec.channels, decoder.spec.grid), (spec.channels, spec.grid)
    if theirs != ours:
        raise ValueError(
            f"{path} makes latents of (channels, side) {ours}, the autoencoder {name} decodes {theirs}"
        )
    return model.to(default_device()), decoder.to(default_device())


def _decoder(path: str, name: str, facts: Mapping[str, str], chosen: bool) -> Any:
    """The autoencoder `name` at the size that the model was trained for.

    One that the model's file names must hold the weights it was trained in; one `chosen` by the user may
    hold others, as a decoder that was trained further does.
    """
    from flowlab import autoencoders

    if not chosen and os.path.isabs(name) and not os.path.exists(name):
        raise ValueError(f"{path} was trained in the autoencoder {name}, which is gone; give --autoencoder")
    asked: dict[str, Any] = {"resolution": int(facts["resolution"])} if "resolution" in facts else {}
    decoder = autoencoders.load(name, **asked)
    before = facts.get("autoencoder_identity")
    if not chosen and before not in (None, decoder.identity):
        raise ValueError(
            f"{name} holds other weights ({decoder.identity}) than {path} was trained in ({before});"
            " give those with --autoencoder"
        )
    return decoder


def told(path: str) -> dict[str, str]:
    """What a model's file says of its training: `autoencoder` with its `autoencoder_identity` and, where one
    was asked for, its `resolution`; `gate` as GateReport.outcome."""
    from flowlab.core.weights import read_weights

    return read_weights(path)[1] if path.endswith(".safetensors") else {}


def sampling(path: str, debug: bool) -> Any:
    """How samples are drawn unless options say otherwise, whatever the model."""
    from flowlab.generate.sampling import SamplingConfig

    return SamplingConfig()
