"""Representation alignment."""

import pytest
import torch

from flowlab.flow.alignment import Projector, alignment_loss, match_tokens


def test_is_minus_one_for_parallel_and_one_for_opposite_tokens() -> None:
    teacher = torch.randn(3, 16, 8)
    torch.testing.assert_close(alignment_loss(2.5 * teacher, teacher), -torch.ones(3))
    torch.testing.assert_close(alignment_loss(-teacher, teacher), torch.ones(3))


def test_is_the_mean_cosine_of_each_example() -> None:
    a, b = torch.randn(2, 3, 4, 8, dtype=torch.float64)
    cosines = (a * b).sum(-1) / (a.norm(dim=-1) * b.norm(dim=-1))
    torch.testing.assert_close(alignment_loss(a, b).double(), -cosines.mean(1), rtol=1e-5, atol=1e-6)


def test_unequal_token_counts_are_resampled() -> None:
    """A linear ramp survives up- and downsampling away from the border; a constant survives everywhere."""
    constant = torch.randn(2, 1, 8).expand(2, 64, 8)
    torch.testing.assert_close(match_tokens(constant, 16), constant[:, :16])
    row = torch.arange(8.0).repeat_interleave(8)
    ramp = torch.stack([row, 1 - row], dim=-1)[None]  # (1, 64, 2), row-major
    half = match_tokens(ramp, 16)[0, :, 0].view(4, 4)
    torch.testing.assert_close(half[1:3], torch.tensor([2.5, 4.5])[:, None].expand(2, 4))
    torch.testing.assert_close(half[:, 0], half[:, 3])
    assert alignment_loss(torch.randn(1, 16, 2), ramp).shape == (1,)


def test_equal_counts_are_untouched() -> None:
    tokens = torch.randn(2, 5, 3)
    assert match_tokens(tokens, 5) is tokens


def test_projector_learns_the_teacher() -> None:
    torch.manual_seed(0)
    student, teacher = torch.randn(8, 4, 6), torch.randn(8, 4, 5)
    projector = Projector(6, 32, 5)
    optimiser = torch.optim.Adam(projector.parameters(), lr=1e-2)
    before = alignment_loss(projector(student), teacher).mean()
    for _ in range(50):
        optimiser.zero_grad()
        loss = alignment_loss(projector(student), teacher).mean()
        loss.backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in projector.parameters())
        optimiser.step()
    assert loss < before - 0.5


def test_projector_has_the_published_size() -> None:
    """1152-2048-2048-768: 8,131,328 parameters."""
    with torch.device("meta"):
        assert sum(p.numel() for p in Projector(1152, 2048, 768).parameters()) == 8_131_328


def test_bad_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="5 wide and the teacher's 6"):
        alignment_loss(torch.zeros(1, 4, 5), torch.zeros(1, 4, 6))
    with pytest.raises(ValueError, match="cannot resample 15"):
        match_tokens(torch.zeros(1, 15, 2), 16)
