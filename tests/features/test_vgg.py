"""The VGG16 ruler: against a plain trunk and LPIPS' own formula, by hand, its identities, and wrong files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from flowlab.features import vgg
from flowlab.features.vgg import PIXEL_SCALE, PIXEL_SHIFT, VGG16


def images(num: int = 2, side: int = 32, seed: int = 0) -> Tensor:
    return torch.rand(num, 3, side, side, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@pytest.fixture(scope="module")
def small() -> VGG16:
    return vgg.random(0, width=16)


# ---- the trunk and the formula -----------------------------------------------------------------------------


def plain_trunk() -> nn.Sequential:
    """The usual list of layers of VGG16's features, 31 of them."""
    layers: list[nn.Module] = []
    before = 3
    for entry in [64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512, 0]:
        if entry == 0:
            layers += [nn.MaxPool2d(2, 2)]
        else:
            layers += [nn.Conv2d(before, entry, 3, padding=1), nn.ReLU()]
            before = entry
    return nn.Sequential(*layers).requires_grad_(False)


TAPS = (3, 8, 15, 22, 29)  # relu1_2, relu2_2, relu3_3, relu4_3, relu5_3


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, nn.Sequential]:
    """A trunk and heads with random weights under the published names."""
    torch.manual_seed(0)
    folder, trunk = tmp_path_factory.mktemp("vgg"), plain_trunk()
    tensors = {f"features.{name}": tensor for name, tensor in trunk.state_dict().items()}
    torch.save(tensors | {"classifier.6.bias": torch.zeros(1000)}, folder / "vgg16.pth")
    heads = {
        f"lin{i}.model.1.weight": torch.rand(1, width, 1, 1)
        for i, width in enumerate((64, 128, 256, 512, 512))
    }
    torch.save(heads, folder / "vgg.pth")
    return folder / "vgg16.pth", folder / "vgg.pth", trunk


