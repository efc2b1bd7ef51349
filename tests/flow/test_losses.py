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
