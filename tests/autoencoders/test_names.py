"""The rename tables: complete, one to one, and those of the real classes of diffusers."""

from __future__ import annotations

import pytest
import torch

from flowlab.autoencoders import diffusers_config
from flowlab.autoencoders.kl import KLAutoencoder, KLSpec
from flowlab.autoencoders.names import COUNTER, NAMINGS, attention_weights, names, table
from flowlab.autoencoders.sizes import PUBLISHED

KL = {name: spec for name, spec in PUBLISHED.items() if isinstance(spec, KLSpec)}


def model_of(spec: KLSpec) -> KLAutoencoder:
    with torch.device("meta"):
        return KLAutoencoder(spec)


@pytest.mark.parametrize("name", KL)
def test_ours_are_the_names_of_the_model(name):
    own = set(model_of(KL[name]).state_dict()) - {"normalise.scale", "normalise.shift"}
    listed = names(KL[name], "ours")
    assert set(listed) == own and len(listed) == len(own)


@pytest.mark.parametrize("naming", NAMINGS)
@pytest.mark.parametrize("name", KL)
def test_tables_are_one_to_one_and_undo_each_other(name, naming):
    there, back = table(KL[name], "ours", naming), table(KL[name], naming, "ours")
    assert len(back) == len(there) and {back[theirs]: theirs for theirs in back} == there


@pytest.mark.parametrize("name", [name for name in KL if name != "vavae_f16c32"])
def test_diffusers_names_and_shapes_are_those_of_its_class(name):
    import diffusers

    model = model_of(KL[name])
    model.normalise.to_empty(device="cpu")  # its values are settings there
    config = diffusers_config.written(model)
    with torch.device("meta"):
        theirs = getattr(diffusers, config["_class_name"]).from_config(config).state_dict()
    own, flat = model.state_dict(), attention_weights(KL[name], "diffusers")
    renamed = table(KL[name], "diffusers", "ours")
    shapes = {n: own[ours].shape[:2] if n in flat else own[ours].shape for n, ours in renamed.items()}
    assert shapes == {n: tensor.shape for n, tensor in theirs.items() if n != COUNTER}


def test_official_names_where_the_families_differ():
    sd, flux2 = KL["sd_f8c4"], KL["flux2_f8c32"]
    assert table(sd, "official_ldm", "ours")["quant_conv.weight"] == "encoder.quant_conv.weight"
    assert table(flux2, "official", "ours")["decoder.post_quant_conv.bias"] == "decoder.post_quant_conv.bias"
    assert table(flux2, "official", "diffusers")["bn.running_var"] == "bn.running_var"
    assert table(sd, "official_ldm", "diffusers_2022")["encoder.mid.attn_1.proj_out.weight"] == (
        "encoder.mid_block.attentions.0.proj_attn.weight"
    )
    reversed_order = table(sd, "official_ldm", "diffusers")["decoder.up.3.block.0.conv1.weight"]
    assert reversed_order == "decoder.up_blocks.0.resnets.0.conv1.weight"


def test_an_unknown_naming_lists_the_known():
    with pytest.raises(
        ValueError, match="unknown naming .* 'comfy'; choose from: ours, official, official_ldm"
    ):
        table(KL["sd_f8c4"], "ours", "comfy")
