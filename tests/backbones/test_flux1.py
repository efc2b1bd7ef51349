"""FLUX.1 against the published code's vectors, a plain version, and wrong orders that load silently."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tests.backbones.plain_flux import golden_model, plain, random_model
from tests.backbones.test_flux2 import divisor_127, half_split, patched, swapped
from torch import Tensor, nn

from flowlab.backbones import Condition, flux, flux_blocks
from flowlab.backbones.flux1 import Flux1, Flux1Spec
from flowlab.layers import embeddings

TINY: dict[str, Any] = {
    "channels": 8,
    "in_channels": 8,
    "width": 64,
    "heads": 2,
    "double_blocks": 1,
    "single_blocks": 2,
    "text_width": 24,
    "pooled_width": 12,
    "axes": (8, 12, 12),
    "guidance": True,
}


def inputs(batch: int = 2) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(1)
    return {
        "latent": torch.randn(batch, 8, 4, 3, generator=generator),
        "t": torch.rand(batch, generator=generator),
        "text": torch.randn(batch, 5, 24, generator=generator),
        "pooled": torch.randn(batch, 12, generator=generator),
        "guidance": torch.full((batch,), 3.5),
    }


# ---- parity ------------------------------------------------------------------------------------------------


@torch.no_grad()
def answer(model: nn.Module, vectors: dict[str, Tensor]) -> Tensor:
    """Tokens (B, N, C) for the golden inputs."""
    assert isinstance(model, Flux1)
    velocity = model.velocity(
        vectors["in.tokens"].mT.reshape(2, 8, 6, 5),
        vectors["in.t"],
        vectors["in.text"],
        pooled=vectors["in.pooled"],
        guidance=vectors["in.guidance"],
    )
    return velocity.flatten(2).mT


def test_equals_the_published_code() -> None:
    model, vectors = golden_model("flux1")
    torch.testing.assert_close(answer(model, vectors), vectors["out.velocity"], rtol=0, atol=1e-5)


def counted(right: Callable, length: int, num_axes: int, device: Any) -> Tensor:
    """Text ids that count on the first axis, in the manner of FLUX.2."""
    ids = right(length, num_axes, device)
    ids[:, 0] = torch.arange(length)
    return ids


WRONG: dict[str, Callable] = {
    "final layer: scale weight before shift": swapped("final_layer.modulation.lin.weight", 2, 0, 1),
    "final layer: scale bias before shift": swapped("final_layer.modulation.lin.bias", 2, 0, 1),
    "image modulation: scale before shift": swapped("double_blocks.0.img_mod.lin.weight", 6, 0, 1),
    "text modulation: MLP before attention": swapped("double_blocks.0.txt_mod.lin.weight", 2, 0, 1),
    "single modulation: gate first": swapped("single_blocks.1.modulation.lin.weight", 3, 0, 2),
    "image qkv: k first": swapped("double_blocks.0.img_attn.qkv.weight", 3, 0, 1),
    "image qkv: bias of k first": swapped("double_blocks.0.img_attn.qkv.bias", 3, 0, 1),
    "linear1: k first": swapped("single_blocks.0.linear1.weight", 7, 0, 1),
    "linear1: MLP before v": swapped("single_blocks.0.linear1.weight", 7, 2, 3),
    "sinusoid: sine first": patched(embeddings, "sinusoid", lambda f, *a: f(*a).roll(128, -1)),
    "sinusoid: divisor 127": patched(embeddings, "sinusoid", divisor_127),
    "time not times 1000": patched(embeddings, "sinusoid", lambda f, t, n: f(t / 1000, n)),
    "RoPE: half-split planes": patched(flux_blocks, "turn", half_split),
    "RoPE: theta 2000": patched(flux, "rope_planes", lambda f, ids, axes, theta: f(ids, axes, 2000.0)),
    "RoPE: axes h, w, t": patched(flux, "rope_planes", lambda f, ids, *a: f(ids[..., [1, 2, 0]], *a)),
    "text counted": patched(flux, "text_ids", counted),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_order_moves_the_output(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, vectors = golden_model("flux1")
    WRONG[name](model, monkeypatch)
    assert (answer(model, vectors) - vectors["out.velocity"]).abs().max() > 1e-3, name


# ---- the contract ------------------------------------------------------------------------------------------


def test_equals_the_plain_definition_and_its_gradients() -> None:
    model = random_model(Flux1Spec(**TINY))
    velocity = model.velocity(**inputs())
    torch.testing.assert_close(velocity, plain(model, **inputs()), rtol=0, atol=2e-5)
    gradients = torch.autograd.grad(velocity.square().mean(), list(model.parameters()))
    assert all(gradient.isfinite().all() for gradient in gradients)


def test_schnell_has_no_guidance() -> None:
    model = random_model(Flux1Spec(**{**TINY, "guidance": False}))
    given = inputs()
    with pytest.raises(ValueError, match="no guidance embedding"):
        model.velocity(**given)
    del given["guidance"]
    torch.testing.assert_close(model.velocity(**given), plain(model, **given), rtol=0, atol=2e-5)


def test_kontext_puts_its_reference_at_t_1() -> None:
    model = random_model(Flux1Spec(**TINY))
    reference = torch.randn(8, 3, 5)
    velocity = model.velocity(**inputs(), references=[[reference]] * 2)
    expected = plain(model, **inputs(), references=[reference])
    torch.testing.assert_close(velocity, expected, rtol=0, atol=2e-5)
    elsewhere = random_model(Flux1Spec(**{**TINY, "reference_t": 10}))
    assert (elsewhere.velocity(**inputs(), references=[[reference]] * 2) - velocity).abs().max() > 1e-3


def test_fill_lays_channels_beside_the_latent() -> None:
    model = random_model(Flux1Spec(**{**TINY, "in_channels": 24}))
    beside = torch.randn(2, 16, 4, 3)
    velocity = model.velocity(**inputs(), concat=beside)
    assert velocity.shape == (2, 8, 4, 3)
    torch.testing.assert_close(velocity, plain(model, **inputs(), concat=beside), rtol=0, atol=2e-5)
    with pytest.raises(ValueError, match="16 channels beside the latent"):
        model.velocity(**inputs())
    with pytest.raises(ValueError, match=r"this model takes \(2, 16, 4, 3\)"):
        model.velocity(**inputs(), concat=beside[:, :8])
    with pytest.raises(ValueError, match="no reference tokens"):
        model.velocity(**inputs(), concat=beside, references=[[torch.randn(8, 2, 2)]] * 2)


def test_a_fresh_model_answers_zero() -> None:
    given = inputs()
    latent, t = given.pop("latent"), given.pop("t")
    assert (Flux1(Flux1Spec(**TINY))(latent, t, Condition(**given)).velocity == 0).all()


@torch.no_grad()
def test_prepared_times_equal_single_calls() -> None:
    model = random_model(Flux1Spec(**TINY))
    given = inputs()
    latent, t = given.pop("latent"), torch.tensor([0.5, 1.0])
    del given["t"]
    prepared = model.prepare((4, 3), **given, times=torch.tensor([1.0, 0.5]))
    expected = model.velocity(latent, t, **given)
    torch.testing.assert_close(model.denoise(latent, t, prepared).velocity, expected, rtol=0, atol=1e-5)


def test_pooled_text_is_needed() -> None:
    given = inputs()
    model = random_model(Flux1Spec(**TINY))
    with pytest.raises(ValueError, match="pooled text is None"):
        model.velocity(**{**given, "pooled": None})
    with pytest.raises(ValueError, match=r"FLUX.1 needs \(2, 12\)"):
        model.velocity(**{**given, "pooled": torch.zeros(2, 768)})


def test_a_fourth_axis_is_refused() -> None:
    """It would count text tokens, as in FLUX.2."""
    with pytest.raises(ValueError, match="must be 3 even numbers"):
        Flux1(Flux1Spec(**{**TINY, "axes": (8, 8, 8, 8)}))


def test_in_channels_hold_the_latent() -> None:
    with pytest.raises(ValueError, match="in_channels 4 is less"):
        Flux1(Flux1Spec(**{**TINY, "in_channels": 4}))
