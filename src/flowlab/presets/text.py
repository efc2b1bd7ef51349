"""Text to image and editing: the embedded FLUX.2 on `scenes`, and one of real size on a folder of captions.

The embedded model climbs a ladder, each rung from the weights of the one before: lone objects in windows,
then whole scenes, then edits of one picture, then edits with a second picture. All rungs share their caches.
"""

from __future__ import annotations

from dataclasses import replace

from flowlab.train.flow import TimesConfig
from flowlab.train.loop import LoopConfig
from flowlab.train.optim import OptimiserConfig
from flowlab.train.text_data import BucketsConfig
from flowlab.train.text_flow import TextFlowConfig
from flowlab.train.text_scenes import ScenesConfig

__all__ = [
    "flux2_klein_4b_folder",
    "flux2_scenes",
    "flux2_scenes_edit",
    "flux2_scenes_lone",
    "flux2_scenes_text",
]

LONE, TEXT, EDIT = (f"runs/flux2_scenes_{name}/model.safetensors" for name in ("lone", "text", "edit"))
ALL = ScenesConfig(
    text=32_000, json=8_000, dense=40_000, one_reference=16_000, two_references=12_000, lone=12_000
)
NOTHING = {"text": 0, "json": 0, "one_reference": 0, "two_references": 0}


def flux2_scenes_lone(debug: bool = False) -> TextFlowConfig:
    """Rung 0: the words of one object and its shape, in windows. `flowlab train flux2_scenes_lone`.

    Encoding 48,000 scenes comes first, 4 minutes on one core of Zen 4; the steps took 32 minutes on two with
    `--compile-blocks`. In the pilot a shape's word mattered after 550 steps (docs/log.md).
    """
    config = _scenes(num_steps=9000, batch_size=48, learning_rate=2e-3, alpha=2.0)
    return _rung(replace(config, scenes=ScenesConfig(**NOTHING, lone=48_000)), debug)


def flux2_scenes_text(debug: bool = False) -> TextFlowConfig:
    """Rung 1: words, hex codes and JSON to pictures. `flowlab train flux2_scenes_text`, after rung 0.

    Two fifths of the captions leave nothing out, meant to teach what stands where. 150 steps a minute on
    two cores of Zen 4 with `--compile-blocks`. What ships took as many steps, the first 6,000 of them without
    those captions and with more windows (results/flux2_scenes).
    """
    config = replace(_scenes(num_steps=11_000), init=LONE)
    return _rung(replace(config, scenes=replace(ALL, one_reference=0, two_references=0)), debug)


def flux2_scenes_edit(debug: bool = False) -> TextFlowConfig:
    """Rung 2: and edits of one picture. `flowlab train flux2_scenes_edit`, after rung 1.

    A third of what is drawn are edits, almost half of the tokens. The rate falls to zero. It ends what ships:
    two hours on two cores of Zen 4 with `--compile-blocks`, tests beside it, and once more for 10,000 steps
    (results/flux2_scenes).
    """
    config = replace(_scenes(num_steps=15_000, schedule="linear"), init=TEXT)
    return _rung(replace(config, scenes=replace(ALL, two_references=0, times_edits=3)), debug)


def flux2_scenes(debug: bool = False) -> TextFlowConfig:
    """Rung 3: and edits with two pictures. `flowlab train flux2_scenes`, after rung 2.

    The rate falls to zero. Not run yet: neither its number nor its time is measured.
    """
    config = replace(_scenes(num_steps=12_000, schedule="linear"), init=EDIT)
    return _rung(replace(config, scenes=replace(ALL, times_edits=2)), debug)


def flux2_klein_4b_folder(debug: bool = False) -> TextFlowConfig:
    """FLUX.2 klein 4B from scratch on data/captions at 1 megapixel. `flowlab train flux2_klein_4b_folder`.

    The folder holds pictures with captions, or edit pairs (data/captioned.py). Weights, gradients, AdamW and
    EMA in float32 take 78 GB, activations of one picture come on top: one GPU of 141 GB, or more. Rate,
    batch and length are ours, as none are published; not run to its end by us. Debug form: a tiny
    model on `scenes`.
    """
    config = TextFlowConfig(
        autoencoder="black-forest-labs/FLUX.2-klein-4B/vae",
        text="Qwen/Qwen3-4B",
        dataset="data/captions",
        buckets=BucketsConfig(max_pixels=1024 * 1024, step=64, max_aspect=2.0),
        backbone="flux2_klein_4b",
        times=TimesConfig(distribution="ln", alpha=3.16),  # FLUX.1's shift at 4096 tokens, e^1.15
        ema_decay=0.9999,
        precision="bfloat16",
        optimiser=OptimiserConfig(learning_rate=1e-4, weight_decay=0.01, warmup_images=256_000),
        loop=LoopConfig(batch_size=256, micro_batch_size=1, num_steps=200_000, save_every=2500, keep=2),
    )
    if not debug:
        return config
    loop = replace(config.loop, micro_batch_size=4)
    return _rung(replace(config, text="embedded", dataset="scenes", loop=loop), debug)


# ---- shared settings ---------------------------------------------------------------------------------------


def _scenes(
    num_steps: int,
    schedule: str = "constant",
    batch_size: int = 32,
    learning_rate: float = 1.5e-3,
    alpha: float = 3.0,
) -> TextFlowConfig:
    """What all rungs share. In pilots AdamW beat Muon and channel weights none; a second moment over 100
    steps was ahead of one over 1,000 (docs/log.md). bfloat16 takes two thirds of float32's time on one core
    of Zen 4.
    """
    return TextFlowConfig(
        autoencoder="flux2_scenes",
        times=TimesConfig(distribution="ln", alpha=alpha),
        channel_power=0.5,
        precision="bfloat16",
        optimiser=OptimiserConfig(
            learning_rate=learning_rate, betas=(0.9, 0.99), schedule=schedule, warmup_images=3200
        ),
        loop=LoopConfig(batch_size=batch_size, num_steps=num_steps, save_every=500, keep=2),
    )


def _rung(config: TextFlowConfig, debug: bool) -> TextFlowConfig:
    """The rehearsal: a tiny model from fresh weights, on scenes of 32 pixels in the latent of `digits`."""
    if not debug:
        return config
    return replace(
        config,
        autoencoder="flux2",
        backbone="flux2_tiny",
        init=None,
        scenes=config.scenes.at_most(8),
        loop=replace(config.loop, batch_size=8, num_steps=2),
        gate=False,
    )
