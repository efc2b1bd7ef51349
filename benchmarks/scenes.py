"""Scenes: how fast they are drawn, and how well the shipped reader reads them through an autoencoder.

Command:  OMP_NUM_THREADS=1 python benchmarks/scenes.py speed          (10 s)
          OMP_NUM_THREADS=2 python benchmarks/scenes.py reader         (2 min; --num-images 1024)
Expected: at least 2,000 images/s at 32 px; errors of at most 5 % for every attribute under every corruption
          but for 11 % of colours beyond Delta E 5 under `tiles` at full strength, which really move 5 % of
          them; through the autoencoder 5 % of shapes and of textures and 15 % of colours, with noise of 0.2
          on the latent 18 % of colours and no more of the others.

`reader` adds to the rates stored with the weights what those never saw: held-out scenes through the shipped
autoencoder, and through it with noise on the latent, as a generator leaves it.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
from torch import Tensor

from flowlab import autoencoders
from flowlab.autoencoders.base import Autoencoder
from flowlab.core.pixels import to_float, to_uint8
from flowlab.core.seeds import Streams
from flowlab.data.scenes import edits, prompts, render, scenes
from flowlab.data.scenes_sample import draw_table
from flowlab.features import scene_reader
from flowlab.train.scene_reader import errors

LATENT_NOISE = (0.0, 0.1, 0.2)
"""Standard deviations on the final latent, whose own is 1."""


def main() -> None:
    """Run one part and print its table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("part", choices=("speed", "reader"))
    parser.add_argument("--num-images", type=int, default=1024, help="held-out scenes for the reader")
    options = parser.parse_args()
    speed() if options.part == "speed" else reader(options.num_images)


def speed() -> None:
    """Images a second: drawing scenes at random, and everything to pixels."""
    rows = torch.arange(1024)
    table = draw_table(rows, split="train")
    steps: dict[str, Callable[[], object]] = {"draw at random": lambda: draw_table(rows, split="train")}
    for resolution in (32, 64, 128):
        steps[f"render {resolution} px"] = lambda r=resolution: render(table, r)
        steps[f"draw and render {resolution} px"] = lambda r=resolution: render(
            draw_table(rows, split="train"), r
        )
    steps["prompts"] = lambda: prompts(table.scenes(), rows)
    steps["edits"] = lambda: edits(rows[:256], split="train")
    print(f"{torch.get_num_threads()} threads; the best of 5, by the clock and by the processor's time")
    for name, step in steps.items():
        num = 256 if name == "edits" else len(rows)
        clock, processor = (
            num / min(times) for times in zip(*(_seconds(step) for _ in range(5)), strict=True)
        )
        print(f"{name:24s} {clock:8.0f} /s {processor:8.0f} /s")


def reader(num_images: int) -> None:
    """Shares of errors by corruption; the autoencoder's are measured here."""
    model, network = autoencoders.load("flux2_scenes"), scene_reader.load()
    rates = dict(network.error_rates)
    for deviation in LATENT_NOISE:
        rates[f"autoencoder +{deviation}"] = errors(
            network, scenes("heldout", num_images=num_images), _through(model, deviation)
        )
    names = list(rates["none"])
    print(f"{'':20s}" + "".join(f"{name:>12s}" for name in names))
    for spoil, row in rates.items():
        print(f"{spoil:20s}" + "".join(f"{row[name]:12.2%}" for name in names))


def _through(model: Autoencoder, deviation: float) -> Callable[[Tensor, Streams], Tensor]:
    @torch.no_grad()
    def spoil(images: Tensor, streams: Streams) -> Tensor:
        latent = model.latents(to_float(images))
        return to_uint8(model.decode(latent + deviation * streams.normal(*latent.shape[1:])))

    return spoil


def _seconds(step: Callable[[], object]) -> tuple[float, float]:
    """By the clock, and of the processor: what a quiet machine would take on one thread."""
    start, processor = time.perf_counter(), time.process_time()
    step()
    return time.perf_counter() - start, time.process_time() - processor


if __name__ == "__main__":
    main()
