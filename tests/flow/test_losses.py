"""The flow-matching loss."""

import torch

from flowlab.flow.losses import flow_loss


def test_is_the_mean_square_of_each_example() -> None:
    prediction, wanted = torch.randn(2, 3, 4, 2, 2)
    loss = flow_loss(prediction, wanted)
    assert loss.shape == (3,)
    for i in range(3):
        torch.testing.assert_close(loss[i], torch.nn.functional.mse_loss(prediction[i], wanted[i]))


def test_half_precision_is_compared_in_float32() -> None:
    wanted = torch.full((1, 1000), 100.0, dtype=torch.bfloat16)
    loss = flow_loss(wanted + 1, wanted)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, torch.ones(1))


def test_gradient_is_finite() -> None:
    prediction = torch.randn(2, 8, requires_grad=True)
    flow_loss(prediction, torch.randn(2, 8)).mean().backward()
    assert prediction.grad is not None
    assert prediction.grad.isfinite().all()


def test_channel_weights_weigh_channels_and_keep_the_minimiser() -> None:
    prediction, wanted = torch.randn(2, 3, 4, 2, 2)
    weights = torch.tensor([0.5, 0.0, 1.0, 2.5])
    by_hand = sum(w * (prediction - wanted)[:, c].square().mean((1, 2)) for c, w in enumerate(weights)) / 4
    torch.testing.assert_close(flow_loss(prediction, wanted, weights), by_hand)
    draws = torch.randn(50, 4, 1, 1) + torch.arange(4.0)[:, None, None]  # of the target at one x_t
    mean = draws.mean(0, keepdim=True).requires_grad_()
    flow_loss(mean.expand_as(draws), draws, weights).mean().backward()
    assert mean.grad is not None
    torch.testing.assert_close(mean.grad, torch.zeros_like(mean))
