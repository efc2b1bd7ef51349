"""FLUX.2 against the published code's vectors, a plain version, and wrong orders that load silently."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tests.backbones.plain_flux import golden_model, plain, random_model
from torch import Tensor, nn

from flowlab.backbones import Condition, build_flux, flux, flux_blocks
from flowlab.backbones.flux2 import Flux2, Flux2Spec
from flowlab.flow.samplers import euler
from flowlab.flow.schedules import sampling_grid
from flowlab.layers import embeddings
from flowlab.layers.packed import pack_linears

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


def inputs(batch: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    latent = torch.randn(batch, 8, 4, 3, generator=generator)
    return latent, torch.rand(batch, generator=generator), torch.randn(batch, 5, 24, generator=generator)


# ---- parity ------------------------------------------------------------------------------------------------


@torch.no_grad()
def answer(model: nn.Module, vectors: dict[str, Tensor], *, references: bool = True) -> Tensor:
    """Tokens (B, N, C) for the golden inputs."""
    given = [[vectors["in.ref0"], vectors["in.ref1"]]] * 2 if references else None
    assert isinstance(model, Flux2)
    velocity = model.velocity(
        vectors["in.latent"],
        vectors["in.t"],
        vectors["in.text"],
        guidance=vectors["in.guidance"],
        references=given,
    )
    return velocity.flatten(2).mT


@pytest.mark.parametrize("references", [False, True])
def test_equals_the_published_code(references: bool) -> None:
    model, vectors = golden_model("flux2")
    expected = vectors["out.velocity_with_refs" if references else "out.velocity_no_refs"]
    torch.testing.assert_close(answer(model, vectors, references=references), expected, rtol=0, atol=1e-5)


def swapped(name: str, parts: int, first: int, second: int) -> Callable:
    """Exchange two of the `parts` row groups of a weight."""

    def change(model: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
        weight = model.get_parameter(name)
        groups = list(weight.detach().chunk(parts))
        groups[first], groups[second] = groups[second], groups[first]
        weight.data = torch.cat(groups)

    return change


def patched(module: Any, name: str, wrong: Callable) -> Callable:
    """Replace a function that the model calls."""

    def change(model: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
        right = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *args, **options: wrong(right, *args, **options))

    return change


def half_split(right: Callable, x: Tensor, planes: Tensor) -> Tensor:
    """The rotation of LLaMA: channels k and k + D / 2 are one plane."""
    (a, b), (cos, sin) = x.chunk(2, -1), planes.unbind(-1)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], -1)


def divisor_127(right: Callable, t: Tensor, num_channels: int) -> Tensor:
    rates = 10000 ** (-torch.arange(num_channels // 2) / (num_channels // 2 - 1))
    angle = t[..., None] * rates
    return torch.cat([angle.cos(), angle.sin()], -1)


def normed_values(right: Callable, qkv: Tensor, scale: Tensor, rope: Tensor) -> Any:
    q, k, v = right(qkv, scale, rope)
    return q, k, nn.functional.rms_norm(v, v.shape[-1:])


WRONG: dict[str, Callable] = {
    "final layer: scale before shift": swapped("final_layer.modulation.lin.weight", 2, 0, 1),
    "image modulation: scale before shift": swapped("double_stream_modulation_img.lin.weight", 6, 0, 1),
    "image modulation: gate before scale": swapped("double_stream_modulation_img.lin.weight", 6, 1, 2),
    "image modulation: MLP before attention": swapped("double_stream_modulation_img.lin.weight", 2, 0, 1),
    "text modulation: scale before shift": swapped("double_stream_modulation_txt.lin.weight", 6, 3, 4),
    "text modulation: MLP before attention": swapped("double_stream_modulation_txt.lin.weight", 2, 0, 1),
    "single modulation: scale before shift": swapped("single_stream_modulation.lin.weight", 3, 0, 1),
    "single modulation: gate first": swapped("single_stream_modulation.lin.weight", 3, 0, 2),
    "image qkv: k first": swapped("double_blocks.0.img_attn.qkv.weight", 3, 0, 1),
    "text qkv: v before k": swapped("double_blocks.0.txt_attn.qkv.weight", 3, 1, 2),
    "image MLP: value before gate": swapped("double_blocks.0.img_mlp.in_layer.weight", 2, 0, 1),
    "text MLP: value before gate": swapped("double_blocks.0.txt_mlp.in_layer.weight", 2, 0, 1),
    "linear1: k first": swapped("single_blocks.0.linear1.weight", 9, 0, 1),
    "linear1: up before gate": swapped("single_blocks.0.linear1.weight", 3, 1, 2),
    "sinusoid: sine first": patched(embeddings, "sinusoid", lambda f, *a: f(*a).roll(128, -1)),
    "sinusoid: divisor 127": patched(embeddings, "sinusoid", divisor_127),
    "time not times 1000": patched(embeddings, "sinusoid", lambda f, t, n: f(t / 1000, n)),
    "time times 1000 twice": patched(embeddings, "sinusoid", lambda f, t, n: f(t * 1000, n)),
    "RoPE: half-split planes": patched(flux_blocks, "turn", half_split),
    "RoPE: theta 10000": patched(flux, "rope_planes", lambda f, ids, axes, theta: f(ids, axes, 10000.0)),
    "RoPE: axes h, w, t, l": patched(flux, "rope_planes", lambda f, ids, *a: f(ids[..., [1, 2, 0, 3]], *a)),
    "RoPE: rows and columns exchanged": patched(
        flux, "rope_planes", lambda f, ids, *a: f(ids[..., [0, 2, 1, 3]], *a)
    ),
    "text not counted": patched(flux, "text_ids", lambda f, *a: f(*a) * 0),
    "text counted on the first axis": patched(flux, "text_ids", lambda f, *a: f(*a).flip(-1)),
    "references at 1, 2": patched(flux, "reference_tokens", lambda f, *a, **o: f(*a, **{**o, "spacing": 1})),
    "values normalised": patched(flux_blocks, "_heads", normed_values),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_order_moves_the_output(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, vectors = golden_model("flux2")
    WRONG[name](model, monkeypatch)
    moved = (answer(model, vectors) - vectors["out.velocity_with_refs"]).abs().max()
    assert moved > 1e-3, name


def test_no_tensor_is_a_bias() -> None:
    model = build_flux("flux2_klein_4b", width=64, heads=2, text_width=24, axes=(8, 8, 8, 8), guidance=True)
    assert not [name for name in model.state_dict() if name.endswith("bias")]


# ---- the contract of a backbone ----------------------------------------------------------------------------


def test_equals_the_plain_definition_and_its_gradients() -> None:
    model = random_model(Flux2Spec(**{**TINY, "guidance": True}))
    latent, t, text = inputs()
    guidance = torch.tensor([4.0, 2.5])
    velocity = model.velocity(latent, t, text, guidance=guidance)
    torch.testing.assert_close(velocity, plain(model, latent, t, text, guidance=guidance), rtol=0, atol=1e-5)
    gradients = torch.autograd.grad(velocity.square().mean(), list(model.parameters()))
    assert all(gradient.isfinite().all() and gradient.abs().max() > 0 for gradient in gradients)


def test_a_fresh_model_answers_zero_and_learns() -> None:
    torch.manual_seed(0)
    model = Flux2(Flux2Spec(**TINY))
    latent, t, text = inputs(6)
    assert (model(latent, t, Condition(text)).velocity == 0).all()
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(20):
        loss = (model(latent, t, Condition(text)).velocity - latent).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0] - 0.05


def test_time_is_embedded_at_unit_size() -> None:
    embedded = build_flux("flux2_scenes").time_in(torch.rand(64))
    assert 0.6 < float(embedded.detach().std()) < 1.2


def test_keep_returns_target_tokens_of_blocks_counted_through() -> None:
    model = random_model(Flux2Spec(**TINY))
    latent, t, text = inputs()
    references = [[torch.randn(8, 2, 2)]] * 2
    out = model(latent, t, Condition(text, references=references), keep=(1, 2, 3, 4))
    assert out.hidden.keys() == {1, 2, 3, 4}
    assert all(hidden.shape == (2, 12, 64) for hidden in out.hidden.values())
    assert torch.equal(out.velocity, model.velocity(latent, t, text, references=references))
    with pytest.raises(ValueError, match="cannot keep blocks"):
        model(latent, t, Condition(text), keep=(5,))


def test_bfloat16_autocast_and_weights_stay_near() -> None:
    model = random_model(Flux2Spec(**TINY))
    latent, t, text = inputs()
    exact = model.velocity(latent, t, text)
    with torch.autocast("cpu", torch.bfloat16):
        cast = model.velocity(latent, t, text)
    half = model.to(torch.bfloat16).velocity(latent, t, text)
    assert cast.dtype == half.dtype == torch.float32
    for other in (cast, half):
        assert (other - exact).abs().mean() < 0.03 * exact.abs().mean()


def test_packed_layers_compute_the_same() -> None:
    model = random_model(Flux2Spec(**TINY))
    expected = model.velocity(*inputs()).detach()
    pack_linears(model.double_blocks)
    pack_linears(model.single_blocks)
    with torch.no_grad():
        torch.testing.assert_close(model.velocity(*inputs()), expected, rtol=0, atol=1e-5)


@pytest.mark.slow
def test_compiles_as_one_graph() -> None:
    model = random_model(Flux2Spec(**TINY))
    expected = model.velocity(*inputs()).detach()
    compiled = torch.compile(model.velocity, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(*inputs()), expected, rtol=0, atol=1e-5)


# ---- sampling ----------------------------------------------------------------------------------------------


@torch.no_grad()
def test_sampling_with_prepared_times_equals_single_calls() -> None:
    model = random_model(Flux2Spec(**{**TINY, "guidance": True}))
    noise, _, text = inputs()
    guidance = torch.tensor([4.0, 2.0])
    times = sampling_grid(4, 2.0)
    prepared = model.prepare((4, 3), text, guidance=guidance, times=times)
    ready = euler(lambda x, t: model.denoise(x, t, prepared).velocity, noise, times)
    alone = euler(lambda x, t: model.velocity(x, t, text, guidance=guidance), noise, times)
    torch.testing.assert_close(ready, alone, rtol=0, atol=1e-5)


@torch.no_grad()
def test_a_time_that_was_not_prepared_shows() -> None:
    model = random_model(Flux2Spec(**TINY))
    latent, _, text = inputs()
    prepared = model.prepare((4, 3), text, times=torch.tensor([1.0, 0.5]))
    velocity = model.denoise(latent, torch.tensor([0.5, 0.4]), prepared).velocity
    assert velocity[0].isfinite().all()
    assert velocity[1].isnan().all()


# ---- bad input ---------------------------------------------------------------------------------------------


def test_guidance_is_never_dropped() -> None:
    latent, t, text = inputs()
    with pytest.raises(ValueError, match="give guidance"):
        random_model(Flux2Spec(**{**TINY, "guidance": True})).velocity(latent, t, text)
    with pytest.raises(ValueError, match="no guidance embedding"):
        random_model(Flux2Spec(**TINY)).velocity(latent, t, text, guidance=torch.ones(2))
    with pytest.raises(ValueError, match="one scale per sample"):
        random_model(Flux2Spec(**{**TINY, "guidance": True})).velocity(
            latent, t, text, guidance=torch.tensor(4.0)
        )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"latent": torch.zeros(2, 4, 4, 3)}, "latent is"),
        ({"t": torch.zeros(3)}, "one time per sample"),
        ({"text": torch.zeros(2, 5, 32)}, "its own text encoder"),
        ({"pooled": torch.zeros(2, 12)}, "leave pooled out"),
        ({"concat": torch.zeros(2, 4, 4, 3)}, "this model takes none"),
        ({"origin": torch.zeros(2, 3, dtype=torch.int64)}, "give row and column of each"),
        ({"origin": torch.zeros(2, 2)}, r"float32; give row and column of each, \(2, 2\) integers"),
        ({"references": [[]]}, "1 lists of references for 2 samples"),
        ({"references": [[torch.zeros(4, 2, 2)], []]}, "reference 0 of sample 0"),
    ],
)
def test_what_does_not_fit_is_named(change: dict, message: str) -> None:
    latent, t, text = inputs()
    given = {"latent": latent, "t": t, "text": text, **change}
    with pytest.raises(ValueError, match=message):
        random_model(Flux2Spec(**TINY)).velocity(**given)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"axes": (8, 8, 8)}, "RoPE axes"),
        ({"axes": (8, 12, 12)}, r"RoPE axes \(8, 12, 12\) must be 4 even numbers that add up to .* 32"),
        ({"axes": (7, 9, 8, 8)}, "RoPE axes"),
        ({"axes": (-8, 16, 16, 8)}, "RoPE axes"),
        ({"mlp_ratio": 0.001}, "mlp_hidden of a FLUX is 0"),
        ({"heads": 3}, "not a multiple of 3 heads"),
        ({"variant": "fast"}, "choose from: dense, kv"),
        ({"double_blocks": 0, "single_blocks": 0}, "at least one block"),
        ({"text_width": 0}, "at least 1"),
    ],
)
def test_a_spec_that_does_not_fit_is_refused(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Flux2(Flux2Spec(**{**TINY, **change}))
