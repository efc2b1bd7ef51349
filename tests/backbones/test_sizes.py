"""The size table."""

import pytest
import torch

from flowlab.backbones.sizes import SIZES, build

PARAMETERS = {
    "tiny": 678_448,
    "mini": 4_406_800,
    "S": 32_957_200,
    "B": 130_500_112,
    "L": 458_086_416,
    "XL": 675_111_184,
}


@pytest.mark.parametrize("size", PARAMETERS)
def test_parameter_counts_are_the_published_ones(size: str) -> None:
    """4 latent channels, patch 2, position table included, no learned sigma."""
    with torch.device("meta"):
        model = build(size, channels=4, grid=32, num_classes=1000, patch=2)
    assert sum(p.numel() for p in model.parameters()) == PARAMETERS[size]


@pytest.mark.parametrize("size", SIZES)
def test_every_size_is_built_and_stepped(size: str) -> None:
    small = {"depth": 1} if size in ("S", "B", "L", "XL") else {}  # the large ones with one block
    model = build(size, channels=4, grid=2, num_classes=3, **small)
    out = model(torch.randn(2, 4, 2, 2), torch.rand(2), torch.tensor([0, 3]))
    out.velocity.square().sum().backward()
    assert out.velocity.shape == (2, 4, 2, 2)


def test_options_override_the_table() -> None:
    model = build("tiny", channels=4, grid=4, num_classes=3, width=128, heads=8, rope=True)
    assert (model.spec.width, model.spec.depth, model.spec.heads, model.spec.rope) == (128, 3, 8, True)


def test_unknown_names_list_the_known_ones() -> None:
    with pytest.raises(ValueError, match="unknown backbone size 'XXL'; choose from: tiny, mini, S, B, L, XL"):
        build("XXL", channels=4, grid=4, num_classes=3)
    with pytest.raises(ValueError, match="unknown backbone option 'ropes'; choose from: .*rope"):
        build("tiny", channels=4, grid=4, num_classes=3, ropes=True)
