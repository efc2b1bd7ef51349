"""FLUX.2 of a small and a medium size against diffusers' own class with the same weights, in one run.

Command:  OMP_NUM_THREADS=2 python benchmarks/transformer.py                 (small and medium, half an hour)
          python benchmarks/transformer.py --sizes small --repeats 5         (two minutes)
          python benchmarks/transformer.py --device cuda --dtype bfloat16 --compile
          python benchmarks/transformer.py --quick                           (narrow, seconds)
Expected: on a CPU at least 1.1 of diffusers' speed at sampling, and with a backward no less than its own. One
thread of Zen 4, small, float32: 1.04 plain, 1.20 packed, 1.02 with backward, 1.26 over 50 steps; bfloat16:
1.09, 1.16, 1.10, 1.19. Outputs agree to 1e-5 in float32; in bfloat16 diffusers also rounds the time.

Both sides run by turns, so that other work on the machine meets both; a ratio is their time over ours of the
same turn, given as median (lower quartile to upper). Times are of the processor on a CPU, of the clock on a
GPU. Memory is what a call adds to the weights at its peak. "packed" is `layers.packed.pack_linears`, which
our sampling on a CPU uses too. Needs the extra `zoo`.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from flowlab.backbones import FLUX_SIZES, save_diffusers
from flowlab.backbones.flux2 import Flux2, Flux2Spec
from flowlab.backbones.reference_tokens import image_ids, text_ids
from flowlab.core.devices import default_device, machine
from flowlab.evaluate.speed import peak_memory
from flowlab.flow.samplers import euler
from flowlab.flow.schedules import sampling_grid
from flowlab.layers.packed import pack_linears

SIDE, NUM_TEXT = 16, 64
"""256 image tokens (256 px) and 64 of text."""
KINDS = {
    "linear layers": ("mm", "addmm", "bmm_linear", "_linear_pointwise", "linear"),
    "attention": ("_scaled_dot_product", "_softmax", "bmm"),
    "norms, gates, RoPE": ("rms_norm", "layer_norm", "mul", "addcmul", "add", "pow", "mean", "rsqrt", "silu"),
    "copies": ("cat", "copy_", "clone", "fill_", "_to_copy", "stack"),
}


def main() -> None:
    """Measure each size and print the tables."""
    options = parsed()
    device = torch.device(options.device or default_device())
    versions = f"torch {torch.__version__}, {torch.get_num_threads()} threads, {machine(device)}"
    print(f"batch {options.batch}, {options.dtype}, {options.repeats} repeats; {versions}")
    print(f"{'size':<8}{'step':<18}{'ours s':>9}{'theirs s':>10}  {'ratio':<22}", end="")
    print(f"{'ours GB':>9}{'theirs GB':>10}{'max difference':>16}")
    for size in ["narrow"] if options.quick else options.sizes:
        pair = Pair(spec_of(size), device, getattr(torch, options.dtype), compiled=options.compile)
        steps = pair.steps(options.batch, 4 if options.quick else 50)
        for step in steps:
            repeats = max(2, options.repeats // 5) if "sampling" in step.name else options.repeats
            print(line(size, step, measured(step, device, repeats)), flush=True)
        if device.type == "cpu":
            breakdown(steps[0])
        del pair, steps
        for num_references in (1, 2, 3, 4):
            print(cache_line(spec_of(size), num_references, device, getattr(torch, options.dtype), options))


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="a narrow model, to see that it runs")
    parser.add_argument("--device", help="cpu or cuda; by default a GPU where there is one")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--sizes", nargs="+", default=["small", "medium"], choices=("small", "medium"))
    parser.add_argument("--batch", type=int, default=1, help="images per call")
    parser.add_argument("--compile", action="store_true", help="torch.compile on both sides")
    parser.add_argument(
        "--repeats", type=int, default=11, help="timed calls of each side; a fifth as many 50-step runs"
    )
    return parser.parse_args()


def spec_of(size: str) -> Flux2Spec:
    """Of FLUX_SIZES, or "narrow"."""
    if size == "narrow":
        return replace(spec_of("small"), width=128, heads=2, axes=(16, 16, 16, 16))
    spec = FLUX_SIZES[f"flux2_{size}"]
    assert isinstance(spec, Flux2Spec), size
    return spec


# ---- the two sides -----------------------------------------------------------------------------------------


class Step(NamedTuple):
    """The same work on both sides."""

    name: str
    ours: Callable[[], Tensor]
    theirs: Callable[[], Tensor]


class Pair:
    """One set of random weights in both classes."""

    def __init__(self, spec: Flux2Spec, device: torch.device, dtype: torch.dtype, *, compiled: bool):
        ours = awake(spec)
        with tempfile.TemporaryDirectory() as folder:
            save_diffusers(ours, folder)
            theirs = their_class(Path(folder), dtype).to(device)
        self.spec, self.device, self.dtype, self.compiled = spec, device, dtype, compiled
        self.ours, self.theirs = ours.to(device, dtype), theirs
        self.packed = None
        if device.type == "cpu":
            self.packed = packed(copy.deepcopy(self.ours))

    def steps(self, batch: int, num_steps: int) -> list[Step]:
        """A forward, with its backward, and a sampling run."""
        spec, place = self.spec, {"device": self.device, "dtype": self.dtype}
        torch.manual_seed(1)
        latent = torch.randn(batch, spec.channels, SIDE, SIDE).to(**place)
        text = torch.randn(batch, NUM_TEXT, spec.text_width).to(**place)
        t = torch.rand(batch).to(self.device)
        times = sampling_grid(num_steps, 2.0).to(self.device, torch.float32)
        ours = torch.compile(self.ours.velocity) if self.compiled else self.ours.velocity
        theirs = self.their_velocity(text)
        once = Step("forward", no_grad(lambda: ours(latent, t, text)), no_grad(lambda: theirs(latent, t)))
        steps = [once]
        if self.packed is not None:
            quick = self.packed
            steps.append(
                once._replace(name="forward, packed", ours=no_grad(lambda: quick.velocity(latent, t, text)))
            )
        both = Step(
            "forward+backward",
            with_backward(self.ours, lambda: ours(latent, t, text)),
            with_backward(self.theirs, lambda: theirs(latent, t)),
        )
        sampler = self.packed or self.ours
        run = Step(
            f"{num_steps}-step sampling",
            no_grad(lambda: our_sampling(sampler, latent, text, times, compiled=self.compiled)),
            no_grad(lambda: euler(theirs, latent, times)),
        )
        return [*steps, both, run]

    def their_velocity(self, text: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
        """Their model as (latent, t) -> velocity; ids and text stay."""
        model = torch.compile(self.theirs) if self.compiled else self.theirs
        img_ids = image_ids(SIDE, SIDE, 4, device=self.device)[None]
        txt_ids = text_ids(NUM_TEXT, 4, self.device)[None]

        def velocity(latent: Tensor, t: Tensor) -> Tensor:
            out = model(
                hidden_states=latent.flatten(2).mT,
                encoder_hidden_states=text,
                timestep=t,
                img_ids=img_ids,
                txt_ids=txt_ids,
                return_dict=False,
            )[0]
            return out.mT.unflatten(-1, (SIDE, SIDE))

        return velocity


def awake(spec: Flux2Spec) -> Flux2:
    """Random weights in place of the zeros of a fresh model."""
    torch.manual_seed(0)
    model = Flux2(spec)
    for parameter in model.parameters():
        if parameter.ndim == 2:
            nn.init.normal_(parameter, std=parameter.shape[1] ** -0.5)
    return model.eval()


def packed(model: Flux2) -> Flux2:
    """With its blocks packed, in place."""
    pack_linears(model.double_blocks)
    pack_linears(model.single_blocks)
    return model


def their_class(folder: Path, dtype: torch.dtype) -> Any:
    """diffusers' model in the folder."""
    from diffusers.models.transformers.transformer_flux2 import Flux2Transformer2DModel

    return Flux2Transformer2DModel.from_pretrained(folder, torch_dtype=dtype).eval()


