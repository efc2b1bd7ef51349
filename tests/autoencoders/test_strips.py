"""Strips give the model's own result, whatever their height, and hold little more than two large maps."""

from __future__ import annotations

import weakref
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from flowlab.autoencoders import load
from flowlab.autoencoders.kl import KLAutoencoder, KLSpec, SpatialAttention
from flowlab.autoencoders.strips import InStrips, Statistics, decode_in_strips, encode_in_strips
from flowlab.core.seeds import Streams

OPTIONS = {
    "flux2": {"normalisation": "batchnorm"},
    "flux1": {"quant_conv": False},
    "small decoder": {"decoder_channels": 16, "normalisation": "batchnorm"},
    "vavae": {"attention_levels": (2,), "patch": 1},
    "linear": {"linear_path": True, "mid_attention": False},
}
ATOL = 1e-5
"""Pixels; float32 rounding in another order of operations, 5e-6 measured."""


def model_of(option: str = "flux2", **more) -> KLAutoencoder:
    torch.manual_seed(0)
    options = {"channels": 32, "multipliers": (1, 2, 2), "groups": 16, **OPTIONS[option], **more}
    return KLAutoencoder(KLSpec(latent_channels=4, **options)).eval().requires_grad_(False)


@pytest.mark.parametrize("rows", [1, 3, 16, 64])
@pytest.mark.parametrize("option", OPTIONS)
def test_strips_equal_the_whole(option, rows):
    model = model_of(option)
    for height, width in ((40, 24), (8, 16)):
        pixels = torch.rand(2, 3, height, width) * 2 - 1
        moments = model.encode(pixels)
        latent = model.to_latent(moments)
        found = encode_in_strips(model, pixels, rows)
        assert moments.logvar is not None and found.logvar is not None
        torch.testing.assert_close(found.mean, moments.mean, rtol=0, atol=ATOL)
        torch.testing.assert_close(found.logvar, moments.logvar, rtol=0, atol=ATOL)
        output = model.decode(latent)
        torch.testing.assert_close(decode_in_strips(model, latent, rows), output, rtol=0, atol=ATOL)


def test_a_strip_normalised_by_itself_would_not_pass():
    """The equality is no accident: tiles with their own statistics are off by a hundred times as much."""
    model = model_of()
    latent = torch.randn(1, 16, 12, 8)
    tiles = torch.cat([model.decode(part) for part in latent.split(6, dim=2)], dim=2)
    assert float((tiles - model.decode(latent)).abs().max()) > 100 * ATOL


def test_the_wrapper_is_the_same_autoencoder_to_everyone_else():
    model = load("flux2")
    assert isinstance(model, KLAutoencoder)
    strips = InStrips(model, rows=5)
    assert strips.identity == model.identity and strips.spec == model.spec
    assert strips.state_dict().keys() == model.state_dict().keys()
    pixels = torch.rand(2, 3, 48, 32) * 2 - 1
    z = strips.latents(pixels)
    torch.testing.assert_close(z, model.latents(pixels), rtol=0, atol=ATOL)
    torch.testing.assert_close(strips.decode(z), model.decode(z), rtol=0, atol=2 * ATOL)
    streams = [Streams.for_samples(0, torch.arange(2), purpose="posterior") for _ in range(2)]
    sampled = strips.to_latent(strips.encode(pixels), streams[0])
    torch.testing.assert_close(sampled, model.to_latent(model.encode(pixels), streams[1]), rtol=0, atol=ATOL)
    with pytest.raises(ValueError, match="take"):
        strips.latents(torch.zeros(1, 3, 44, 32))


def test_its_input_is_left_alone_and_no_graph_is_kept():
    model = model_of().requires_grad_(True)
    pixels, latent = torch.rand(1, 3, 16, 16), torch.randn(1, 16, 2, 2)
    copies = pixels.clone(), latent.clone()
    assert not encode_in_strips(model, pixels).mean.requires_grad
    assert not decode_in_strips(model, latent).requires_grad
    assert torch.equal(pixels, copies[0]) and torch.equal(latent, copies[1])


def test_half_precision_keeps_statistics_in_float32():
    model = model_of()
    latent = torch.randn(1, 16, 8, 8)
    exact = model.decode(latent)
    half = model.to(torch.bfloat16)
    ours = decode_in_strips(half, latent.bfloat16(), 5).float()
    theirs = half.decode(latent.bfloat16()).float()
    assert float((ours - exact).abs().mean()) < 1.2 * float((theirs - exact).abs().mean())


def test_statistics_survive_a_large_mean():
    """GroupNorm far from zero: sums of squares in float32 would leave nothing of the variance."""
    norm = nn.GroupNorm(2, 4).requires_grad_(False)
    x = torch.randn(2, 4, 30, 5) + 1000
    gathered = Statistics(norm)
    for part in x.split(7, dim=2):
        assert gathered.add(part) is part
    affine = gathered.affine()
    expected = F.group_norm(x.double(), 2, norm.weight.double(), norm.bias.double(), norm.eps)
    found = x.double() * affine.scale.double() + affine.shift.double()
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-3)


def test_the_middle_attention_makes_no_square_of_logits():
    """torch's flash kernel takes it, which else raises here; it is 17 GB at 2048 pixels otherwise."""
    attention = SpatialAttention(64, 32).requires_grad_(False)
    x = torch.randn(1, 64, 9, 7)
    with sdpa_kernel(SDPBackend.MATH):
        plain = attention(x)
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        torch.testing.assert_close(attention(x), plain, rtol=0, atol=ATOL)


def test_strips_without_rows_are_refused():
    with pytest.raises(ValueError, match="strips of 0 rows; give 1 or more"):
        InStrips(model_of(), rows=0)


# ---- memory ------------------------------------------------------------------------------------------------


class Live(TorchDispatchMode):
    """Bytes of the storages made inside the block: how many live now, and the most that ever did."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._count(leaf.untyped_storage())
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._known:
            return
        self._known.add(key)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._drop, key, size)

    def _drop(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size


def peak_of(call: Callable[[], object]) -> int:
    with torch.no_grad(), Live() as live:
        call()
    return live.peak


def test_at_most_two_and_a_half_large_maps_live_at_once():
    model = model_of(multipliers=(1, 2, 4, 4), num_res_blocks=2)
    side, rows = 128, 4
    one = 4 * 32 * side * side  # bytes of a full-resolution map
    pixels, latent = torch.rand(1, 3, side, side), torch.randn(1, 16, side // 16, side // 16)
    decoding = peak_of(lambda: decode_in_strips(model, latent, rows))
    encoding = peak_of(lambda: encode_in_strips(model, pixels, rows))
    strips = 6 * one * (rows + 2) // side
    assert 2.5 * one < decoding < 2.5 * one + strips
    assert 2 * one < encoding < 2 * one + strips
    assert decoding < 0.6 * peak_of(lambda: model.decode(latent))
    assert encoding < 0.8 * peak_of(lambda: model.encode(pixels))
