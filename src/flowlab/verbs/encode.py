"""`flowlab encode`: a data set becomes moments in safetensors shards."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["EncodeOptions", "encode", "shipped"]


@dataclass(frozen=True, kw_only=True)
class EncodeOptions:
    """What to encode, and how it is kept."""

    dataset: str = "digits"
    """An embedded data set, or a folder of class folders."""
    split: str = "train"
    """A split of the data set; `all` for a folder without splits."""
    num_images: int | None = None
    """So many of a folder, spread over its classes, or the first so many of another; by default all."""
    resolution: int | None = None
    """Pixels per side; by default the autoencoder's own, which is 256 where nothing says."""
    resize: str = "exact"
    """What a folder's images go through: exact (they have the size already) or adm (ADM's centre crop)."""
    out: Path | None = None
    """The cache's folder; by default runs/cache/NAME_DATASET_SPLIT. The same command finishes it."""
    flips: bool = False
    """Store the mirrored images too (the latent of a mirrored image is not the mirrored latent)."""
    teacher: str | None = None
    """Store this network's tokens beside the moments, for REPA."""
    dtype: str = "float16"
    """float32, float16 or bfloat16."""
    shard_size: int = 4096
    """Images per file."""
    gate: bool = True
    """Judge the autoencoder on the first 2,000 images before anything is written."""
    dry_run: bool = False
    """Print the plan and stop."""


def shipped() -> dict[str, str]:
    """Each autoencoder that ships with the shape of its latent."""
    import torch

    from flowlab.autoencoders.sizes import AUTOENCODERS, build

    with torch.device("meta"):
        specs = {name: build(name).spec for name in AUTOENCODERS}
    return {
        name: f"{spec.channels} channels per token of {spec.stride} px, {spec.resolution} px images"
        for name, spec in specs.items()
    }


def encode(autoencoder: str, options: EncodeOptions) -> None:
    """Images => moments in safetensors shards with an index."""
    import torch
    from tqdm import tqdm

    from flowlab import autoencoders
    from flowlab.autoencoders import gate
    from flowlab.core.devices import default_device
    from flowlab.core.pixels import to_float
    from flowlab.core.weights import tensors_id
    from flowlab.data import datasets
    from flowlab.data.latents import write_cache
    from flowlab.features.embedded import load_teacher

    device = default_device()
    asked: dict[str, Any] = {} if options.resolution is None else {"resolution": options.resolution}
    model = autoencoders.load(autoencoder, **asked).to(device)
    images = datasets.load(
        options.dataset,
        options.split,
        num_images=options.num_images,
        resolution=model.spec.resolution,
        resize=options.resize,
    )
    name = f"{model.spec.name}_{Path(options.dataset).name}_{options.split}"
    folder = options.out or Path("runs/cache") / name
    shape = f"{model.spec.channels} x {model.spec.grid} x {model.spec.grid}"
    print(f"{len(images):,} images of {images.identity}")
    print(f"=> latents {shape} of {model.spec.name} {model.identity}, {options.dtype}, in {folder}")
    if options.dry_run:
        return
    teacher = load_teacher(options.teacher).to(device) if options.teacher else None

    @torch.no_grad()
    def moments(pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        return model.encode(to_float(pixels).to(device))

    def done(num_images: int) -> None:
        bar.update(num_images)

    with tqdm(total=len(images), unit="image") as bar:
        index = write_cache(
            folder,
            images,
            moments,
            identity=model.identity,
            teacher=teacher and (lambda pixels: teacher(pixels.to(device))),
            teacher_identity=tensors_id(teacher.state_dict()) if teacher else None,
            flips=options.flips,
            dtype=options.dtype,
            shard_size=options.shard_size,
            progress=done,
            gate=lambda pictures: gate.check(model, pictures, enabled=options.gate).outcome,
        )
    print(index)
