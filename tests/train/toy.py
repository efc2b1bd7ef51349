"""A recipe of two numbers and a dataset of ramps, so that the loop can be tested by itself."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from flowlab.data.batch import Batch
from flowlab.train import optim
from flowlab.train.ema import Ema
from flowlab.train.optim import OptimiserConfig
from flowlab.train.state import Objective, Randomness, Recipe, Trainable, TrainState


class Ramps:
    """Image i is constant i mod 7."""

    identity = "ramps"
    num_classes = 7
    resolution = 2

    def __len__(self) -> int:
        return 50

    def read(self, indices: Tensor, flip: Tensor | None = None) -> Batch:
        pixels = (indices % 7).view(-1, 1, 1, 1).expand(-1, 3, 2, 2).to(torch.uint8)
        return Batch(index=indices, pixels=pixels, label=indices % 7, flip=flip)


class Net(nn.Module):
    """A linear map behind a batch-independent buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(12, 4)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1  # pyright: ignore
        return self.linear(x)


def recipe(*, poison_at: int = 0, batch_level: bool = False) -> Recipe:
    """Predict noise from pixels; `poison_at` makes the loss infinite from that step."""

    def setup(config: OptimiserConfig, dataset: Ramps) -> TrainState:
        torch.manual_seed(0)
        net = Net()
        trainable = Trainable(optim.build(net.parameters(), config), config)
        return TrainState(
            modules={"net": net},
            optimisers={"main": trainable},
            emas={"net": Ema(net, 0.9)},
            device=torch.device("cpu"),
        )

    def objectives(state: TrainState, batch: Batch, randomness: Randomness) -> Iterator[Objective]:
        assert batch.pixels is not None
        x = batch.pixels.float().flatten(1) + 0.1 * randomness("noise").normal(12)
        loss = (state.modules["net"](x) - randomness("target").normal(4)).pow(2).mean(1)
        if poison_at and state.step + 1 >= poison_at:
            loss = loss * float("inf")
        yield Objective(
            "main", loss.mean() if batch_level else loss, {"mean": x.detach().mean()}, batch_level
        )

    def export(state: TrainState, folder: Path) -> Path:
        return folder

    return Recipe(
        validate=lambda config: None,
        dataset=lambda config: Ramps(),
        setup=setup,
        objectives=objectives,
        preview=lambda state: {},
        export=export,
    )
