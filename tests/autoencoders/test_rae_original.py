"""RAE's own release: three files become one autoencoder, with the numbers of the authors' formulas."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from flowlab import autoencoders
from flowlab.autoencoders.rae import PublishedRAESpec, RepresentationAutoencoder
from flowlab.autoencoders.rae_names import ORIGINAL
from flowlab.autoencoders.vit_decoder import DECODERS

pytest.importorskip("transformers")

WIDTH, DECODER, GRID, PATCH = 64, 32, 3, 16


def their_decoder(depth: int = 2, width: int = DECODER, mlp: int = 48) -> dict[str, Tensor]:
    """The state dict of the authors' GeneralDecoder, by its names in github.com/bytetriper/RAE."""
    linears = {"decoder_embed": (width, WIDTH), "decoder_pred": (3 * PATCH**2, width)}
    norms = ["decoder_norm"]
    for i in range(depth):
        layer = f"decoder_layers.{i}"
        for name in ("query", "key", "value"):
            linears[f"{layer}.attention.attention.{name}"] = (width, width)
        linears[f"{layer}.attention.output.dense"] = (width, width)
        linears[f"{layer}.intermediate.dense"] = (mlp, width)
        linears[f"{layer}.output.dense"] = (width, mlp)
        norms += [f"{layer}.layernorm_before", f"{layer}.layernorm_after"]
    tensors = {
        "trainable_cls_token": torch.randn(1, 1, width),
        "decoder_pos_embed": their_positions(width),
    }
    for name, shape in linears.items():
        tensors |= {f"{name}.weight": torch.randn(shape) * 0.2, f"{name}.bias": torch.randn(shape[0]) * 0.2}
    for name in norms:
        tensors |= {f"{name}.weight": 1 + torch.randn(width) * 0.1, f"{name}.bias": torch.randn(width) * 0.1}
    return tensors


