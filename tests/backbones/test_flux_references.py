"""Reference images: ids, batches of unequal references, and the KV cache, against a plain version."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.backbones.plain_flux import golden, ids, plain, random_model
from torch import Tensor

from flowlab.backbones import save_diffusers
from flowlab.backbones.condition import Condition
from flowlab.backbones.flux1 import Flux1Spec
from flowlab.backbones.flux2 import Flux2, Flux2Spec
from flowlab.backbones.reference_tokens import image_ids, reference_tokens, text_ids
from flowlab.generate.flux_sampling import sample

TINY: dict[str, Any] = {
    "channels": 8,
    "width": 64,
    "heads": 2,
    "double_blocks": 2,
    "single_blocks": 2,
    "text_width": 24,
    "axes": (8, 8, 8, 8),
    "guidance": False,
}
SIZES = [[(3, 5)], [], [(2, 2), (4, 3), (1, 6)], [(5, 3)], [(2, 2), (3, 3)]]
"""Of the references of five samples."""


def model_of(variant: str, guidance: bool = False) -> Flux2:
    model = random_model(Flux2Spec(**{**TINY, "guidance": guidance}, variant=variant))
    assert isinstance(model, Flux2)
    return model


def inputs(batch: int = len(SIZES)) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    latent = torch.randn(batch, 8, 4, 3, generator=generator)
    return latent, torch.rand(batch, generator=generator), torch.randn(batch, 5, 24, generator=generator)


def references_of(sizes: list[list[tuple[int, int]]]) -> list[list[Tensor]]:
    generator = torch.Generator().manual_seed(2)
    return [[torch.randn(8, *size, generator=generator) for size in own] for own in sizes]


# ---- ids ---------------------------------------------------------------------------------------------------


def test_ids_are_the_published_ones() -> None:
    _, vectors, _ = golden("flux2")
    assert torch.equal(text_ids(7, 4), vectors["ids.text"][0])
    assert torch.equal(image_ids(6, 5, 4), vectors["ids.image"][0])
    given = reference_tokens(
        [[vectors["in.ref0"], vectors["in.ref1"]]] * 2, batch=2, channels=8, num_axes=4, spacing=10
    )
    assert given is not None
    assert torch.equal(given.ids, vectors["ids.refs"][0])
    _, vectors, _ = golden("flux1")
    assert torch.equal(text_ids(7, 3), vectors["ids.text"][0].long())
    assert torch.equal(image_ids(6, 5, 3), vectors["ids.image"][0].long())


def test_tokens_are_row_major_and_padding_is_told() -> None:
    references = references_of([[(2, 3)], [(1, 2), (2, 1)]])
    given = reference_tokens(references, batch=2, channels=8, num_axes=4, spacing=10)
    assert given is not None
    assert given.mask is not None
    assert given.mask.tolist() == [[True] * 6, [True] * 4 + [False] * 2]
    assert torch.equal(given.tokens[0, 4], references[0][0][:, 1, 1])
    assert torch.equal(given.ids[1, :4], torch.cat([ids(1, 2, 4, 10), ids(2, 1, 4, 20)]))


@pytest.mark.parametrize(("sizes", "shared"), [([[(2, 3), (1, 1)]] * 3, True), ([[(2, 3)], [(3, 2)]], False)])
def test_equal_lengths_need_no_mask(sizes: list, shared: bool) -> None:
    given = reference_tokens(references_of(sizes), batch=len(sizes), channels=8, num_axes=4, spacing=10)
    assert given is not None
    assert given.mask is None
    assert given.ids.ndim == (2 if shared else 3)


def test_a_sample_without_references_may_say_none() -> None:
    [own] = references_of([[(2, 3)]])
    ours, theirs = (
        reference_tokens([nothing, own], batch=2, channels=8, num_axes=4, spacing=10)
        for nothing in (None, [])
    )
    assert ours is not None and theirs is not None and torch.equal(ours.tokens, theirs.tokens)


def test_a_cache_of_a_guided_model_needs_the_scale() -> None:
    with pytest.raises(ValueError, match="embeds the guidance scale; give guidance"):
        model_of("kv", guidance=True).reference_cache(references_of([[(2, 3)]]))


@pytest.mark.parametrize("bad", [{"t": 0.5}, {"guidance": 4.0}, {"guidance": torch.tensor(4.0)}])
def test_bare_numbers_are_refused_in_one_line(bad: dict) -> None:
    latent, t, text = inputs(2)
    given = {"t": t, "guidance": torch.tensor([4.0, 4.0]), **bad}
    with pytest.raises(ValueError, match="give a tensor of one"):
        model_of("dense", guidance=True).velocity(latent, text=text, **given)


def test_no_references_are_none() -> None:
    for nothing in (None, [[], []]):
        assert reference_tokens(nothing, batch=2, channels=8, num_axes=4, spacing=10) is None


# ---- references of the whole batch -------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("variant", ["dense", "kv"])
@pytest.mark.parametrize("sizes", [[(3, 5)], [(2, 2), (4, 3)], [(1, 1), (2, 5), (3, 3)]])
def test_equals_the_plain_definition(variant: str, sizes: list) -> None:
    model = model_of(variant)
    latent, t, text = inputs(2)
    [own] = references_of([sizes])
    velocity = model.velocity(latent, t, text, references=[own, own])
    expected = plain(model, latent, t, text, references=own)
    torch.testing.assert_close(velocity, expected, rtol=0, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("variant", ["dense", "kv"])
@pytest.mark.parametrize("batch", [SIZES, [[(3, 5)], [(5, 3)]], [[], [(2, 2)]]])
def test_a_ragged_batch_equals_its_samples(variant: str, batch: list) -> None:
    model = model_of(variant)
    latent, t, text = inputs(len(batch))
    references = references_of(batch)
    together = model.velocity(latent, t, text, references=references)
    for i, own in enumerate(references):
        alone = model.velocity(latent[i : i + 1], t[i : i + 1], text[i : i + 1], references=[own])
        torch.testing.assert_close(together[i : i + 1], alone, rtol=0, atol=1e-5)


@torch.no_grad()
def test_references_are_told_apart_by_their_order() -> None:
    model = model_of("dense")
    latent, t, text = inputs(1)
    [own] = references_of([[(2, 2), (2, 2)]])
    given = model.velocity(latent, t, text, references=[own])
    assert (given - model.velocity(latent, t, text, references=[own[::-1]])).abs().max() > 1e-3
    assert (given - model.velocity(latent, t, text)).abs().max() > 1e-3


@torch.no_grad()
@pytest.mark.parametrize("sizes", [[], [(2, 2), (4, 3)]])
@pytest.mark.parametrize("variant", ["dense", "kv", "flux1"])
def test_a_window_stands_at_its_place_in_the_picture(variant: str, sizes: list) -> None:
    """Each sample has the ids of its own place; the plain version is told them."""
    if variant == "flux1":
        spec = {name: value for name, value in TINY.items() if name != "axes"}
        model: Any = random_model(Flux1Spec(**spec, axes=(8, 12, 12), in_channels=8, pooled_width=6))
        more = {"pooled": torch.ones(2, 6)}
    else:
        model, more = model_of(variant), {}
    latent, t, text = inputs(2)
    references = references_of([sizes] * 2) if sizes else None
    places = torch.tensor([[0, 0], [3, 1]])
    given: dict[str, Any] = {"text": text, "references": references, **more}
    got = model(latent, t, Condition(**given, origin=places)).velocity
    assert torch.equal(got, model.velocity(latent, t, **given, origin=places))
    for i, origin in enumerate(places.tolist()):
        one = slice(i, i + 1)
        own = {name: value[one] for name, value in more.items()}
        shown = references[i] if references else ()
        expected = plain(model, latent[one], t[one], text[one], references=shown, origin=origin, **own)
        torch.testing.assert_close(got[one], expected, rtol=0, atol=1e-5)
    whole = model(latent, t, Condition(**given)).velocity
    torch.testing.assert_close(got[0], whole[0], rtol=0, atol=1e-6)
    assert (got[1] - whole[1]).abs().max() > 1e-3


@torch.no_grad()
def test_sampling_of_windows_equals_single_calls() -> None:
    model = model_of("dense")
    latent, t, text = inputs(2)
    condition = Condition(text=text, origin=torch.tensor([[0, 0], [3, 1]]))
    times = torch.tensor([1.0, 0.4, 0.0])
    expected = latent
    for now, then in itertools.pairwise(times):
        velocity = model(expected, now.expand(2), condition).velocity
        expected = expected + (then - now) * velocity
    torch.testing.assert_close(sample(model, condition, None, latent, times), expected, rtol=0, atol=1e-5)


def test_gradients_of_a_ragged_batch_are_finite() -> None:
    for variant in ("dense", "kv"):
        model = model_of(variant)
        loss = model.velocity(*inputs(), references=references_of(SIZES)).square().mean()
        gradients = torch.autograd.grad(loss, list(model.parameters()))
        assert all(gradient.isfinite().all() for gradient in gradients)


# ---- the cache ---------------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("batch", [[[(3, 5), (2, 2)]] * 5, SIZES])
def test_cached_equals_fresh_at_any_time(batch: list) -> None:
    model = model_of("kv")
    latent, _, text = inputs(len(batch))
    references = references_of(batch)
    cache = model.reference_cache(references)
    for t in (1.0, 0.73, 0.2, 0.0):
        time = torch.full((len(batch),), t)
        fresh = model.velocity(latent, time, text, references=references)
        cached = model.velocity(latent, time, text, reference_cache=cache)
        torch.testing.assert_close(cached, fresh, rtol=0, atol=1e-6)


@torch.no_grad()
@pytest.mark.parametrize("guided", [False, True])
def test_cache_and_first_call_equal_those_of_diffusers(tmp_path: Path, guided: bool) -> None:
    from diffusers.models.transformers import transformer_flux2 as published

    model = model_of("kv", guided)
    scale = torch.tensor([4.0, 2.5]) if guided else None
    save_diffusers(model, tmp_path / "kv")
    theirs: Any = published.Flux2Transformer2DModel.from_pretrained(tmp_path / "kv")
    for blocks, processor in (
        (theirs.transformer_blocks, published.Flux2KVAttnProcessor),
        (theirs.single_transformer_blocks, published.Flux2KVParallelSelfAttnProcessor),
    ):
        for block in blocks:
            block.attn.set_processor(processor())
    latent, t, text = inputs(2)
    [own] = references_of([[(2, 3), (4, 2)]])
    given = reference_tokens([own] * 2, batch=2, channels=8, num_axes=4, spacing=10)
    assert given is not None
    rest = {"encoder_hidden_states": text, "txt_ids": text_ids(5, 4), "guidance": scale, "return_dict": False}
    tokens, places = latent.flatten(2).mT, image_ids(4, 3, 4)
    first, cache = theirs(
        torch.cat([given.tokens, tokens], dim=1),
        img_ids=torch.cat([given.ids, places]),
        timestep=t,
        kv_cache_mode="extract",
        num_ref_tokens=14,
        **rest,
    )
    ours = model.velocity(latent, t, text, references=[own] * 2, guidance=scale)
    torch.testing.assert_close(ours.flatten(2).mT, first, rtol=0, atol=1e-5)
    (later,) = theirs(tokens, img_ids=places, timestep=t / 2, kv_cache_mode="cached", kv_cache=cache, **rest)
    cache = model.reference_cache([own] * 2, scale)
    ours = model.velocity(latent, t / 2, text, reference_cache=cache, guidance=scale)
    torch.testing.assert_close(ours.flatten(2).mT, later, rtol=0, atol=1e-5)


@torch.no_grad()
def test_a_cache_holds_keys_and_values_alone() -> None:
    cache = model_of("kv").reference_cache(references_of([[(3, 5), (2, 2)]] * 2))
    for k, v in (*cache.double, *cache.single):
        for kept in (k, v):
            assert kept.shape == (2, 2, 19, 32)
            assert kept.untyped_storage().nbytes() == 4 * kept.numel()


@torch.no_grad()
def test_the_variants_differ_with_references_alone() -> None:
    dense, kv = model_of("dense"), model_of("kv")
    latent, t, text = inputs()
    references = references_of(SIZES)
    with_references = [model.velocity(latent, t, text, references=references) for model in (dense, kv)]
    moved = (with_references[0] - with_references[1]).abs().amax(dim=(1, 2, 3))
    assert moved[1] == pytest.approx(0, abs=1e-5)  # the sample without any
    assert all(moved[i] > 1e-3 for i in (0, 2, 3, 4))
    assert torch.equal(dense.velocity(latent, t, text), kv.velocity(latent, t, text))


def test_a_cache_must_fit() -> None:
    dense, kv = model_of("dense"), model_of("kv")
    latent, t, text = inputs(2)
    references = references_of([[(2, 2)], [(2, 2)]])
    cache = kv.reference_cache(references)
    with pytest.raises(ValueError, match='variant="kv"'):
        dense.reference_cache(references)
    with pytest.raises(ValueError, match='variant="kv"'):
        dense.velocity(latent, t, text, reference_cache=cache)
    with pytest.raises(ValueError, match="give one of the two"):
        kv.velocity(latent, t, text, references=references, reference_cache=cache)
    with pytest.raises(ValueError, match="no sample has a reference"):
        kv.reference_cache([[], []])
    with pytest.raises(ValueError, match="cache holds 2 samples, the batch 1"):
        kv.velocity(latent[:1], t[:1], text[:1], reference_cache=cache)
