"""Published weights: against an independent version of the published forward pass."""

import pytest
import torch
from tests.backbones.plain import official, official_state
from torch import Tensor, nn

from flowlab.backbones.adapters import VARIANTS, NoisePrediction, from_official, official_spec
from flowlab.backbones.output import Output
from flowlab.backbones.sit import SiT
from flowlab.backbones.tokens import patchify, unpatchify

LABELS = torch.tensor([0, 4, 10])


def batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    return torch.randn(3, 4, 8, 8, generator=generator), torch.rand(3, generator=generator)


def final_latent(z: Tensor) -> Tensor:
    """(B, 4, 8, 8) => (B, 16, 4, 4) as the autoencoders patchify."""
    return unpatchify(patchify(z, 2), 4, 4)


@pytest.mark.parametrize("learned_sigma", [True, False])
def test_sit_runs_on_final_latents_in_our_time(learned_sigma: bool) -> None:
    """Theirs: t = 1 is data, velocity data - noise. Ours at t must be minus theirs at 1 - t."""
    state = official_state(learned_sigma=learned_sigma)
    z, t = batch()
    theirs = official(state, z, 1 - t, LABELS, heads=4, learned_sigma=learned_sigma)
    model = from_official(state, heads=4)
    ours = model(final_latent(z), t, LABELS).velocity
    torch.testing.assert_close(ours, final_latent(-theirs), rtol=1e-4, atol=2e-5)


def test_repa_has_our_time_and_drops_its_projectors() -> None:
    state = official_state(learned_sigma=False)
    z, t = batch()
    theirs = official(state, z, t, LABELS, heads=4, learned_sigma=False)
    with_projectors = {
        **state,
        "projectors.0.0.weight": torch.zeros(3, 3),
        "projectors.0.0.bias": torch.zeros(3),
    }
    for tensors, variant in ((with_projectors, None), (state, "repa")):
        ours = from_official(tensors, variant=variant, heads=4)(final_latent(z), t, LABELS).velocity
        torch.testing.assert_close(ours, final_latent(theirs), rtol=1e-4, atol=2e-5)


def test_dit_noise_becomes_velocity() -> None:
    """At steps of the diffusion, where sqrt(1 - a) / sqrt(a) = t / (1 - t): v = (noise - x_t) / (1 - t)."""
    state = official_state()
    z, _ = batch()
    kept = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0)
    steps = torch.tensor([30, 400, 800])
    noise_ratio = ((1 - kept) / kept).sqrt()[steps].float()
    t = noise_ratio / (1 + noise_ratio)
    x_t = z  # any state will do
    diffused = x_t / (1 - t).view(-1, 1, 1, 1) * kept[steps].sqrt().float().view(-1, 1, 1, 1)
    noise = official(state, diffused, steps.float(), LABELS, heads=4, learned_sigma=True)
    velocity = (noise - x_t) / (1 - t).view(-1, 1, 1, 1)
    model = from_official(state, variant="dit", heads=4)
    out = model(final_latent(x_t), t, LABELS, keep=(1,))
    torch.testing.assert_close(out.velocity, final_latent(velocity), rtol=1e-3, atol=1e-3)
    assert out.hidden[1].shape == (3, 16, 32)


class GaussianNoise(nn.Module):
    """The ideal noise prediction of the diffusion where data are N(mean, std^2), between steps too."""

    def __init__(self, spec, mean: float, std: float) -> None:
        super().__init__()
        self.spec, self.mean, self.std = spec, mean, std
        kept = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0)
        self.log_ratio = ((1 - kept) / kept).log() / 2

    def forward(self, x: Tensor, t: Tensor, condition: Tensor, keep=()) -> Output:
        step = (t * self.spec.time_scale).clamp(max=998.9999)
        low = step.floor().long()
        ratio = torch.lerp(self.log_ratio[low], self.log_ratio[low + 1], step - low).exp()
        kept = (1 / (1 + ratio**2)).view(-1, 1, 1, 1)
        variance = kept * self.std**2 + 1 - kept
        return Output((1 - kept).sqrt() * (x - kept.sqrt() * self.mean) / variance)


def test_an_ideal_noise_prediction_gives_the_ideal_velocity() -> None:
    state = official_state()
    spec = official_spec(state, heads=4, time_scale=1000.0)
    ideal = NoisePrediction(GaussianNoise(spec, 1.5, 0.5))  # pyright: ignore
    x = torch.randn(9, 16, 4, 4, dtype=torch.float64)
    t = torch.linspace(0.02, 0.99, 9, dtype=torch.float64)
    at = t.view(-1, 1, 1, 1)
    variance = (1 - at) ** 2 * 0.25 + at**2
    expected = (at - (1 - at) * 0.25) / variance * (x - (1 - at) * 1.5) - 1.5
    torch.testing.assert_close(ideal(x, t, LABELS).velocity, expected, rtol=1e-6, atol=1e-6)
    ends = ideal(x[:2], torch.tensor([0.0, 1.0], dtype=torch.float64), LABELS).velocity
    assert ends.isfinite().all()


@pytest.mark.parametrize("patch", [1, 2, 4])
def test_spec_comes_from_the_shapes(patch: int) -> None:
    spec = official_spec(official_state(patch=patch, width=384, depth=12, side=3, classes=7))
    assert (spec.width, spec.depth, spec.heads) == (384, 12, 6)
    assert (spec.channels, spec.patch, spec.grid, spec.num_classes) == (4 * patch**2, 1, 3, 7)


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_is_built_in_eval_mode_and_float32(variant: str) -> None:
    half = {name: tensor.half() for name, tensor in official_state().items()}
    model = from_official(half, variant=variant, heads=4)
    assert not model.training
    assert isinstance(model, SiT if variant != "dit" else NoisePrediction)
    assert all(p.dtype == torch.float32 for p in model.parameters())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pos_embed": None}, "lacks 'pos_embed'"),
        ({"final_layer.linear.bias": None}, "lacks 'final_layer.linear.bias'"),
        ({"t_embedder.mlp.0.weight": None}, "lacks 't_embedder.mlp.0.weight'"),
        ({"blocks.1.attn.proj.bias": None}, "blocks.1.attention.proj.bias"),
        ({"blocks.0.attn.q_norm.weight": torch.ones(8)}, "blocks.0.attn.q_norm.weight"),
        ({"blocks.0.mlp.fc1.weight": torch.ones(8, 8)}, r"blocks.0.mlp.in_layer.weight' is \(8, 8\)"),
        ({"final_layer.linear.weight": torch.ones(20, 32)}, "5 rows a pixel"),
    ],
)
def test_a_file_that_does_not_fit_is_refused(change: dict, message: str) -> None:
    state = {name: tensor for name, tensor in {**official_state(), **change}.items() if tensor is not None}
    with pytest.raises(ValueError, match=message):
        from_official(state, heads=4, where="file.pt")


def test_what_shapes_cannot_tell_must_be_said() -> None:
    with pytest.raises(ValueError, match=r"width 32, depth 2 is no published size; say heads=<number>"):
        from_official(official_state())
    with pytest.raises(ValueError, match="unknown SiT variant 'flux'; choose from: sit, repa, dit"):
        from_official(official_state(), variant="flux", heads=4)
    with pytest.raises(ValueError, match="unknown override of a SiT 'head'"):
        from_official(official_state(), heads=4, head=4)