@pytest.mark.filterwarnings("ignore:.*compare with nothing published")
def test_equals_the_plain_trunk_and_lpips_own_formula(files):
    trunk_path, heads_path, trunk = files
    model = vgg.load(trunk_path, heads_path, check_hash=False)
    a, b = images(seed=1), images(seed=2)
    heads = torch.load(heads_path, weights_only=True)
    expected = torch.zeros(2, dtype=torch.float64)
    shift, scale = (torch.tensor(values).view(1, 3, 1, 1) for values in (PIXEL_SHIFT, PIXEL_SCALE))
    for i, (tap, ours) in enumerate(zip(TAPS, model.layers(a), strict=True)):
        x, y = (trunk[: tap + 1]((side - shift) / scale).double() for side in (a, b))
        torch.testing.assert_close(ours.double(), x, rtol=1e-4, atol=1e-6)
        x, y = (side / (side.square().sum(1, keepdim=True).sqrt() + 1e-10) for side in (x, y))
        weighted = (x - y).square() * heads[f"lin{i}.model.1.weight"].double()
        expected += weighted.sum(1).mean((1, 2))
    found = model.distances(a, b)
    torch.testing.assert_close(found["lpips_vgg"].double(), expected, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(model.lpips(a, b), found["lpips_vgg"])
    assert not model.published and model.name.startswith("vgg16 ") and "397923af" not in model.name


def test_by_hand():
    """Convolutions that copy their channels: every layer sees (.3, .4) against (.4, .3), cosine .96."""
    model = vgg.random(0, width=8)
    for weight in model.convs.parameters():
        weight.zero_()
        if weight.ndim == 4:  # (out, in, 3, 3); biases stay 0
            for channel in range(min(weight.shape[:2])):
                weight[channel, channel, 1, 1] = 1.0
    for weight in model.heads.parameters():
        weight.fill_(0.1)
    a, b = (
        (torch.tensor(colour) * torch.tensor(PIXEL_SCALE) + torch.tensor(PIXEL_SHIFT))
        .view(1, 3, 1, 1)
        .expand(1, 3, 16, 16)
        for colour in ([0.3, 0.4, 0.0], [0.4, 0.3, 0.0])
    )
    found = model.distances(a, b)
    np.testing.assert_allclose(found["psim_vgg16"], 5 * (1 - 0.96), rtol=1e-4)
    np.testing.assert_allclose(found["lpips_vgg"], 5 * 0.1 * (0.2**2 + 0.2**2), rtol=1e-4)


def test_a_side_without_signal_has_cosine_zero_and_two_agree():
    dead, alive = torch.zeros(1, 4, 2, 2), torch.ones(1, 4, 2, 2) / 2
    assert float(vgg._one_minus_cosine(dead, alive)) == 1.0
    assert float(vgg._one_minus_cosine(dead, dead)) == 0.0


# ---- identities --------------------------------------------------------------------------------------------


def test_no_distance_to_itself_and_none_depends_on_the_order(small):
    a, b = images(seed=1), images(seed=2)
    assert all(bool((value == 0).all()) for value in small.distances(a, a).values())
    there, back = small.distances(a, b), small.distances(b, a)
    assert set(there) == {"psim_vgg16", "lpips_vgg"}
    for name in there:
        torch.testing.assert_close(there[name], back[name])
        assert bool((there[name] > 0).all())


def test_heads_of_one_give_twice_psim():
    """sum |x - y|^2 = 2 sum (1 - cos) for unit vectors: the two scales differ by the heads alone."""
    model = vgg.random(0, width=16)
    for weight in model.heads.parameters():
        weight.fill_(1.0)
    found = model.distances(images(seed=1), images(seed=2))
    torch.testing.assert_close(found["lpips_vgg"], 2 * found["psim_vgg16"], rtol=1e-5, atol=1e-6)


def test_an_image_counts_alone(small):
    a, b = images(3, seed=1), images(3, seed=2)
    together = small.distances(a, b)["psim_vgg16"]
    torch.testing.assert_close(together[1:2], small.distances(a[1:2], b[1:2])["psim_vgg16"])


def test_the_same_seed_is_the_same_network_and_the_global_generator_stays():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first, again, other = (vgg.random(seed, width=8) for seed in (1, 1, 2))
    assert torch.equal(torch.rand(3), expected)
    assert first.name == again.name != other.name


# ---- gradients ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("constant", [False, True])
def test_gradients_are_finite_even_on_flat_images(small, constant):
    a = (torch.zeros(1, 3, 32, 32) if constant else images(1)).requires_grad_()
    loss = small.lpips(a, images(1, seed=3)) + small.distances(a, images(1, seed=3))["psim_vgg16"]
    loss.sum().backward()
    assert a.grad is not None and bool(a.grad.isfinite().all()) and float(a.grad.abs().sum()) > 0
    assert all(parameter.grad is None for parameter in small.parameters())


def test_a_step_down_the_gradient_comes_nearer(small):
    a, b = images(1, seed=1).requires_grad_(), images(1, seed=2)
    before = small.lpips(a, b)
    (slope,) = torch.autograd.grad(before.sum(), a)
    assert float(small.lpips(a.detach() - 0.05 * slope / slope.abs().max(), b)) < float(before.detach())


# ---- wrong files and wrong calls ---------------------------------------------------------------------------


def test_another_file_than_the_published_one_is_named(files):
    trunk, heads, _ = files
    with pytest.raises(ValueError, match=r"vgg16\.pth is not torchvision's vgg16-397923af\.pth.*check_hash"):
        vgg.load(trunk)
    with pytest.warns(UserWarning, match="compare with nothing published"):
        assert not vgg.load(trunk, check_hash=False).heads
    with (
        pytest.warns(UserWarning, match="compare with nothing"),
        pytest.raises(ValueError, match="is not LPIPS heads.*it holds classifier"),
    ):
        vgg.load(trunk, trunk, check_hash=False)
    with (
        pytest.warns(UserWarning, match="compare with nothing"),
        pytest.raises(ValueError, match="is not a VGG16 trunk.*it holds lin0"),
    ):
        vgg.load(heads, check_hash=False)


def test_missing_and_broken_files_are_named(tmp_path, files):
    with pytest.raises(ValueError, match=r"no weights at .*nosuch\.pth; give the path of torchvision's"):
        vgg.load(tmp_path / "nosuch.pth")
    half = tmp_path / "half.pth"
    half.write_bytes(files[0].read_bytes()[:1000])
    with (
        pytest.warns(UserWarning, match="compare with nothing"),
        pytest.raises(ValueError, match=r"half\.pth is not a whole file of weights"),
    ):
        vgg.load(half, check_hash=False)


@pytest.mark.filterwarnings("ignore:.*compare with nothing published")
def test_a_trunk_may_be_safetensors_and_a_lost_tensor_is_named(tmp_path, files):
    tensors = {f"features.{name}": tensor for name, tensor in files[2].state_dict().items()}
    save_file(tensors, tmp_path / "trunk.safetensors")
    model = vgg.load(tmp_path / "trunk.safetensors", check_hash=False)
    assert torch.equal(model.state_dict()["convs.12.weight"], tensors["features.28.weight"])
    del tensors["features.28.weight"]
    save_file(tensors, tmp_path / "less.safetensors")
    with pytest.raises(ValueError, match=r"less\.safetensors lacks 1 tensors of VGG16, first 'convs\.12\."):
        vgg.load(tmp_path / "less.safetensors", check_hash=False)


def test_wrong_pixels_are_named(small):
    with pytest.raises(ValueError, match=r"\(2, 1, 32, 32\).*16 pixels and more"):
        small.layers(torch.zeros(2, 1, 32, 32))
    with pytest.raises(ValueError, match=r"\(1, 3, 8, 8\)"):
        small.layers(torch.zeros(1, 3, 8, 8))
    with pytest.raises(ValueError, match=r"\(1, 3, 32, 32\) against \(2, 3, 32, 32\)"):
        small.distances(images(1), images(2))
    with pytest.raises(ValueError, match="no LPIPS heads; load it with `heads`"):
        vgg.random(0, width=8, heads=False).lpips(images(1), images(1))