def our_sampling(model: Flux2, noise: Tensor, text: Tensor, times: Tensor, *, compiled: bool) -> Tensor:
    """As the pipeline does it: text and modulations once, then Euler's steps."""
    prepared = model.prepare((SIDE, SIDE), text, times=times)
    denoise = torch.compile(model.denoise) if compiled else model.denoise
    return euler(lambda x, t: denoise(x, t, prepared).velocity, noise, times)


def no_grad(call: Callable[[], Tensor]) -> Callable[[], Tensor]:
    """The call without a graph."""

    def quiet() -> Tensor:
        with torch.no_grad():
            return call()

    return quiet


def with_backward(model: nn.Module, call: Callable[[], Tensor]) -> Callable[[], Tensor]:
    """The call and the gradients of its mean square; returns the velocity."""

    def both() -> Tensor:
        model.zero_grad(set_to_none=True)
        velocity = call()
        velocity.float().square().mean().backward()
        return velocity.detach()

    return both


# ---- measuring ---------------------------------------------------------------------------------------------


class Measured(NamedTuple):
    """Median seconds of both sides, the ratio's quartiles, bytes at the peak, agreement."""

    seconds: tuple[float, float]
    ratio: tuple[float, float, float]
    memory: tuple[float, float]
    difference: float


def measured(step: Step, device: torch.device, repeats: int) -> Measured:
    """Both sides by turns, each first as often as the other."""
    calls = (step.ours, step.theirs)
    a, b = (call() for call in calls)  # warms up
    difference = float((a.float() - b.float()).abs().max())
    del a, b
    seconds = by_turns(calls, device, repeats)
    ratios = [theirs / ours for ours, theirs in zip(*seconds, strict=True)]
    memory = tuple(peak_memory(call, device) for call in calls)
    medians = tuple(statistics.median(own) for own in seconds)
    return Measured((medians[0], medians[1]), quartiles(ratios), (memory[0], memory[1]), difference)


