"""The loader: a permutation per epoch, exact resume for any batch size, a thread that ends cleanly."""

from __future__ import annotations

import gc
import itertools
import threading
import time

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flowlab.data.batch import Batch
from flowlab.data.loader import batches, order, read_ahead


class Numbers:
    """A dataset whose images are their own index; reading `bad` fails."""

    num_classes, resolution = 0, 1

    def __init__(self, num: int, bad: int | None = None):
        self.num, self.bad, self.identity = num, bad, f"numbers {num}"

    def __len__(self) -> int:
        return self.num

    def read(self, indices: torch.Tensor, flip: torch.Tensor | None = None) -> Batch:
        if self.bad is not None and (indices == self.bad).any():
            raise ValueError(f"image {self.bad} is broken")
        return Batch(index=indices, flip=flip)


def taken(num: int, batch_size: int, images_seen: int, total: int, **options) -> tuple[list[int], list[bool]]:
    """(indices, flips) of the next `total` samples."""
    indices, flips = [], []
    stream = batches(
        Numbers(num), batch_size=batch_size, seed=3, images_seen=images_seen, flip=True, **options
    )
    for batch, seen in stream:
        indices += batch.index.tolist()
        assert batch.flip is not None
        flips += batch.flip.tolist()
        assert seen == images_seen + len(indices)
        if len(indices) >= total:
            return indices[:total], flips[:total]
    raise AssertionError("the stream ended")


def threads() -> int:
    return sum(thread.name == "read_ahead" for thread in threading.enumerate())


@given(st.integers(1, 300), st.integers(0, 2**31), st.integers(0, 50))
def test_every_epoch_is_a_permutation(num, seed, epoch):
    found = order(num, seed, torch.arange(epoch * num, (epoch + 1) * num))
    assert found.sort().values.tolist() == list(range(num))


def test_epochs_and_seeds_differ_and_mix_well():
    num = 2000
    first, second = order(num, 0, torch.arange(num)), order(num, 0, torch.arange(num, 2 * num))
    other = order(num, 1, torch.arange(num))
    for a, b in itertools.combinations([torch.arange(num), first, second, other], 2):
        assert (a == b).sum() < 10  # a random pair agrees at one place on average
        assert abs(torch.corrcoef(torch.stack([a, b]).double())[0, 1]) < 0.1
    neighbours = (first[1:] - first[:-1]).abs()
    assert (neighbours == 1).sum() < 12  # two on average


def test_position_of_an_image_is_uniform_over_epochs():
    num, epochs = 10, 4000
    places = (
        order(num, 0, torch.arange(num * epochs)).view(epochs, num).argsort(1)
    )  # (epochs, image) => place
    counts = torch.stack([places[:, image].bincount(minlength=num) for image in range(num)]).double()
    chi2 = ((counts - epochs / num) ** 2 / (epochs / num)).sum(1)
    assert chi2.max() < 33  # 9 degrees of freedom, p = 1e-4


@settings(max_examples=60, deadline=None)
@given(
    num=st.integers(1, 60),
    sizes=st.tuples(st.integers(1, 70), st.integers(1, 70)),
    start=st.integers(0, 200),
    flip_total=st.integers(1, 150),
)
def test_resume_equals_the_uninterrupted_run_for_any_batch_size(num, sizes, start, flip_total):
    whole = taken(num, sizes[0], 0, start + flip_total)
    resumed = taken(num, sizes[1], start, flip_total)
    assert whole[0][start:] == resumed[0] and whole[1][start:] == resumed[1]


def test_batch_crosses_the_epoch():
    indices, _ = taken(5, 4, 0, 20)
    assert all(sorted(indices[i : i + 5]) == list(range(5)) for i in range(0, 20, 5))


def test_flips_are_half_and_differ_between_epochs():
    _, flips = taken(1000, 100, 0, 2000)
    assert abs(sum(flips) / 2000 - 0.5) < 0.05 and flips[:1000] != flips[1000:]
    batch, _ = next(batches(Numbers(5), batch_size=2, seed=0))
    assert batch.flip is None


def test_read_ahead_gives_the_same_and_ends_its_thread():
    assert taken(7, 3, 5, 60, prefetch=4) == taken(7, 3, 5, 60)
    gc.collect()
    assert threads() == 0


def test_read_ahead_stays_within_its_depth():
    produced = []

    def count():
        for i in itertools.count():
            produced.append(i)
            yield i

    stream = read_ahead(count(), 3)
    assert next(stream) == 0
    time.sleep(0.2)
    assert len(produced) <= 5  # one given out, three queued, one in hand
    stream.close()
    assert threads() == 0


def test_read_ahead_ends_with_its_source():
    assert list(read_ahead(iter(range(10)), 2)) == list(range(10)) and threads() == 0


def test_read_ahead_raises_what_the_thread_raised_after_the_good_items():
    good = []
    with pytest.raises(ValueError, match="image 4 is broken"):
        for batch, _ in batches(Numbers(5, bad=4), batch_size=1, seed=0, prefetch=3):
            good.append(int(batch.index))
    assert (
        good == order(5, 0, torch.arange(5)).tolist()[: len(good)] and len(set(good) | {4}) == len(good) + 1
    )
    assert threads() == 0


@pytest.mark.parametrize(
    "wrong", [{"batch_size": 0}, {"batch_size": 1, "images_seen": -1}, {"batch_size": 1, "prefetch": -1}]
)
def test_bad_settings_fail_before_the_first_batch(wrong):
    with pytest.raises(ValueError, match="batch_size="):
        batches(Numbers(3), seed=0, **wrong)


def test_empty_dataset_is_refused():
    with pytest.raises(ValueError, match="holds no images"):
        batches(Numbers(0), batch_size=1, seed=0)
