"""The switchable terms of autoencoder training: every branch steps, resumes exactly, and names its faults."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tests.train.small import ALWAYS, HEADS, JOINT, PATCH, SHORT, config, equal, fresh, part, steps

from flowlab.autoencoders import load
from flowlab.autoencoders.equivariance import IDENTITY, Plan, Transform
from flowlab.core.pixels import to_float
from flowlab.data.embedded import digits
from flowlab.features import vgg
from flowlab.train.autoencoder import EquivarianceConfig
from flowlab.train.autoencoder_terms import _noisy, plan_of, run_pass
from flowlab.train.memory import recompute
from flowlab.train.run import recipe_of, start

# ---- nothing moved -----------------------------------------------------------------------------------------


def test_terms_that_are_off_leave_the_shipped_recipe_alone(tmp_path):
    """Two float32 steps of the recipe behind the shipped weights, measured before the terms existed."""
    _, records = steps(config(semantic_weight=0.1, precision="float32"), tmp_path, until=2)
    assert float(records[-1].scalars["loss/autoencoder"]) == pytest.approx(0.18681177, rel=2e-5)
    assert float(records[-1].scalars["kl"]) == pytest.approx(1526.4798, rel=2e-5)


# ---- every term steps and resumes --------------------------------------------------------------------------

TERMS = {
    "equivariance": ({"equivariance": ALWAYS}, set()),
    "smaller images": (
        {"equivariance": EquivarianceConfig(probability=1e-9, downscale_probability=1.0)},
        set(),
    ),
    "scale": ({"scale_weight": 0.25}, {"scale"}),
    "scale beside smaller images": (
        {
            "equivariance": EquivarianceConfig(probability=1e-9, downscale_probability=1.0),
            "scale_weight": 0.25,
            "end_to_end": JOINT,
            "semantic_weight": 0.1,
        },
        {"semantic"},
    ),
    "end to end": ({"end_to_end": JOINT}, {"alignment", "flow"}),
    "latent noise": ({"latent_noise": 0.8}, {"reconstruction"}),
    "PatchGAN": ({"adversary": PATCH}, {"adversarial", "logit real", "logit fake"}),
    "constant PatchGAN": ({"adversary": replace(PATCH, adaptive=False)}, {"adversarial"}),
    "feature GAN": ({"adversary": HEADS}, {"adversarial", "logit real"}),
    "feature GAN of RAE": ({"autoencoder": "rae", "adversary": HEADS, "latent_noise": 0.8}, {"adversarial"}),
    "PatchGAN on transformed images": ({"adversary": PATCH, "equivariance": ALWAYS}, {"adversarial"}),
}
EVERYTHING = {
    "adversary": replace(PATCH, discriminator_start=1, generator_start=3),
    "equivariance": EquivarianceConfig(probability=0.5),
    "scale_weight": 0.25,
    "end_to_end": JOINT,
    "semantic_weight": 0.1,
}


@pytest.mark.parametrize("name", TERMS)
def test_every_term_takes_finite_steps(tmp_path, name):
    changes, scalars = TERMS[name]
    _, records = steps(config(**changes), tmp_path, until=2)
    assert scalars <= set(records[0].scalars)
    assert all(value.isfinite() for record in records for value in record.scalars.values())


def test_all_terms_together_resume_to_the_bit(tmp_path):
    settings = config(**EVERYTHING)
    whole, _ = steps(settings, tmp_path / "whole")
    steps(settings, tmp_path / "parts", until=2)
    resumed, records = steps(settings, tmp_path / "parts")
    assert [record.step for record in records] == [3, 4]
    for key in whole.modules:
        once, twice = whole.modules[key].state_dict(), resumed.modules[key].state_dict()
        assert all(torch.equal(once[name], twice[name]) for name in once), key
    once, twice = (state.emas["autoencoder"].module.state_dict() for state in (whole, resumed))
    assert all(torch.equal(once[name], twice[name]) for name in once)


# ---- equivariance ------------------------------------------------------------------------------------------


def test_a_transformed_latent_is_compared_with_the_image_transformed_alike():
    state, batch, randomness = fresh(config())
    assert batch.pixels is not None
    pixels = to_float(batch.pixels)
    trip = run_pass(state, Plan(between=Transform(side=4, whole=8, turns=1)), pixels, randomness)
    assert trip.z.shape[2:] == (8, 8) and trip.output.shape == trip.target.shape == (8, 3, 16, 16)
    halved = pixels.unflatten(2, (16, 2)).unflatten(4, (16, 2)).mean((3, 5))  # bilinear at exactly 1/2
    torch.testing.assert_close(trip.target, torch.rot90(halved, 1, (2, 3)))


def test_the_plan_depends_on_seed_and_step_and_on_nothing_else():
    state, _, _ = fresh(config(equivariance=EquivarianceConfig(probability=0.5)))
    plans = []
    for state.step in range(400):
        plans.append(plan_of(state, seed=0))
        assert plan_of(state, seed=0) == plans[-1]
    share = sum(plan.between != IDENTITY for plan in plans) / 400
    smaller = sum(plan.before != IDENTITY for plan in plans) / 400
    assert share == pytest.approx(0.5, abs=0.08) and smaller == pytest.approx(0.125, abs=0.06)
    assert {plan.between.side for plan in plans if plan.between != IDENTITY} == {2, 4, 6}
    state.step = 0
    assert any(plan_of(state, seed) != plan_of(state, 0) for seed in range(1, 6))


# ---- latent noise ------------------------------------------------------------------------------------------


def test_no_channel_escapes_the_noise_by_growing():
    state, _, randomness = fresh(config())
    model, z = part(state, "autoencoder"), torch.randn(8, 8, 8, 8) + 1
    scale = torch.logspace(-1, 2, 8)[:, None, None]
    added = _noisy(model, z, 0.8, randomness) - z
    torch.testing.assert_close(_noisy(model, scale * z, 0.8, randomness), scale * (z + added))
    strength = added.std(dim=(1, 2, 3)) / z.std()  # of each image
    assert float(strength.max()) < 1.0 and float(strength.min()) >= 0 and float(strength.std()) > 0.05


def test_latent_noise_refuses_micro_batches(tmp_path):
    settings = config(latent_noise=0.5, loop=replace(SHORT, micro_batch_size=2))
    with pytest.raises(ValueError, match="latent_noise mixes the examples of a batch"):
        steps(settings, tmp_path)


# ---- starting weights --------------------------------------------------------------------------------------


def test_decoder_only_tuning_leaves_encoder_and_latent_alone(tmp_path):
    settings = config(initial="flux2", train_encoder=False, reconstruction_power=2, normalisation_images=16)
    state, _ = steps(settings, tmp_path)
    owned = {id(param) for param in state.optimisers["autoencoder"].params()}
    assert not owned & {id(param) for param in part(state, "autoencoder").encoder.parameters()}
    tuned, shipped = load(recipe_of(settings).export(state, tmp_path)), load("flux2")
    pixels = to_float(digits("heldout", num_images=4).read(torch.arange(4)).pixels)  # pyright: ignore
    with torch.no_grad():
        assert torch.equal(tuned.latents(pixels), shipped.latents(pixels))
    assert not equal(tuned.decoder, shipped.decoder)  # pyright: ignore


def test_training_goes_on_from_a_file(tmp_path):
    state, _, _ = fresh(config(initial="flux2"))
    assert equal(state.modules["autoencoder"], load("flux2"))
    with pytest.raises(ValueError, match="sd"):
        fresh(config(initial="sd"))


# ---- memory ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("flag", ["checkpointing", "channels_last"])
@pytest.mark.parametrize("autoencoder", ["flux2", "rae"])
def test_memory_flags_change_no_number(tmp_path, flag, autoencoder):
    base = config(autoencoder=autoencoder, precision="float32", loop=replace(SHORT, num_steps=2))
    _, plain = steps(base, tmp_path / "plain")
    state, saving = steps(replace(base, **{flag: True}), tmp_path / flag)
    for mine, theirs in zip(saving, plain, strict=True):
        for name, value in theirs.scalars.items():
            assert float(mine.scalars[name]) == pytest.approx(float(value), rel=1e-5), name
    assert recipe_of(base).export(state, tmp_path).is_file()


@pytest.mark.parametrize("autoencoder", ["flux2", "rae"])
def test_recomputing_keeps_fewer_activations(autoencoder):
    kept = {}
    for flag in (False, True):
        state, batch, randomness = fresh(config(autoencoder=autoencoder, checkpointing=flag))
        assert batch.pixels is not None
        sizes: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda x, sizes=sizes: sizes.append(x.numel()) or x, lambda x: x
        ):
            run_pass(state, Plan(), to_float(batch.pixels), randomness)
        kept[flag] = sum(sizes)
    assert kept[True] < 0.7 * kept[False], kept


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_training_in_nhwc_resumes_to_the_bit(tmp_path, precision):
    """Moments come back from the file in rows; the fused update must not pair them with NHWC weights."""
    settings = config(channels_last=True, precision=precision)
    whole, _ = steps(settings, tmp_path / "whole")
    steps(settings, tmp_path / "parts", until=2)
    resumed, _ = steps(settings, tmp_path / "parts")
    assert equal(whole.modules["autoencoder"], resumed.modules["autoencoder"])


def test_recomputing_wraps_every_block():
    assert recompute(load("flux2")) == 3 + 1 + 6 + 1, "encoder blocks and middle, decoder blocks and middle"
    assert recompute(load("rae")) == 4 + 4


# ---- perceptual --------------------------------------------------------------------------------------------


def test_lpips_takes_the_place_of_the_teachers_features(tmp_path, monkeypatch):
    monkeypatch.setattr(vgg, "load", lambda trunk, heads: vgg.random(width=4))
    lpips = {"perceptual": "lpips", "perceptual_weight": 1.0, "vgg_trunk": "a.pth", "vgg_heads": "b.pth"}
    _, records = steps(config(equivariance=ALWAYS, **lpips), tmp_path, until=2)
    assert all(value.isfinite() for record in records for value in record.scalars.values())
    _, other = steps(config(equivariance=ALWAYS), tmp_path / "embedded", until=1)
    assert float(records[0].scalars["perceptual"]) != float(other[0].scalars["perceptual"])


# ---- semantic ----------------------------------------------------------------------------------------------


def test_the_adaptive_semantic_weight_follows_the_reconstruction_alone():
    weights = []
    for kl_weight in (1e-6, 1.0):
        settings = config(
            semantic_weight=0.1, semantic_adaptive=True, kl_weight=kl_weight, precision="float32"
        )
        objective = next(iter(recipe_of(settings).objectives(*fresh(settings))))
        found = {name: float(value) for name, value in objective.scalars.items()}
        rest = found["reconstruction"] + 0.1 * found["perceptual"] + kl_weight * found["kl"]
        weights.append((objective.loss.item() - rest) / found["semantic"])
    assert weights[1] == pytest.approx(weights[0], rel=0.01)


# ---- accumulation ------------------------------------------------------------------------------------------


def test_micro_batches_of_transformed_images_are_one_big_batch(tmp_path):
    settings = config(equivariance=ALWAYS, scale_weight=0.25, precision="float32")
    _, whole = steps(settings, tmp_path / "whole", until=2)
    parts = replace(settings, loop=replace(SHORT, micro_batch_size=2))
    _, split = steps(parts, tmp_path / "parts", until=2)
    for name in ("reconstruction", "scale", "gradient_norm/autoencoder"):
        theirs = float(whole[-1].scalars[name])
        assert float(split[-1].scalars[name]) == pytest.approx(theirs, rel=1e-3), name


# ---- faults ------------------------------------------------------------------------------------------------

FAULTS = {
    "equivariance.probability is 1.5; give a share": {"equivariance": EquivarianceConfig(probability=1.5)},
    "scale_weight is 0.25; rae's encoder is frozen": {"autoencoder": "rae", "scale_weight": 0.25},
    "end_to_end.weight is 1.5; rae's encoder is frozen": {"autoencoder": "rae", "end_to_end": JOINT},
    "end_to_end.block is 9; tiny has blocks 1 to 3": {"end_to_end": replace(JOINT, block=9)},
    "end_to_end mixes the examples": {"end_to_end": JOINT, "loop": replace(SHORT, micro_batch_size=4)},
    "adversary mixes the examples": {"adversary": PATCH, "loop": replace(SHORT, micro_batch_size=4)},
    "unknown discriminator 'vit'; choose from: patch, features": {"adversary": replace(PATCH, kind="vit")},
    "generator_start is 2 and discriminator_start 3": {
        "adversary": replace(PATCH, discriminator_start=3, generator_start=2)
    },
    "adversary.kernel is 4; give an odd number": {"adversary": replace(HEADS, kernel=4)},
    r"adversary.blocks is \(7,\); the network has blocks 0 to 3": {"adversary": replace(HEADS, blocks=(7,))},
    "train_encoder is False and initial is empty": {"train_encoder": False},
    "semantic_weight is 0.1; flux2's encoder is frozen": {
        "train_encoder": False,
        "initial": "flux2",
        "semantic_weight": 0.1,
    },
    "reconstruction_power is 0; give 1": {"reconstruction_power": 0},
    "kl_weight is -1.0; give 0": {"kl_weight": -1.0},
    "adversary.weight is -0.5; give 0": {"adversary": replace(PATCH, weight=-0.5)},
    "loop.micro_batch_size is -2; 0 turns it off": {"loop": replace(SHORT, micro_batch_size=-2)},
    "loop.clip_norm is -1.0; 0 turns it off": {"loop": replace(SHORT, clip_norm=-1.0)},
    "teacher_input is 'plain'; rae encodes with its teacher": {
        "autoencoder": "rae",
        "teacher_input": "plain",
    },
    "perceptual is 'lpips' and a path is empty": {"perceptual": "lpips"},
    "unknown perceptual term 'vgg'; choose from: embedded, lpips": {"perceptual": "vgg"},
    "no VGG|no weights at nowhere.pth": {
        "perceptual": "lpips",
        "vgg_trunk": "nowhere.pth",
        "vgg_heads": "nowhere.pth",
    },
    "unknown teacher 'dino'; choose from: teacher": {"teacher": "dino"},
}


@pytest.mark.parametrize("message", FAULTS)
def test_faults_are_found_before_training(tmp_path, message):
    with pytest.raises(ValueError, match=message):
        start(config(**FAULTS[message]), tmp_path / "run")
    assert not (tmp_path / "run").exists()
