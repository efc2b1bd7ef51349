"""One token per image: what learns, what it is pulled to, and a decode through a given velocity."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from flowlab.autoencoders import save, save_diffusers, save_official
from flowlab.autoencoders.kl import KLAutoencoder, KLSpec
from flowlab.autoencoders.reptok import SingleTokenAutoencoder, class_token_pull
from flowlab.core.seeds import Streams
from flowlab.features.vision import VisionEncoder, VisionSpec
from flowlab.flow.samplers import euler
from flowlab.flow.schedules import sampling_grid

pytest.importorskip("transformers")

SMALL = VisionSpec(width=32, depth=1, mlp=64, head_width=16, input_size=28, table_size=28, affine=True)


def straight(x: Tensor, t: Tensor, token: Tensor) -> Tensor:
    """The exact velocity of a path that ends at the first numbers of the token: (x - x0) / t."""
    x0 = token[:, : x[0].numel()].reshape(x.shape)
    return (x - x0) / t[:, None, None, None]


def _model(velocity=straight, **settings) -> SingleTokenAutoencoder:
    torch.manual_seed(0)
    inner = KLAutoencoder(
        KLSpec(latent_channels=2, channels=8, multipliers=(1, 2), groups=4, num_res_blocks=1, resolution=8)
    )
    encoder = VisionEncoder(SMALL)
    torch.nn.init.normal_(encoder.network.get_parameter("embeddings.cls_token"))
    return SingleTokenAutoencoder(encoder, inner, velocity, euler, sampling_grid(4, 1.0).float(), **settings)


def _pixels(num: int = 3) -> Tensor:
    return torch.rand(num, 3, 8, 8, generator=torch.Generator().manual_seed(1)) * 2 - 1


def test_an_image_is_one_token():
    model = _model()
    latent = model.latents(_pixels())
    assert latent.shape == (3, 32, 1, 1)
    assert (model.spec.grid, model.spec.num_tokens, model.spec.stride) == (1, 1, 8)
    for method in (model.latents, model.encode):
        with pytest.raises(ValueError, match="12 x 12 pixels; reptok takes 8 x 8 only"):
            method(torch.zeros(1, 3, 12, 12))


@torch.no_grad()
def test_decode_integrates_the_velocity_then_decodes_its_end():
    model = _model()
    model.fit_normalisation(model.encode(_pixels(8)).mean * 2 + 1)
    token = model.encode(_pixels()).mean
    expected = model.pixels_from.decode(token.flatten(1).reshape(3, 8, 2, 2))
    torch.testing.assert_close(model.decode(model.to_latent(model.encode(_pixels()))), expected)
    torch.testing.assert_close(model.decode_raw(token), expected)


@torch.no_grad()
def test_a_picture_depends_on_its_token_and_stream_only():
    """A velocity of zero leaves the noise, so what starts the flow is visible."""
    model = _model(lambda x, t, token: torch.zeros_like(x), seed=5)
    token = torch.randn(3, 32, 1, 1)
    together = model.decode_raw(token)
    torch.testing.assert_close(together[2:], model.decode_raw(token[2:]))
    streams = Streams.for_samples(5, torch.tensor([7, 8, 9]), purpose="previews")
    drawn = model.draw(token, streams)
    assert not torch.allclose(drawn[0], drawn[1]), "each stream has its own noise"


def test_only_the_class_embedding_learns_and_is_pulled_back():
    model = _model()
    learns = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert learns == ["encoder.network.embeddings.cls_token"]
    pixels = _pixels()
    at_start = class_token_pull(model.encode(pixels).mean, model.original_token(pixels))
    torch.testing.assert_close(at_start, torch.zeros(3), rtol=0, atol=1e-6)
    with torch.no_grad():
        model.class_embedding.add_(torch.randn(1, 1, 32))
    pull = class_token_pull(model.encode(pixels).mean, model.original_token(pixels))
    assert (pull > 1e-3).all()
    pull.sum().backward()
    gradient = model.class_embedding.grad
    assert gradient is not None and gradient.isfinite().all() and gradient.abs().sum() > 0
    with torch.no_grad():
        model.class_embedding.sub_(0.1 * gradient)
    after = class_token_pull(model.encode(pixels).mean, model.original_token(pixels))
    assert after.sum() < pull.sum()


def test_the_flow_loss_reaches_the_class_embedding_through_the_velocity():
    class Velocity(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lin = torch.nn.Linear(32, 32)

        def forward(self, x: Tensor, t: Tensor, token: Tensor) -> Tensor:
            return x + self.lin(token).reshape(x.shape) * t[:, None, None, None]

    model = _model(Velocity())
    pixels = _pixels()
    x0, token = model.target(pixels), model.encode(pixels).mean.flatten(1)
    noise, t = torch.randn_like(x0), torch.full((3,), 0.5)
    loss = (model.velocity((x0 + noise) / 2, t, token) - (noise - x0)).pow(2).mean()
    loss.backward()
    assert {name for name, p in model.named_parameters() if p.grad is not None} == {
        "encoder.network.embeddings.cls_token",
        "velocity.lin.weight",
        "velocity.lin.bias",
    }
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


@torch.no_grad()
def test_weights_and_the_original_embedding_survive_saving():
    model = _model()
    model.class_embedding.add_(1.0)
    again = _model()
    again.load_state_dict(model.state_dict())
    pixels = _pixels()
    torch.testing.assert_close(again.latents(pixels), model.latents(pixels), rtol=0, atol=0)
    torch.testing.assert_close(again.original_token(pixels), model.original_token(pixels), rtol=0, atol=0)
    assert again.identity == model.identity


@pytest.mark.parametrize("write", [save, save_official, save_diffusers])
def test_no_file_holds_the_flow_and_saving_says_so(tmp_path, write):
    with pytest.raises(
        ValueError, match=r"reptok is a SingleTokenAutoencoder, which no file .* state_dict\(\)"
    ):
        write(_model(), tmp_path / "a")


def test_a_latent_of_another_shape_is_named():
    with pytest.raises(ValueError, match=r"shape \(3, 32, 2, 2\); reptok decodes \(batch, 32, 1, 1\)"):
        _model().decode(torch.zeros(3, 32, 2, 2))


def test_faults_are_named():
    inner = _model().pixels_from
    siglip = VisionEncoder(
        VisionSpec(kind="siglip2", width=32, depth=1, mlp=64, head_width=16, patch=16, input_size=32)
    )
    with pytest.raises(ValueError, match="siglip2 has no class token to learn"):
        SingleTokenAutoencoder(siglip, inner, straight, euler, sampling_grid(4, 1.0))
    with pytest.raises(ValueError, match=r"times run from 0 to 1; they go from 1 \(noise\) to 0"):
        SingleTokenAutoencoder(VisionEncoder(SMALL), inner, straight, euler, torch.linspace(0, 1, 5))
