"""The convolutional autoencoder at full size against diffusers' own class with the same weights, in one run.

Command:  OMP_NUM_THREADS=2 python benchmarks/autoencoder.py              (256 and 512 px, about 10 minutes)
          python benchmarks/autoencoder.py --sizes 256 --families flux2   (a minute)
          python benchmarks/autoencoder.py --device cuda --dtype bfloat16 --batch 8
          python benchmarks/autoencoder.py --quick                        (narrow and small, seconds)
Expected: at least 1.0 of diffusers' speed on a CPU, 1.2 on a GPU, never more memory; outputs agree to 2e-5.

Both sides run by turns, so that other work on the machine meets both; a ratio is their median time over ours.
Memory is what a call adds to the weights at its peak. Needs the extra `zoo`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from flowlab.autoencoders.formats import to_folder
from flowlab.autoencoders.kl import KLAutoencoder, KLSpec
from flowlab.autoencoders.sizes import PUBLISHED
from flowlab.core.devices import default_device, machine
from flowlab.evaluate.speed import peak_memory

FAMILIES = {"sd": "sd_f8c4", "flux1": "flux1_f8c16", "flux2": "flux2_f8c32"}
COLUMNS = f"{'model':<8}{'px':>5} {'step':<7}{'ours/s':>9}{'theirs/s':>9}{'ratio':>7}{'CPU':>6}"
MEMORY = f"{'ours GB':>9}{'theirs GB':>10}{'max difference':>16}"


def main() -> None:
    """Measure each family at each size and print the table."""
    options = parsed()
    device = torch.device(options.device or default_device())
    sizes = [64] if options.quick else options.sizes
    versions = f"torch {torch.__version__}, {torch.get_num_threads()} threads, {machine(device)}"
    print(f"batch {options.batch}, {options.dtype}, {options.repeats} repeats; {versions}")
    print(COLUMNS + MEMORY)
    for family in options.families:
        pair = Pair(family, device, getattr(torch, options.dtype), narrow=options.quick)
        for size in sizes:
            for step in pair.steps(size, options.batch):
                print(
                    line(family, size, step, measured(step, device, options.repeats), options.batch),
                    flush=True,
                )


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="a narrow model at 64 px, to see that it runs")
    parser.add_argument("--device", help="cpu or cuda; by default a GPU where there is one")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16", "float16"))
    parser.add_argument("--families", nargs="+", default=["flux1", "flux2"], choices=FAMILIES)
    parser.add_argument("--sizes", nargs="+", type=int, default=[256, 512], help="pixels per side")
    parser.add_argument("--batch", type=int, default=1, help="images per call")
    parser.add_argument(
        "--repeats", type=int, default=3, help="timed calls of each side, after one to warm up"
    )
    return parser.parse_args()


class Step(NamedTuple):
    """The same work on both sides."""

    name: str
    ours: Callable[[], Tensor]
    theirs: Callable[[], Tensor]


class Pair:
    """One set of random weights in both classes."""

    def __init__(self, family: str, device: torch.device, dtype: torch.dtype, *, narrow: bool):
        spec = PUBLISHED[FAMILIES[family]]
        assert isinstance(spec, KLSpec), family
        spec = replace(spec, channels=32) if narrow else spec
        torch.manual_seed(0)
        self.ours = KLAutoencoder(spec, family).eval().requires_grad_(False)
        with tempfile.TemporaryDirectory() as folder:
            to_folder(self.ours, Path(folder) / family)
            self.theirs = their_class(Path(folder) / family, dtype).to(device)
        self.ours.to(device, dtype)
        self.channels, self.device, self.dtype = spec.latent_channels, device, dtype

    def steps(self, size: int, batch: int) -> list[Step]:
        """Encoding pixels to moments, and decoding a raw latent."""
        ours, theirs = self.ours, self.theirs
        pixels = torch.rand(batch, 3, size, size).mul(2).sub(1).to(self.device, self.dtype)
        z = torch.randn(batch, self.channels, size // 8, size // 8).to(self.device, self.dtype)
        return [
            Step("encode", lambda: ours.encode(pixels).mean, lambda: theirs.encode(pixels).latent_dist.mean),
            Step("decode", lambda: ours.decode_raw(z), lambda: theirs.decode(z).sample),
        ]


def their_class(folder: Path, dtype: torch.dtype) -> Any:
    """diffusers' class that the folder's config.json names, with its weights."""
    import diffusers

    kind = getattr(diffusers, json.loads((folder / "config.json").read_text())["_class_name"])
    model = kind.from_pretrained(folder, torch_dtype=dtype, low_cpu_mem_usage=False)
    return model.eval().requires_grad_(False)


class Measured(NamedTuple):
    """Medians of both sides: seconds, seconds of the processor, bytes at the peak; and their agreement."""

    wall: tuple[float, float]
    processor: tuple[float, float]
    memory: tuple[float, float]
    difference: float


@torch.no_grad()
def measured(step: Step, device: torch.device, repeats: int) -> Measured:
    """Both sides by turns, each first as often as the other."""
    calls = (step.ours, step.theirs)
    a, b = (call() for call in calls)  # warms up
    difference = float((a.float() - b.float()).abs().max())
    del a, b
    wall: tuple[list[float], list[float]] = ([], [])
    processor: tuple[list[float], list[float]] = ([], [])
    for turn in range(repeats):
        for side in ((0, 1), (1, 0))[turn % 2]:
            seconds = timed(calls[side], device)
            wall[side].append(seconds[0])
            processor[side].append(seconds[1])
    memory = [peak_memory(call, device) for call in calls]
    medians = [(statistics.median(of[0]), statistics.median(of[1])) for of in (wall, processor)]
    return Measured(medians[0], medians[1], (memory[0], memory[1]), difference)


def timed(call: Callable[[], Tensor], device: torch.device) -> tuple[float, float]:
    """Wall and processor seconds of one call; a GPU is waited for."""
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    wait()
    wall, processor = time.perf_counter(), time.process_time()
    call()
    wait()
    return time.perf_counter() - wall, time.process_time() - processor


def line(family: str, size: int, step: Step, found: Measured, batch: int) -> str:
    """A row of the table."""
    ours, theirs = (batch / seconds for seconds in found.wall)
    ratios = found.wall[1] / found.wall[0], found.processor[1] / found.processor[0]
    speed = f"{family:<8}{size:>5} {step.name:<7}{ours:>9.3f}{theirs:>9.3f}{ratios[0]:>7.2f}{ratios[1]:>6.2f}"
    return f"{speed}{found.memory[0] / 1e9:>9.2f}{found.memory[1] / 1e9:>10.2f}{found.difference:>16.1e}"


if __name__ == "__main__":
    main()
