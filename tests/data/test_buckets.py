"""Sizes of buckets, their assignment, the cover crop, and an order that never mixes groups nor drops any."""

from __future__ import annotations

import warnings
from collections import Counter

import pytest
import torch
from PIL import Image
from torch import Tensor

from flowlab.data.batch import Batch
from flowlab.data.buckets import assign, bucket_sizes, cover, grouped_batches, grouped_order, report


class Letters:
    """Example i belongs to group i mod 3; group 2 is rare."""

    identity = "letters"
    num_classes = 0
    resolution = 1

    def __init__(self, counts: tuple[int, ...]):
        self.groups = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))

    def __len__(self) -> int:
        return len(self.groups)

    def read(self, indices: Tensor, flip: Tensor | None = None) -> Batch:
        return Batch(index=indices)


def members(counts: tuple[int, ...]) -> list[Tensor]:
    data = Letters(counts)
    return [torch.nonzero(data.groups == group).flatten() for group in range(len(counts))]


# ---- sizes -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("max_pixels", "step", "max_aspect"), [(1 << 20, 64, 2.0), (4096, 16, 4.0), (1000, 16, 1.0)]
)
def test_buckets_fill_the_area_in_both_directions(max_pixels, step, max_aspect):
    sizes = bucket_sizes(max_pixels, step=step, max_aspect=max_aspect)
    assert len(set(sizes)) == len(sizes) > 0
    for height, width in sizes:
        assert height % step == width % step == 0 and height * width <= max_pixels
        assert max(height, width) <= max_aspect * min(height, width)
        for h, w in ((height + step, width), (height, width + step)):
            assert h * w > max_pixels or max(h, w) > max_aspect * min(h, w), "a larger one was possible"
    assert set(sizes) == {(width, height) for height, width in sizes}


def test_a_square_megapixel_is_a_bucket():
    assert (1024, 1024) in bucket_sizes(1024 * 1024)


@pytest.mark.parametrize(
    ("max_pixels", "step", "max_aspect"), [(100, 64, 2.0), (4096, 0, 2.0), (4096, 16, 0.5)]
)
def test_impossible_buckets_name_the_numbers(max_pixels, step, max_aspect):
    with pytest.raises(ValueError, match=f"max_pixels={max_pixels}, step={step}.*give at least"):
        bucket_sizes(max_pixels, step=step, max_aspect=max_aspect)


def test_assignment_is_by_log_aspect():
    buckets = [(128, 64), (64, 64), (64, 128)]
    # 1.4 is nearer to 1 than to 2 in ratio (1.40 < 1.43), and so is its inverse
    sizes = [(500, 500), (1000, 714), (700, 1000), (1000, 600), (30, 3000)]
    assert assign(sizes, buckets).tolist() == [1, 1, 2, 0, 2]


@pytest.mark.parametrize("shape", [(300, 200), (200, 300), (64, 32), (20, 10), (33, 65)])
def test_cover_fills_the_bucket_and_keeps_the_middle(shape):
    image = Image.new("RGB", shape, "red")
    image.paste("blue", (shape[0] // 4, shape[1] // 4, 3 * shape[0] // 4, 3 * shape[1] // 4))
    got = cover(image, (32, 64))
    assert got.size == (64, 32)
    red, green, blue = (channel.tobytes()[16 * 64 + 32] for channel in got.split())
    assert green == 0 and blue > 240 > 15 > red


def test_cover_keeps_the_aspect():
    """A circle stays one: as wide as high after the crop."""
    image = Image.new("L", (200, 100))
    image.paste(255, (80, 30, 120, 70))
    white = torch.tensor(list(cover(image, (64, 64)).get_flattened_data())).view(64, 64) > 127
    assert int(white.any(0).sum()) == int(white.any(1).sum()) == 26


def test_empty_and_small_buckets_are_reported_by_name_and_count():
    with pytest.warns(UserWarning) as seen:
        report([0, 3, 8], ["64x128", "64x64", "128x64"], 8)
    assert "1 of 3 groups are empty: 64x128" in str(seen[0].message)
    assert "less than a batch of 8" in str(seen[1].message) and "64x64 (3)" in str(seen[1].message)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        report([8, 9], ["a", "b"], 8)


# ---- order -------------------------------------------------------------------------------------------------

COUNTS = ((13, 7, 2), (5,), (1, 1, 1), (32, 8))


@pytest.mark.parametrize("counts", COUNTS)
def test_batches_are_of_one_group_and_resume_at_any(counts):
    data = Letters(counts)
    stream = grouped_batches(data, batch_size=4, seed=3)
    run = [next(stream) for _ in range(40)]
    assert [seen for _, seen in run] == list(range(4, 164, 4))
    for batch, _ in run:
        assert data.groups[batch.index].unique().numel() == 1
    for start in (1, 7, 23):
        again = grouped_batches(data, batch_size=4, seed=3, images_seen=4 * start)
        for batch, seen in run[start : start + 5]:
            got, got_seen = next(again)
            assert torch.equal(got.index, batch.index) and got_seen == seen


@pytest.mark.parametrize("counts", COUNTS)
def test_every_example_is_seen_once_per_pass_and_none_is_dropped(counts):
    """After k x lcm-like many images, counts agree to one within a group; groups keep their share to a
    batch."""
    size, epochs = 4, 4 * 5
    total = sum(epochs * count // size for count in counts)
    shown = Counter()
    for number in range(total):
        shown.update(grouped_order(members(counts), size, 0, number).tolist())
    for group in members(counts):
        times = [shown[index] for index in group.tolist()]
        assert max(times) - min(times) <= 1
        assert epochs - size < sum(times) / len(times) <= epochs
        assert sum(times) == epochs * len(group) // size * size, "a whole number of its batches"
    assert sum(shown.values()) == total * size


def test_passes_differ_and_seeds_differ():
    first, second = ([grouped_order(members((8,)), 4, seed, n).tolist() for n in range(4)] for seed in (0, 1))
    assert sorted(first[0] + first[1]) == sorted(first[2] + first[3]) == list(range(8))
    assert first[:2] != first[2:] and first != second


def test_a_broken_position_is_refused():
    with pytest.raises(ValueError, match=r"images_seen=3; grouped batches resume at whole batches only"):
        next(grouped_batches(Letters((4,)), batch_size=2, seed=0, images_seen=3))