def by_turns(
    calls: tuple[Callable[[], Any], Callable[[], Any]], device: torch.device, repeats: int
) -> tuple[list[float], list[float]]:
    """Seconds of each call of each side."""
    seconds: tuple[list[float], list[float]] = ([], [])
    for turn in range(repeats):
        for side in ((0, 1), (1, 0))[turn % 2]:
            seconds[side].append(timed(calls[side], device))
    return seconds


def timed(call: Callable[[], Any], device: torch.device) -> float:
    """Processor seconds of one call, all threads together; on a GPU, which is waited for, wall seconds."""
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    clock = time.perf_counter if device.type == "cuda" else time.process_time
    wait()
    start = clock()
    call()
    wait()
    return clock() - start


def quartiles(values: list[float]) -> tuple[float, float, float]:
    """Lower, median, upper."""
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, middle, high


def line(size: str, step: Step, found: Measured) -> str:
    """A row of the table."""
    speed = f"{size:<8}{step.name:<18}{found.seconds[0]:>9.4f}{found.seconds[1]:>10.4f}"
    memory = f"{found.memory[0] / 1e9:>9.3f}{found.memory[1] / 1e9:>10.3f}"
    return f"{speed}  {spread(found.ratio):<22}{memory}{found.difference:>16.1e}"


def spread(ratio: tuple[float, float, float]) -> str:
    """Median (lower to upper quartile)."""
    return f"{ratio[1]:.2f} ({ratio[0]:.2f} to {ratio[2]:.2f})"


# ---- where time goes, and the cache ------------------------------------------------------------------------


def breakdown(step: Step) -> None:
    """Shares of the processor's time by kind of operation, of both sides."""
    for name, call in (("ours", step.ours), ("theirs", step.theirs)):
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
            for _ in range(3):
                call()
        spent = dict.fromkeys([*KINDS, "the rest"], 0.0)
        for event in profile.key_averages():
            spent[kind_of(event.key)] += event.self_cpu_time_total
        total = sum(spent.values())
        shares = ", ".join(f"{kind} {100 * of / total:.0f} %" for kind, of in spent.items())
        print(f"  {name} ({step.name}, {total / 3e6:.3f} s under the profiler): {shares}")


def kind_of(operation: str) -> str:
    """The key of KINDS whose list names the operation."""
    name = operation.removeprefix("aten::").removeprefix("mkldnn::")
    for kind, names in KINDS.items():
        if name in names or (kind == "attention" and name.startswith(names)):
            return kind
    return "the rest"


def cache_line(
    spec: Flux2Spec,
    num_references: int,
    device: torch.device,
    dtype: torch.dtype,
    options: argparse.Namespace,
) -> str:
    """A step with cached references against one with references in the sequence, 64 tokens each."""
    dense = awake(spec).to(device, dtype)
    cached = awake(replace(spec, variant="kv")).to(device, dtype)
    generator = torch.Generator().manual_seed(3)
    images = [torch.randn(spec.channels, 8, 8, generator=generator) for _ in range(num_references + 1)]
    target, *references = [image.to(device, dtype) for image in images]
    text = torch.randn(1, NUM_TEXT, spec.text_width, generator=generator).to(device, dtype)
    latent, t = target[None], torch.tensor([0.5], device=device)
    with torch.no_grad():
        in_sequence = dense.prepare((8, 8), text, references=[references])
        cache = cached.reference_cache([references])
        beside = cached.prepare((8, 8), text, reference_cache=cache)
        calls = (lambda: cached.denoise(latent, t, beside), lambda: dense.denoise(latent, t, in_sequence))
        for call in calls:
            call()
        seconds = by_turns(calls, device, options.repeats)
        making = statistics.median(
            timed(lambda: cached.reference_cache([references]), device) for _ in range(options.repeats)
        )
    ratio = quartiles([full / step for step, full in zip(*seconds, strict=True)])
    step, full = (statistics.median(own) for own in seconds)
    four = 4 * full / (making + 4 * step)
    return (
        f"  cache, {num_references} of 64 tokens: a step {step:.4f} s, not {full:.4f}: {spread(ratio)};"
        f" making it {making:.4f} s, so 4 steps gain {four:.2f}"
    )


if __name__ == "__main__":
    main()
