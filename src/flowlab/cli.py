"""The command line: the table of verbs. What a verb needs is imported when it runs, not before."""

from __future__ import annotations

import io
import sys

from flowlab import __version__
from flowlab.verbs import evaluate, reconstruction, scenes, study
from flowlab.verbs.console import Group, Verb, dispatch, guarded
from flowlab.verbs.doctor import DoctorOptions, doctor
from flowlab.verbs.encode import EncodeOptions, encode, shipped
from flowlab.verbs.generate import GenerateOptions, generate, sampling
from flowlab.verbs.train import TrainOptions, preset, presets, train

__all__ = ["VERBS", "main"]

ABOUT = "flowlab: which latent space should a generator be trained in, and with which noise schedule?"


def main() -> None:
    """The command `flowlab`."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)  # progress is seen through a pipe too
    if sys.argv[1:] == ["--version"]:
        print(__version__)
        return
    sys.exit(guarded(lambda: dispatch(VERBS, sys.argv[1:], ABOUT)))


VERBS: dict[str, Verb | Group] = {
    "doctor": Verb(
        run=doctor,
        options=DoctorOptions,
        summary="Print versions, devices, memory, and what is missing for which extra.",
        examples=("flowlab doctor",),
    ),
    "train": Verb(
        run=train,
        options=TrainOptions,
        summary="Train a preset: an autoencoder, a feature network or a generator; or resume it.",
        examples=(
            "flowlab train ae_flux2_digits",
            "flowlab train flow_flux2_digits --times.alpha 2.95 --optimiser.name muon --out runs/mine",
            "flowlab train flow_flux2_digits --loop.num-steps 2000 --loop.save-steps 500 1000 1500 --dry-run",
            "flowlab train flow_flux2_digits --autoencoder path/to/diffusers/folder --resolution 256 "
            "--dataset path/to/class/folders --split all --resize adm --num-images None",
        ),
        subject="PRESET",
        names=presets,
        config=preset,
        if_stopped="the same command resumes from the newest checkpoint in its folder",
    ),
    "encode": Verb(
        run=encode,
        options=EncodeOptions,
        summary="Encode a data set once: moments in safetensors shards that name their encoder.",
        examples=(
            "flowlab encode flux2 --num-images 16384",
            "flowlab encode rae --dataset path/to/class/folders --split all --flips --dry-run",
        ),
        subject="AUTOENCODER",
        names=shipped,
        if_stopped="the same command goes on after the last whole shard",
    ),
    "generate": Verb(
        run=generate,
        options=GenerateOptions,
        summary="Make images from prompts, or from classes of a model file; each PNG says how it was made.",
        examples=(
            'flowlab generate "a red star above a #3366CC ring"',
            'flowlab generate "make the star blue" --references star.png --seed 3 --num-images 4',
            "flowlab generate --prompts prompts.jsonl --model path/to/flux2 --dry-run",
            "flowlab generate --from samples/00000.png",
            "flowlab generate runs/flow_flux2_digits/model.safetensors --num-images 64 --shift 2.95",
            "flowlab generate model.safetensors --classes 3 8 --guidance 2 --sampler heun --out eights",
        ),
        subject="PROMPT",
        several=True,
        optional=True,
        if_stopped="of prompts, images that were done were kept, and the same command with --out FOLDER makes"
        " the rest; of classes, none was written",
    ),
    "evaluate": Group(
        "Measure: what an autoencoder loses, how far images are from real ones, or from their prompts.",
        {
            "reconstruction": Verb(
                run=reconstruction.evaluate_reconstruction,
                options=reconstruction.ReconstructionOptions,
                summary="What autoencoders lose, what their latents are like, how fast they are.",
                examples=(
                    "flowlab evaluate reconstruction flux2",
                    "flowlab evaluate reconstruction sd flux1 flux2 --table table.md --viewer page.html",
                    "flowlab evaluate reconstruction path/to/autoencoder.safetensors --dataset photos",
                    "flowlab evaluate reconstruction flux2_f8c32 --random-weights --resolution 256 "
                    "--dataset photos --num-images 3",
                ),
                subject="AUTOENCODER",
                several=True,
                names=shipped,
                if_stopped="rows in --out were kept, tables and pages were not written",
            ),
            "generation": Verb(
                run=evaluate.evaluate_generation,
                options=evaluate.GenerationOptions,
                summary="FID and KID of a model file at one or several sampling shifts with shared noise.",
                examples=(
                    "flowlab evaluate generation runs/mine/model.safetensors --shifts 1 1.78 2.95",
                    "flowlab evaluate generation model.safetensors --num-samples 4000 --out rows.jsonl",
                ),
                subject="MODEL",
                config=sampling,
                if_stopped="rows that were printed were kept",
            ),
            "scenes": Verb(
                run=scenes.evaluate_scenes,
                options=scenes.ScenesOptions,
                summary="What a model's images of held-out scenes show of what their prompts ask for.",
                examples=(
                    "flowlab evaluate scenes",
                    "flowlab evaluate scenes runs/mine/model.safetensors --num-prompts 100 --kinds text hex",
                ),
                subject="MODEL",
                optional=True,
                if_stopped="images of the kinds that were done were kept, tables were not written",
            ),
        },
    ),
    "study": Group(
        "Compare latent spaces and noise schedules: a grid of runs, their rows, the report.",
        study.VERBS,
    ),
}


if __name__ == "__main__":
    main()
