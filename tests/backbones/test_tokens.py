"""Latents to tokens and back."""

import pytest
import torch

from flowlab.backbones.tokens import grid_positions, patchify, unpatchify


@pytest.mark.parametrize("patch", [1, 2, 4])
def test_unpatchify_inverts_patchify(patch: int) -> None:
    x = torch.randn(2, 3, 8, 4 * patch)
    tokens = patchify(x, patch)
    assert tokens.shape == (2, 8 // patch * 4, 3 * patch**2)
    assert torch.equal(unpatchify(tokens, 8 // patch, 4, patch), x)


def test_channels_come_as_c_row_column_and_tokens_row_major() -> None:
    x = torch.arange(2 * 4 * 6).view(1, 2, 4, 6)
    tokens = patchify(x, 2)
    assert tokens[0, 0].tolist() == [0, 1, 6, 7, 24, 25, 30, 31]
    assert tokens[0, 1, 0] == 2  # the next token is one patch to the right
    assert tokens[0, 3, 0] == 12  # three tokens on, the next row


def test_positions_are_row_major() -> None:
    assert grid_positions(2, 3).tolist() == [[0, 0], [0, 1], [0, 2], [1, 0], [1, 1], [1, 2]]
