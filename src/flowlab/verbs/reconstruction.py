"""`flowlab evaluate reconstruction`: the table of any list of autoencoders on any folder of images."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flowlab.core.counts import AtMost

if TYPE_CHECKING:
    from flowlab.autoencoders.base import Autoencoder
    from flowlab.data.batch import Dataset
    from flowlab.evaluate.reconstruction import RoundTrip
    from flowlab.evaluate.viewer import Chosen
    from flowlab.features.embedded import Judge, Teacher
    from flowlab.features.vgg import VGG16

__all__ = ["ReconstructionOptions", "evaluate_reconstruction"]


@dataclass(frozen=True, kw_only=True)
class ReconstructionOptions:
    """Which images, seen by which networks, and where the table goes."""

    dataset: str = "digits"
    """An embedded data set, or a folder of class folders."""
    split: str = "heldout"
    """A split of the data set; `all` for a folder without splits."""
    num_images: int | None = AtMost(1000)
    """Images compared with their reconstructions; by default fewer where there are fewer. None: all."""
    resolution: int | None = None
    """Pixels per side; by default what each autoencoder was trained at."""
    resize: str = "adm"
    """How a folder's images get that size: `adm` (halve, bicubic, centre crop) or `exact` (they have it)."""
    batch_size: int | None = None
    """Images at once; by default about half a million pixels."""
    judge: str = "digits judge"
    """Network whose features give rFID: a name, or the path of its weights; `none` leaves it out."""
    teacher: str = "teacher"
    """Network whose features give the perceptual distance; `none` leaves it out."""
    vgg: Path | None = None
    """torchvision's vgg16-397923af.pth, for psim_vgg16."""
    lpips_heads: Path | None = None
    """lpips' weights/v0.1/vgg.pth, for lpips_vgg beside it."""
    check_hash: bool = True
    """Whether those two files must be the published ones."""
    latents: bool = True
    """Whether to measure the latent's scale, rank, spectrum and equivariance."""
    speed_repeats: int = 3
    """Timed calls, of which the median counts; 0 leaves speed and memory out."""
    speed_batch: int | None = None
    """Images per timed call; by default 32 on a GPU, 4 on a processor."""
    random_weights: bool = False
    """Build each name of the size tables with random weights instead of loading it; the gate is then off."""
    gate: bool = True
    """Whether the gate (round trip, latent statistics) is asked first; the row says what it said."""
    out: Path | None = None
    """Append the rows to this file, one JSON object a line."""
    table: Path | None = None
    """Write the table to this file: .md, .html, or .csv with every single number."""
    viewer: Path | None = None
    """Write a page to look at the pictures side by side to this .html file."""
    viewer_images: int = 8
    """Pictures in the viewer, spread evenly over the data set."""
    viewer_indices: tuple[int, ...] = ()
    """These pictures instead, by their positions in the data set."""
    dry_run: bool = False
    """Print the plan and stop."""


def evaluate_reconstruction(names: tuple[str, ...], options: ReconstructionOptions) -> None:
    """Autoencoders => one row each, every number with its standard error, and a table of all."""
    from flowlab.core.files import append_line
    from flowlab.evaluate import table
    from flowlab.evaluate.viewer import Chosen

    _check(options)
    networks = _networks(options)
    plans = [_plan(name, options) for name in names]
    indices = _viewer_indices(options, plans) if options.viewer else ()
    if options.dry_run:
        return
    rows, pictures = [], {name: Chosen(indices) for name in names}
    for name in names:
        row = _row(name, options, networks, pictures[name])
        rows.append(row)
        if options.out:
            append_line(options.out, _strict_json(row))
        print(f"{name}: PSNR {row['psnr']:.2f} dB", flush=True)
    if options.table:
        table.write(options.table, rows)
    if options.viewer:
        _write_viewer(options.viewer, pictures)
    print(f"\n{table.text(rows)}")


# ---- before the first expensive second ---------------------------------------------------------------------


def _check(options: ReconstructionOptions) -> None:
    """Refuse what could only fail after the work."""
    from flowlab.evaluate import table

    for name, value, least in (
        ("speed-repeats", options.speed_repeats, 0),
        ("speed-batch", options.speed_batch, 1),
        ("batch-size", options.batch_size, 1),
        ("viewer-images", options.viewer_images, 1),
        ("resolution", options.resolution, 1),
        ("num-images", options.num_images, 2),  # a standard error needs two
    ):
        if value is not None and value < least:
            raise ValueError(f"--{name} is {value}; give {least} or more")
    if options.lpips_heads and not options.vgg:
        raise ValueError(f"--lpips-heads {options.lpips_heads} needs the trunk; give --vgg too")
    if options.table:
        table.format_of(options.table)
    if options.out and not options.out.parent.is_dir():
        raise ValueError(f"no folder {options.out.parent} for --out {options.out}; make it first")


@dataclass(frozen=True)
class Networks:
    """What looks at the pictures; None leaves its columns empty."""

    judge: Judge | None
    teacher: Teacher | None
    vgg: VGG16 | None


def _networks(options: ReconstructionOptions) -> Networks:
    from flowlab.core.devices import default_device
    from flowlab.features import vgg
    from flowlab.features.embedded import load_judge, load_teacher

    device = default_device()
    trunk = options.vgg and vgg.load(options.vgg, options.lpips_heads, check_hash=options.check_hash)
    return Networks(
        judge=None if options.judge == "none" else load_judge(options.judge).to(device),
        teacher=None if options.teacher == "none" else load_teacher(options.teacher).to(device),
        vgg=trunk.to(device) if trunk else None,
    )


