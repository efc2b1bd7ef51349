"""The discriminator beside the autoencoder: when each learns, from what, and how hard it pulls."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tests.train.small import ALWAYS, HEADS, PATCH, config, equal, fresh, part, steps

from flowlab.autoencoders.equivariance import Plan
from flowlab.core.pixels import to_float
from flowlab.data.embedded import digits
from flowlab.train.adversary import Adversary
from flowlab.train.autoencoder_terms import run_pass
from flowlab.train.run import recipe_of


def test_discriminator_and_generator_start_when_they_are_told(tmp_path):
    adversary = replace(PATCH, discriminator_start=1, generator_start=3)
    state, records = steps(config(adversary=adversary), tmp_path)
    assert ["loss/discriminator" in record.scalars for record in records] == [False, True, True, True]
    assert ["adversarial" in record.scalars for record in records] == [False, False, False, True]
    first = recipe_of(config()).setup(config(adversary=adversary), digits("train", num_images=32))
    assert not equal(first.modules["discriminator"], state.modules["discriminator"])


def test_a_discriminator_before_its_start_does_not_move_anything(tmp_path):
    late = replace(PATCH, discriminator_start=9, generator_start=9)
    steps(config(adversary=late), tmp_path / "late", until=2)
    state, _ = steps(config(adversary=late), tmp_path / "late")  # resumed: its optimiser has never stepped
    plain, _ = steps(config(), tmp_path / "plain")
    assert equal(state.modules["autoencoder"], plain.modules["autoencoder"])
    assert not state.optimisers["discriminator"].optimiser.state


def test_each_side_steps_on_its_own_loss_only():
    state, batch, randomness = fresh(config(adversary=PATCH, precision="float32"))
    autoencoder = part(state, "autoencoder").decoder.conv_out.weight
    objectives = {}
    for objective in recipe_of(config()).objectives(state, batch, randomness):
        found = torch.autograd.grad(objective.loss, autoencoder, allow_unused=True)[0]
        objectives[objective.optimiser] = found
    assert list(objectives) == ["autoencoder", "discriminator"], "generator first"
    assert objectives["discriminator"] is None and float(objectives["autoencoder"].abs().max()) > 0
    mine = {id(param) for param in state.optimisers["autoencoder"].params()}
    assert not mine & {id(param) for param in state.optimisers["discriminator"].params()}


def test_generator_and_discriminator_see_one_draw_of_the_transform():
    state, batch, randomness = fresh(config(adversary=PATCH, equivariance=ALWAYS))
    seen = []
    state.modules["discriminator"].register_forward_pre_hook(lambda _, images: seen.append(images[0].shape))
    list(recipe_of(config()).objectives(state, batch, randomness))
    assert len(seen) == 3 and len(set(seen)) == 1, "generated, real and fake"
    assert seen[0][2] in (8, 16, 24)


def test_the_adaptive_term_pulls_as_hard_as_reconstruction_and_perceptual():
    state, batch, randomness = fresh(config(adversary=replace(PATCH, weight=1.0), precision="float32"))
    assert batch.pixels is not None
    trip = run_pass(state, Plan(), to_float(batch.pixels), randomness)
    adversary = Adversary(
        config=state.fixed.config.adversary,
        state=state,
        critic=None,
        precision="float32",
        randomness=randomness,
    )
    main = (trip.output - trip.target).abs().flatten(1).mean(1)
    weighted, _ = adversary.weighted_term(main, trip.output)
    parameter = part(state, "autoencoder").decoder.conv_out.weight
    norms = [
        float(torch.autograd.grad(loss, parameter, retain_graph=True)[0].norm())  # pyright: ignore
        for loss in (main.mean(), weighted)
    ]
    assert norms[1] == pytest.approx(norms[0], rel=0.05)


@pytest.mark.parametrize("kind", ["patch", "features"])
def test_the_limit_of_the_adaptive_weight_is_the_published_one(kind):
    """LDM clamps a ratio of losses summed over 3 x 32 x 32 values at 1e4, RAE one of means."""
    adversary = replace(HEADS if kind == "features" else PATCH, weight=1.0)
    state, batch, randomness = fresh(config(adversary=adversary, precision="float32"))
    assert batch.pixels is not None
    trip = run_pass(state, Plan(), to_float(batch.pixels), randomness)
    view = Adversary(
        config=adversary,
        state=state,
        critic=state.fixed.critic,
        precision="float32",
        randomness=randomness,
    )
    main = 1e9 * (trip.output - trip.target).abs().flatten(1).mean(1)
    weighted, bare = view.weighted_term(main, trip.output)
    limit = 1e4 / 3072 if kind == "patch" else 1e4
    assert float((weighted / bare).detach()) == pytest.approx(limit, rel=1e-5)