def their_positions(width: int) -> Tensor:
    """get_2d_sincos_pos_embed: columns before rows, sines before cosines, zeros for the class token."""
    omega = 1 / 10000 ** (torch.arange(width // 4, dtype=torch.float64) / (width / 4))
    rows, columns = torch.meshgrid(torch.arange(GRID), torch.arange(GRID), indexing="ij")
    angles = [axis.flatten()[:, None] * omega for axis in (columns, rows)]
    table = torch.cat([wave(angle) for angle in angles for wave in (torch.sin, torch.cos)], dim=1)
    return torch.cat([torch.zeros(1, width), table.float()])[None]


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small release in its own folders, and its encoder in `encoder`; grid 3, 48 px."""
    torch.manual_seed(0)
    root = tmp_path_factory.mktemp("release")
    transformers: Any = importlib.import_module("transformers")
    config = transformers.Dinov2WithRegistersConfig(
        hidden_size=WIDTH, num_hidden_layers=2, num_attention_heads=1, image_size=56, patch_size=14
    )
    encoder = transformers.Dinov2WithRegistersModel(config)
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    encoder.save_pretrained(root / "encoder")
    decoder = root / "decoders" / "dinov2" / "wReg_base" / "ViTXL_n08" / "model.pt"
    stats = root / "stats" / "dinov2" / "wReg_base" / "imagenet1k" / "stat.pt"
    for path, content in (
        (decoder, their_decoder()),
        (stats, {"mean": torch.randn(WIDTH, GRID, GRID), "var": torch.rand(WIDTH, GRID, GRID) + 0.2}),
    ):
        path.parent.mkdir(parents=True)
        torch.save(content, path)
    return root


def elsewhere(release: Path, **changes: Any) -> dict[str, Any]:
    stats = release / "stats" / "dinov2" / "wReg_base" / "imagenet1k" / "stat.pt"
    return {"encoder": str(release / "encoder"), "statistics": str(stats), "heads": 2} | changes


def decoder_of(release: Path) -> Path:
    return release / "decoders" / "dinov2" / "wReg_base" / "ViTXL_n08" / "model.pt"


# ---- the authors' formulas, written out --------------------------------------------------------------------


def expected_latent(release: Path, pixels: Tensor, stats: dict[str, Tensor]) -> Tensor:
    """Pixels in [0, 1] as RAE.encode has them."""
    transformers: Any = importlib.import_module("transformers")
    encoder = transformers.Dinov2WithRegistersModel.from_pretrained(release / "encoder").eval()
    torch.nn.init.ones_(encoder.layernorm.weight)
    torch.nn.init.zeros_(encoder.layernorm.bias)  # without affine
    x = F.interpolate(pixels, (14 * GRID, 14 * GRID), mode="bicubic", align_corners=False)
    mean, std = (torch.tensor(c).view(1, 3, 1, 1) for c in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    z = encoder((x - mean) / std).last_hidden_state[:, 5:]
    z = z.transpose(1, 2).reshape(len(x), WIDTH, GRID, GRID)
    return (z - stats["mean"]) / torch.sqrt(stats["var"] + 1e-5)


def expected_pixels(latent: Tensor, tensors: dict[str, Tensor], stats: dict[str, Tensor]) -> Tensor:
    """In [0, 1], as RAE.decode has them: two heads, norms of eps 1e-12, exact GELU."""

    def linear(x: Tensor, name: str) -> Tensor:
        return F.linear(x, tensors[f"{name}.weight"], tensors[f"{name}.bias"])

    def norm(x: Tensor, name: str) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], tensors[f"{name}.weight"], tensors[f"{name}.bias"], eps=1e-12)

    def attention(x: Tensor, name: str) -> Tensor:
        q, k, v = (
            linear(x, f"{name}.attention.{part}").unflatten(-1, (2, -1)).transpose(1, 2)
            for part in ("query", "key", "value")
        )
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return linear(mixed, f"{name}.output.dense")

    z = latent * torch.sqrt(stats["var"] + 1e-5) + stats["mean"]
    h = linear(z.flatten(2).transpose(1, 2), "decoder_embed")
    h = (
        torch.cat([tensors["trainable_cls_token"].expand(len(h), -1, -1), h], 1)
        + tensors["decoder_pos_embed"]
    )
    for i in range(2):
        layer = f"decoder_layers.{i}"
        h = h + attention(norm(h, f"{layer}.layernorm_before"), f"{layer}.attention")
        inner = F.gelu(linear(norm(h, f"{layer}.layernorm_after"), f"{layer}.intermediate.dense"))
        h = h + linear(inner, f"{layer}.output.dense")
    patches = linear(norm(h, "decoder_norm"), "decoder_pred")[:, 1:]
    image = patches.view(-1, GRID, GRID, PATCH, PATCH, 3).permute(0, 5, 1, 3, 2, 4)
    mean, std = (torch.tensor(c).view(1, 3, 1, 1) for c in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    return image.reshape(-1, 3, GRID * PATCH, GRID * PATCH) * std + mean


@torch.no_grad()
def test_latents_and_pixels_are_the_authors(release: Path):
    settings = elsewhere(release)
    model = autoencoders.load(decoder_of(release), family="rae", **settings)
    tensors, stats = (
        torch.load(path, weights_only=True) for path in (decoder_of(release), settings["statistics"])
    )
    pixels = torch.rand(2, 3, 48, 48)
    latent = expected_latent(release, pixels, stats)
    torch.testing.assert_close(model.latents(pixels * 2 - 1), latent, rtol=0, atol=2e-5)
    expected = expected_pixels(latent, tensors, stats) * 2 - 1
    torch.testing.assert_close(model.decode(latent), expected, rtol=0, atol=2e-5)
    assert latent.std() > 0.3 and expected.std() > 0.1
    assert model.spec.resolution == 48 and model.spec.name == "rae_dinov2"


def test_it_becomes_one_file_of_ours(release: Path, tmp_path: Path):
    model = autoencoders.load(decoder_of(release), **elsewhere(release, noise_tau=0.8))
    autoencoders.save(model, tmp_path / "rae.safetensors")
    again = autoencoders.load(tmp_path / "rae.safetensors")
    assert again.identity == model.identity
    assert isinstance(again, RepresentationAutoencoder) and isinstance(again.options, PublishedRAESpec)
    assert again.options.noise_tau == 0.8 and again.options.eps == 0


def test_in_the_release_s_folders_the_other_files_are_found(release: Path, monkeypatch: pytest.MonkeyPatch):
    from flowlab.autoencoders import rae_original

    monkeypatch.setitem(rae_original.ENCODERS, "dinov2/wReg_base", str(release / "encoder"))
    monkeypatch.setitem(rae_original.STATISTICS, GRID, ("ImageNet1k", "imagenet1k"))
    found = autoencoders.load(decoder_of(release), heads=2)
    assert found.identity == autoencoders.load(decoder_of(release), **elsewhere(release)).identity


def test_the_names_of_a_block_are_those_of_the_table():
    theirs = {name.split(".", 2)[2].rsplit(".", 1)[0] for name in their_decoder() if "layers.0." in name}
    assert set(ORIGINAL) < theirs


def test_a_decoder_of_the_release_tells_its_heads(release: Path, tmp_path: Path):
    sizes = DECODERS["B"]
    big = their_decoder(sizes.depth, sizes.width, sizes.mlp)
    torch.save(big, tmp_path / "model.pt")
    settings = elsewhere(release)
    del settings["heads"]
    model = autoencoders.load(tmp_path / "model.pt", **settings)
    assert isinstance(model.options, PublishedRAESpec) and model.options.decoder.heads == sizes.heads


@pytest.mark.parametrize(
    ("change", "settings", "message"),
    [
        ({"decoder_norm.bias": None}, {}, "lacks 1 tensors .*norm.bias"),
        ({"decoder_layers.1.attention.attention.key.weight": None}, {}, "lacks 1 tensors .*blocks.1.*qkv"),
        ({"trainable_cls_token": None}, {}, "lacks 1 tensors .*class_token"),
        ({"decoder_pos_embed": None}, {}, "lacks 'decoder_pos_embed'; a whole decoder"),
        ({"decoder_pos_embed": torch.zeros(1, 10, DECODER)}, {}, "is not MAE's table of sines"),
        ({"mask_token": torch.zeros(1, 1, DECODER)}, {}, "unknown to ViTDecoder: 'decoder.mask_token'"),
        ({"decoder_norm.bias": torch.full((DECODER,), float("nan"))}, {}, "'decoder_norm.bias' holds NaN"),
        ({"decoder_norm.bias": torch.zeros(5)}, {}, r"'norm.bias' is \(5,\)"),
        ({}, {"heads": None}, "width 32, 2 blocks and MLP 48 is none of B, L, XL; give heads="),
        ({}, {"encoder": None}, "does not lie in one of the release's folders .*; give encoder="),
        ({}, {"statistics": None}, "without the latent's statistics beside it; give statistics="),
        ({}, {"statistics": "nowhere.pt"}, "no statistics at nowhere.pt"),
        ({}, {"resolution": 256}, "unknown field of Elsewhere 'resolution'; choose from: encoder"),
        ({}, {"dtype": torch.bfloat16}, "takes no dtype=torch.bfloat16"),
        ({}, {"variant": "sdxl"}, "leave variant out"),
        ({}, {"family": "flux1"}, "this is an RAE autoencoder, not FLUX.1"),
    ],
)
def test_faults_are_named(
    change: dict[str, Any], settings: dict[str, Any], message: str, release: Path, tmp_path: Path
):
    tensors = torch.load(decoder_of(release), weights_only=True) | change
    torch.save(
        {name: tensor for name, tensor in tensors.items() if tensor is not None}, tmp_path / "model.pt"
    )
    with pytest.raises(ValueError, match=message) as problem:
        autoencoders.load(tmp_path / "model.pt", **elsewhere(release, **settings))
    assert "\n" not in str(problem.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"mean": torch.zeros(WIDTH, GRID, GRID)}, "lacks 'var'; RAE's stat.pt holds mean and var"),
        ({"mean": torch.zeros(WIDTH, 2, 2), "var": torch.ones(WIDTH, 2, 2)}, r"'mean' is \(64, 2, 2\)"),
        ({"mean": torch.zeros(WIDTH, GRID, GRID), "var": -torch.ones(WIDTH, GRID, GRID)}, "negative"),
    ],
)
def test_statistics_that_do_not_fit_are_named(
    content: dict[str, Tensor], message: str, release: Path, tmp_path: Path
):
    torch.save(content, tmp_path / "stat.pt")
    with pytest.raises(ValueError, match=message):
        autoencoders.load(decoder_of(release), **elsewhere(release, statistics=str(tmp_path / "stat.pt")))


def test_a_pickle_of_objects_is_never_run(release: Path, tmp_path: Path):
    torch.save({"mean": Path("x"), "var": torch.ones(3)}, tmp_path / "stat.pt")
    with pytest.raises(ValueError, match="cannot be read safely"):
        autoencoders.load(decoder_of(release), **elsewhere(release, statistics=str(tmp_path / "stat.pt")))
