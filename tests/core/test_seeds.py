"""Streams: known vectors, independence of batching, distributions."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from flowlab.core.seeds import Streams, mix


def test_mix_is_splitmix64():
    """The published first output of SplitMix64 seeded with 1234567."""
    golden = torch.tensor(0x9E3779B97F4A7C15 - (1 << 64))
    assert int(mix(torch.tensor(1234567) + golden)) == 6457827717110365317


@given(st.integers(0, 2**31), st.integers(1, 40), st.integers(1, 7))
@settings(max_examples=30, deadline=None)
def test_an_image_draws_the_same_in_any_batch(seed, size, part):
    indices = torch.arange(size) * 17
    whole = Streams.for_samples(seed, indices, purpose="noise").normal(3, 2)
    parts = [Streams.for_samples(seed, some, purpose="noise").normal(3, 2) for some in indices.split(part)]
    assert torch.equal(whole, torch.cat(parts))


@pytest.mark.parametrize("change", [{"seed": 1}, {"step": 1}, {"purpose": "time"}])
def test_every_word_of_the_address_matters(change):
    address = {"seed": 0, "step": 0, "purpose": "noise"} | change
    base = Streams.for_samples(0, torch.arange(64), purpose="noise").normal(64)
    other = Streams.for_samples(
        address["seed"], torch.arange(64), step=address["step"], purpose=address["purpose"]
    )
    correlation = torch.corrcoef(torch.stack([base.flatten(), other.normal(64).flatten()]))[0, 1]
    assert abs(float(correlation)) < 0.06, "4096 pairs: five standard errors are 0.08"


def test_draws_follow_each_other():
    streams = Streams.for_samples(0, torch.arange(4), purpose="noise")
    first, second = streams.uniform(5), streams.uniform(5)
    assert not torch.equal(first, second)
    again = Streams.for_samples(0, torch.arange(4), purpose="noise")
    assert torch.equal(torch.cat([again.uniform(5), again.uniform(5)]), torch.cat([first, second]))


@pytest.mark.parametrize("along", ["samples", "draws"])
def test_normal_and_uniform_pass_kolmogorov_smirnov(along):
    shape = (20_000, 1) if along == "samples" else (1, 20_000)
    streams = Streams.for_samples(3, torch.arange(shape[0]), purpose="test")
    assert stats.kstest(streams.normal(shape[1]).flatten().numpy(), "norm").pvalue > 1e-3
    assert (
        stats.kstest(streams.uniform(shape[1], dtype=torch.float64).flatten().numpy(), "uniform").pvalue
        > 1e-3
    )


def test_uniform_is_open_and_integers_cover_their_range():
    streams = Streams.for_samples(0, torch.arange(1000), purpose="test")
    for dtype in (torch.float32, torch.float64):
        u = streams.uniform(200, dtype=dtype)
        assert u.dtype == dtype and float(u.min()) > 0 and float(u.max()) < 1
    counts = torch.bincount(streams.integers(10, 20).flatten(), minlength=10)
    assert stats.chisquare(counts.numpy()).pvalue > 1e-3


def test_odd_counts_and_slices():
    streams = Streams.for_samples(0, torch.arange(6), purpose="noise")
    assert streams.normal(3, 3).shape == (6, 3, 3)
    whole = Streams.for_samples(0, torch.arange(6), purpose="noise").normal(4)
    part = Streams.for_samples(0, torch.arange(6), purpose="noise")[2:4].normal(4)
    assert torch.equal(whole[2:4], part) and len(streams[2:4]) == 2
