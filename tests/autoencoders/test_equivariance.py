"""Transforms act alike on latents and images, and draws follow the published mixture."""

from __future__ import annotations

import pytest
import torch

from flowlab.autoencoders.equivariance import (
    IDENTITY,
    Transform,
    admissible_sides,
    draw_plan,
    draw_reduction,
)
from flowlab.core.seeds import Streams


def stream(step: int) -> Streams:
    return Streams.for_samples(0, torch.tensor([0]), step=step, purpose="equivariance")


def test_the_identity_gives_the_very_tensor():
    x = torch.randn(2, 3, 8, 8)
    assert IDENTITY(x) is x


def test_halving_is_the_mean_of_two_by_two_and_a_turn_moves_the_corner():
    x = torch.arange(16.0).view(1, 1, 4, 4)
    halved = Transform(side=2, whole=4)(x)
    torch.testing.assert_close(halved, torch.tensor([[[[2.5, 4.5], [10.5, 12.5]]]]))
    turned = Transform(side=2, whole=4, turns=1)(x)  # anticlockwise: the right column becomes the top row
    torch.testing.assert_close(turned, torch.tensor([[[[4.5, 12.5], [2.5, 10.5]]]]))


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_turns_commute_with_a_decoder_that_works_pixel_by_pixel(turns):
    """The identity that the loss asks of a real decoder, here exact: nearest-neighbour enlargement."""
    z, transform = torch.randn(2, 3, 4, 4), Transform(turns=turns)
    decoded = torch.nn.functional.interpolate(z, scale_factor=8)
    torch.testing.assert_close(
        torch.nn.functional.interpolate(transform(z), scale_factor=8), transform(decoded)
    )


def test_latent_and_image_keep_their_ratio():
    transform = Transform(side=6, whole=8, turns=3)
    assert transform(torch.randn(1, 4, 8, 8)).shape == (1, 4, 6, 6)
    assert transform(torch.randn(1, 3, 32, 32)).shape == (1, 3, 24, 24)


def test_published_sides_and_ours():
    assert admissible_sides(32, 1) == list(range(8, 32)), "EQ-VAE: s / 32 with s from 8 to 31"
    assert admissible_sides(8, 2) == [2, 4, 6]
    with pytest.raises(ValueError, match="side 2 has no smaller side in steps of 2"):
        admissible_sides(2, 2)


def test_draws_cover_every_side_and_turn_in_the_published_shares():
    sides, num = admissible_sides(32, 1), 3000
    plans = [draw_plan(stream(step), sides, 32, 0.5, 0.25) for step in range(num)]
    moved = [plan.between for plan in plans if plan.between != IDENTITY]
    smaller = [plan.before for plan in plans if plan.before != IDENTITY]
    assert len(moved) / num == pytest.approx(0.5, abs=0.04)
    assert len(smaller) / num == pytest.approx(0.125, abs=0.03)
    assert {transform.side for transform in moved} == set(sides) == {t.side for t in smaller}
    assert {transform.turns for transform in moved} == {1, 2, 3}
    assert all(transform.turns == 0 for transform in smaller)
    assert not any(plan.before != IDENTITY != plan.between for plan in plans), "one or the other"


def test_reductions_are_half_and_quarter_where_the_latent_allows():
    drawn = {draw_reduction(stream(step), admissible_sides(32, 1), 32).side for step in range(40)}
    assert drawn == {16, 8}
    assert {draw_reduction(stream(step), [2], 4).side for step in range(10)} == {2}
    with pytest.raises(ValueError, match="side 6 can be neither halved nor quartered"):
        draw_reduction(stream(0), [4], 6)
