"""Batch: slicing, moving, one pass in order, index checks."""

from __future__ import annotations

import pytest
import torch

from flowlab.data.batch import Batch, Window, checked, in_order
from flowlab.data.embedded import digits


def full_batch() -> Batch:
    return Batch(
        index=torch.arange(4),
        pixels=torch.zeros(4, 3, 2, 2, dtype=torch.uint8),
        moments=(torch.arange(4.0)[:, None], None),
        text=("a", "b", "c", "d"),
        windows=tuple(Window(i, 0, 2) for i in range(4)),
        references=tuple((torch.full((1, 2, 2), i),) * i for i in range(4)),
        flip=torch.tensor([True, False, True, False]),
    )


def test_slice_cuts_every_field():
    part = full_batch()[1:3]
    assert len(part) == 2 and part.text == ("b", "c") and part.label is None
    assert part.windows == (Window(1, 0, 2), Window(2, 0, 2))
    assert part.references is not None and [len(row) for row in part.references] == [1, 2]
    assert part.index.tolist() == [1, 2] and part.flip is not None and part.flip.tolist() == [False, True]
    assert (
        part.moments is not None and part.moments[1] is None and part.moments[0].flatten().tolist() == [1, 2]
    )


def test_to_moves_every_tensor_and_keeps_text():
    moved = full_batch().to("meta")
    assert moved.index.device.type == "meta" and moved.text == ("a", "b", "c", "d")
    assert moved.windows is not None and moved.windows == full_batch().windows
    assert all(isinstance(window, Window) for window in moved.windows)
    assert moved.references is not None and moved.references[3][2].device.type == "meta"
    assert moved.moments is not None and moved.moments[0].device.type == "meta" and moved.moments[1] is None


def test_in_order_reads_each_image_once():
    batches = list(in_order(digits("train", num_images=10), batch_size=4, start=1))
    assert [batch.index.tolist() for batch in batches] == [[1, 2, 3, 4], [5, 6, 7, 8], [9]]


@pytest.mark.parametrize(
    "wrong", [{"batch_size": 0}, {"batch_size": 2, "stop": 11}, {"batch_size": 2, "start": -1}]
)
def test_in_order_refuses(wrong):
    with pytest.raises(ValueError, match=r"batch_size is 0|stay within"):
        list(in_order(digits("train", num_images=10), **wrong))


def test_index_outside_is_named():
    with pytest.raises(ValueError, match=r"index 7 .* use 0\.\.6"):
        checked(torch.tensor([0, 7]), 7)
