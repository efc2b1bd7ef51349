"""`flowlab generate`: a model file becomes images."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["GenerateOptions", "generate", "load_model", "sampling", "told"]


@dataclass(frozen=True, kw_only=True)
class GenerateOptions:
    """How many images, of what, and where to."""

    num_images: int = 36
    """Images to make."""
    classes: tuple[int, ...] = ()
    """Labels, repeated in turn; by default drawn at random, one per image."""
    seed: int = 0
    """Image i is a function of (seed, i), whatever the batch size."""
    autoencoder: str | None = None
    """Name or path; by default the one that the model's file names."""
    out: Path | None = None
    """The image folder; by default `samples` beside the model."""
    dry_run: bool = False
    """Print the plan and stop."""


def generate(path: str, sampling: Any, options: GenerateOptions) -> None:
    """A model file => PNG images with a manifest."""
    import torch

    from flowlab.core.config import to_dict
    from flowlab.core.devices import device_of
    from flowlab.core.weights import tensors_id
    from flowlab.evaluate.generation import decode
    from flowlab.generate.images import check_folder, write_folder
    from flowlab.generate.sampling import random_labels, sample_latents

    if options.num_images < 1:
        raise ValueError(f"--num-images is {options.num_images}; ask for 1 or more")
    folder = check_folder(options.out or Path(path).parent / "samples")
    model, autoencoder = load_model(path, options.autoencoder)
    spec, num_classes, device = autoencoder.spec, model.spec.num_classes, device_of(model)
    for label in options.classes:
        if not 0 <= label < num_classes:
            raise ValueError(f"--classes holds {label}; {path} knows 0 to {num_classes - 1}")
    steps = f"{sampling.num_steps} {sampling.sampler} steps"
    print(f"{options.num_images} images, {spec.resolution} pixels a side, {steps} => {folder}")
    if options.dry_run:
        return
    indices = torch.arange(options.num_images, device=device)
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


def load_model(path: str, autoencoder: str | None) -> tuple[Any, Any]:
    """The flow model in `path` and the autoencoder whose latent it makes, on the default device."""
    from flowlab import autoencoders, backbones
    from flowlab.core.devices import default_device

    name = autoencoder or told(path).get("autoencoder")
    if name is None:
        raise ValueError(f"{path} does not say which autoencoder it was trained in; give --autoencoder")
    model, decoder = backbones.load(path), autoencoders.load(name)
    spec: Any = model.spec
    theirs, ours = (decoder.spec.channels, decoder.spec.grid), (spec.channels, spec.grid)
    if theirs != ours:
        raise ValueError(
            f"{path} makes latents of (channels, side) {ours}, the autoencoder {name} decodes {theirs}"
        )
    return model.to(default_device()), decoder.to(default_device())


def told(path: str) -> dict[str, str]:
    """What a model's file says of its training: `autoencoder`, and `gate` as GateReport.outcome."""
    from flowlab.core.weights import read_weights

    return read_weights(path)[1] if path.endswith(".safetensors") else {}


def sampling(path: str, debug: bool) -> Any:
    """How samples are drawn unless options say otherwise, whatever the model."""
    from flowlab.generate.sampling import SamplingConfig

    return SamplingConfig()
