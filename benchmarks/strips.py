"""A large image through FLUX.2's autoencoder in strips: seconds and the process' peak memory.

Command:  OMP_NUM_THREADS=2 python benchmarks/strips.py decode        (2048 px: many minutes on two cores)
          python benchmarks/strips.py encode --size 1024 --check      (and the difference from the whole)
          python benchmarks/strips.py decode --quick                  (an eighth as wide, 512 px)
Expected: at most 8 GB at 2048 x 2048 in float32; at most 1e-4 from the whole.

One step a process, as the peak of a process cannot be taken back.
"""

from __future__ import annotations

import argparse
import resource
import time
from dataclasses import replace

import torch
from torch import Tensor

from flowlab.autoencoders.base import Autoencoder
from flowlab.autoencoders.kl import KLAutoencoder, KLSpec
from flowlab.autoencoders.sizes import PUBLISHED
from flowlab.autoencoders.strips import ROWS, InStrips


def main() -> None:
    """Run one step once and print what it took."""
    options = parsed()
    spec = PUBLISHED["flux2_f8c32"]
    assert isinstance(spec, KLSpec)
    size, channels = (512, 32) if options.quick else (options.size, options.channels)
    torch.manual_seed(0)
    model = KLAutoencoder(replace(spec, channels=channels)).eval().requires_grad_(False)
    image = torch.rand(1, 3, size, size) * 2 - 1
    latent = torch.randn(1, model.spec.channels, size // model.spec.stride, size // model.spec.stride)

    @torch.no_grad()
    def run(autoencoder: Autoencoder) -> Tensor:
        return autoencoder.encode(image).mean if options.step == "encode" else autoencoder.decode(latent)

    before, start, processor = peak_gb(), time.perf_counter(), time.process_time()
    found = run(InStrips(model, options.rows))
    took = f"{time.perf_counter() - start:.0f} s ({time.process_time() - processor:.0f} s of the processor)"
    print(f"{options.step} {size} px, {channels} channels, strips of {options.rows} rows: {took}")
    print(f"peak {peak_gb():.2f} GB, {before:.2f} GB of it before", flush=True)
    if options.check or options.quick:
        print(f"max difference from the whole: {float((found - run(model)).abs().max()):.1e}")
        print(f"peak {peak_gb():.2f} GB with the whole")


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("step", choices=("encode", "decode"))
    parser.add_argument("--size", type=int, default=2048, help="pixels per side")
    parser.add_argument("--rows", type=int, default=ROWS, help="height of a strip")
    parser.add_argument("--channels", type=int, default=128, help="width at full resolution")
    parser.add_argument("--check", action="store_true", help="run the whole too, with its memory")
    parser.add_argument("--quick", action="store_true", help="a narrow model at 512 px, checked")
    return parser.parse_args()


def peak_gb() -> float:
    """The most memory that this process ever held, in 1e9 bytes (Linux counts in KiB)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


if __name__ == "__main__":
    main()
