"""End-to-end alignment: what reaches the encoder, what must not, and what is left behind."""

from __future__ import annotations

import torch
from tests.train.small import JOINT, config, fresh, part, steps

from flowlab.autoencoders import load
from flowlab.train.run import recipe_of


def test_the_alignment_loss_reaches_the_encoder_and_the_flow_loss_never_does():
    state, batch, randomness = fresh(config(end_to_end=JOINT, precision="float32"))
    encoder = part(state, "autoencoder").encoder.conv_out.weight
    flow = part(state, "flow").patch_in.weight
    gradients = {}
    for objective in recipe_of(config()).objectives(state, batch, randomness):
        params = [encoder, flow]
        found = torch.autograd.grad(objective.loss.mean(), params, allow_unused=True)
        gradients[objective.optimiser] = found
    plain = fresh(config(precision="float32"))
    lone = next(iter(recipe_of(config()).objectives(*plain))).loss.mean()
    without = torch.autograd.grad(lone, part(plain[0], "autoencoder").encoder.conv_out.weight)[0]
    assert not torch.allclose(gradients["autoencoder"][0], without)
    assert gradients["flow"][0] is None and float(gradients["flow"][1].abs().max()) > 0
    owned = {id(param) for param in state.optimisers["autoencoder"].params()}
    assert id(flow) not in owned


def test_the_flow_model_sees_unit_latents_and_its_statistics_follow(tmp_path):
    state, batch, randomness = fresh(config(end_to_end=JOINT, precision="float32"))
    norm = part(state, "flow_norm")
    before = norm.running_mean.clone()
    seen: list[torch.Tensor] = []
    norm.register_forward_hook(lambda module, given, made: seen.append(made.detach()))
    for objective in recipe_of(config()).objectives(state, batch, randomness):
        if objective.optimiser == "autoencoder":
            assert torch.equal(norm.running_mean, before), "the encoder's pass moves no statistics"
    assert not torch.equal(norm.running_mean, before)
    for latent in seen:  # the encoder's by the running statistics, the flow model's by its batch's own
        assert float(latent.mean().abs()) < 0.2 and 0.8 < float(latent.std()) < 1.2
    assert len(seen) == 2


def test_the_scaffold_is_dropped_on_export(tmp_path):
    state, _ = steps(config(end_to_end=JOINT), tmp_path, until=1)
    model = load(recipe_of(config()).export(state, tmp_path))
    assert not any("flow" in name for name in model.state_dict())


def test_images_without_labels_train_end_to_end(tmp_path):
    _, records = steps(config(end_to_end=JOINT, dataset="photos"), tmp_path, until=1)
    assert "alignment" in records[0].scalars
