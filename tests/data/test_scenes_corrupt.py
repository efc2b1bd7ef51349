"""Corruptions: keyed per image, none at strength 0, and as strong as they say."""

from __future__ import annotations

import pytest
import torch

from flowlab.core.seeds import Streams
from flowlab.data.scenes import render, sample
from flowlab.data.scenes_corrupt import CORRUPTIONS, corrupted, mixed

ROWS = torch.arange(12)
IMAGES = render(sample(ROWS, split="train"), 64)


def streams(rows: torch.Tensor = ROWS) -> Streams:
    return Streams.for_samples(0, rows, purpose="test")


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_strength_zero_changes_nothing_and_one_does(name):
    still, moved = (corrupted(IMAGES, name, streams(), strength).int() for strength in (0.0, 1.0))
    assert (still - IMAGES.int()).abs().max() <= 1
    change = (moved - IMAGES.int()).float()
    assert 0.3 < change.abs().mean() < 8 and change.mean().abs() < 1


@pytest.mark.parametrize("name", [*CORRUPTIONS, "mixed"])
def test_an_image_is_spoiled_alike_in_any_batch(name):
    def spoiled(rows: torch.Tensor) -> torch.Tensor:
        images = IMAGES[rows]
        return mixed(images, streams(rows)) if name == "mixed" else corrupted(images, name, streams(rows))

    some = torch.tensor([7, 2])
    assert (spoiled(ROWS)[some].int() - spoiled(some).int()).abs().max() <= 1


def test_noise_has_its_deviation_and_blur_its_width():
    grey = torch.full((64, 3, 64, 64), 128, dtype=torch.uint8)
    rows = torch.arange(64)
    assert corrupted(grey, "noise", streams(rows)).float().std() == pytest.approx(6, rel=0.02)
    line = torch.zeros(1, 3, 64, 64, dtype=torch.uint8)
    line[..., 32] = 255
    profile = corrupted(line, "blur", streams(rows[:1]))[0, 0, 10].float()
    offset = torch.arange(64) - 32
    assert ((profile * offset.square()).sum() / profile.sum()).sqrt() == pytest.approx(1.2, rel=0.03)


def test_mixed_leaves_some_alone_and_spoils_others():
    rows = torch.arange(200)
    images = render(sample(rows, split="train"), 32)
    change = (mixed(images, streams(rows)).int() - images.int()).abs().amax((1, 2, 3))
    assert (change <= 2).float().mean() < 0.15 and (change > 10).float().mean() > 0.7
