"""Pieces of pictures: against a flood fill, and as the objects that were drawn."""

from __future__ import annotations

import torch

from flowlab.data.scenes import Scene, SceneObject, render
from flowlab.features.scene_pieces import components, pieces


def test_components_equal_scipy():
    from scipy.ndimage import label

    masks = torch.rand(6, 40, 40, generator=torch.Generator().manual_seed(0)) < 0.4
    masks[5] = False
    found = components(masks)
    for mask, labels in zip(masks, found, strict=True):
        expected, num = label(mask.numpy(), structure=[[1] * 3] * 3)
        expected = torch.from_numpy(expected)
        assert len(labels.unique()) - (labels == 0).any().int() == num
        for piece in range(1, num + 1):
            assert len(labels[expected == piece].unique()) == 1
    assert torch.equal(found > 0, masks)
    one, other = (set(labels.unique().tolist()) - {0} for labels in found[:2])
    assert not one & other, "numbers are unique over the batch"


def test_pieces_are_the_objects_and_their_boxes():
    star = SceneObject(shape="star", colour="#F5D90A", x=0.3, y=0.4, size=0.2)
    disc = SceneObject(shape="circle", colour="#2456DB", x=0.75, y=0.7, size=0.15)
    scene = Scene(objects=(star, disc), background="#E9EAE6")
    empty = torch.full((1, 3, 64, 64), 90, dtype=torch.uint8)
    found = pieces(torch.cat([render([scene], 64), empty]))
    assert found.image.tolist() == [0, 0] and found.background[0].tolist() == [0xE9, 0xEA, 0xE6]
    place = found.centre[found.centre[:, 0].argsort()] / 64
    assert (place - torch.tensor([[0.3, 0.4], [0.75, 0.7]])).abs().max() < 0.025