def _plan(name: str, options: ReconstructionOptions) -> tuple[int, int]:
    """Print what will be done with one autoencoder and let it go again => pixels per side, images.

    All are loaded once before the first is measured, so that a misspelt last name costs nothing.
    """
    model = _autoencoder(name, options)
    images = _images(model, options)
    print(f"{name} {model.identity} on {len(images):,} images of {images.identity}")
    return images.resolution, len(images)


def _viewer_indices(options: ReconstructionOptions, plans: Sequence[tuple[int, int]]) -> tuple[int, ...]:
    """Positions of the pictures of the page, which must mean the same image for every autoencoder."""
    from flowlab.evaluate.viewer import spread

    sides = sorted({side for side, _ in plans})
    if len(sides) > 1:
        raise ValueError(
            f"the viewer shows the same pixels of all, but they are {sides} wide; give --resolution"
        )
    num_images = plans[0][1]
    outside = [index for index in options.viewer_indices if not 0 <= index < num_images]
    if outside:
        raise ValueError(f"--viewer-indices names {outside[0]}; choose from 0 to {num_images - 1}")
    return tuple(dict.fromkeys(options.viewer_indices)) or spread(options.viewer_images, num_images)


# ---- one autoencoder ---------------------------------------------------------------------------------------


def _autoencoder(name: str, options: ReconstructionOptions) -> Autoencoder:
    """Loaded, or built with the weights of seed 0, on the default device."""
    import torch

    from flowlab import autoencoders
    from flowlab.autoencoders import sizes
    from flowlab.core.devices import default_device

    if not options.random_weights:
        return autoencoders.load(name).to(default_device())
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return sizes.build(name).eval().requires_grad_(False).to(default_device())


def _images(model: Autoencoder, options: ReconstructionOptions) -> Dataset:
    from flowlab.data import datasets

    return datasets.load(
        options.dataset,
        options.split,
        num_images=options.num_images,
        resolution=options.resolution or model.spec.resolution,
        resize=options.resize,
    )


def _row(name: str, options: ReconstructionOptions, networks: Networks, chosen: Chosen) -> dict[str, Any]:
    from flowlab.evaluate import reconstruction
    from flowlab.evaluate.latents import LatentStatistics

    model = _autoencoder(name, options)
    images = _images(model, options)
    row: dict[str, Any] = {"source": name, "weights": "random" if options.random_weights else "loaded"}
    row |= {"gate": _gate(model, images, options), "resolution": images.resolution, "resize": options.resize}
    latents = LatentStatistics()

    def see(trip: RoundTrip) -> None:
        chosen(trip)
        if options.latents:
            latents.update(model, trip.pixels, trip.mean, trip.latent, trip.decoded)

    row |= reconstruction.evaluate(
        model,
        images,
        judge=networks.judge,
        judge_name=options.judge,
        teacher=networks.teacher,
        teacher_name=options.teacher,
        dataset_name=options.dataset,
        split=options.split,
        vgg=networks.vgg,
        batch_size=options.batch_size,
        watch=[see],
    )
    if options.latents:
        row |= latents.row() | latents.curves()
    return row | _speed(model, images, options)


def _gate(model: Autoencoder, images: Dataset, options: ReconstructionOptions) -> str:
    """passed, warned, failed or off: a measurement goes on and says so. Random weights are not asked."""
    from flowlab.autoencoders import gate
    from flowlab.data.batch import in_order
    from flowlab.evaluate.reconstruction import default_batch_size

    batch_size = options.batch_size or default_batch_size(images.resolution)
    batches = (batch.pixels for batch in in_order(images, batch_size=batch_size))
    enabled = options.gate and not options.random_weights
    pictures = (pixels for pixels in batches if pixels is not None)
    return gate.check(model, pictures, enabled=enabled, stop=False).outcome


def _speed(model: Autoencoder, images: Dataset, options: ReconstructionOptions) -> dict[str, Any]:
    import torch

    from flowlab.core.devices import device_of
    from flowlab.core.pixels import to_float
    from flowlab.evaluate.speed import speed

    if not options.speed_repeats:
        return {}
    device = device_of(model)
    num = min(options.speed_batch or (32 if device.type == "cuda" else 4), len(images))
    pixels = images.read(torch.arange(num)).pixels
    assert pixels is not None, "speed needs pixels"
    return speed(model, to_float(pixels.to(device)), repeats=options.speed_repeats)


# ---- what is written ---------------------------------------------------------------------------------------


def _strict_json(row: dict[str, Any]) -> str:
    """One JSON object; a number that does not exist is null, as JSON knows no NaN."""
    missing = {name for name, value in row.items() if isinstance(value, float) and math.isnan(value)}
    return json.dumps({name: None if name in missing else value for name, value in row.items()})


def _write_viewer(path: Path, pictures: dict[str, Chosen]) -> None:
    from flowlab.evaluate import viewer

    first = next(iter(pictures.values()))
    outputs = {name: chosen.outputs for name, chosen in pictures.items()}
    viewer.write(path, first.indices, first.originals, outputs)
