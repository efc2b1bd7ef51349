"""The return value of backbones."""

import dataclasses

import pytest
import torch

from flowlab.backbones import Output


def test_is_frozen_and_starts_without_hidden_states() -> None:
    output = Output(torch.zeros(1))
    assert output.hidden == {}
    with pytest.raises(dataclasses.FrozenInstanceError):
        output.velocity = torch.ones(1)  # pyright: ignore
