"""The loop: accumulation, resume to the bit, non-finite losses, EMA with buffers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.train.toy import Ramps, recipe

from flowlab.core import checkpoints
from flowlab.core.config import config_id
from flowlab.core.files import write_json
from flowlab.train.ema import Ema
from flowlab.train.loop import LoopConfig, train
from flowlab.train.optim import OPTIMISERS, SCHEDULES, OptimiserConfig, build, rate_factor
from flowlab.train.state import TrainState

ADAMW = OptimiserConfig(learning_rate=0.05, weight_decay=0.01, schedule="cosine", warmup_images=20)
LOOP = LoopConfig(batch_size=12, num_steps=9, save_steps=(4,), check_every=3)


def finished(
    loop: LoopConfig, folder: Path, optimiser: OptimiserConfig = ADAMW, until: int | None = None
) -> TrainState:
    kind = recipe()
    state = kind.setup(optimiser, Ramps())
    for _ in train(kind, state, Ramps(), loop, folder, until):
        pass
    return state


def weights(state: TrainState) -> list[torch.Tensor]:
    both = [*state.modules["net"].state_dict().values(), *state.emas["net"].module.state_dict().values()]
    return [tensor.clone() for tensor in both]


@pytest.mark.parametrize("name", OPTIMISERS)
def test_resume_continues_to_the_bit(tmp_path, name):
    optimiser = replace(ADAMW, name=name)
    whole = finished(LOOP, tmp_path / "whole", optimiser)
    finished(LOOP, tmp_path / "parts", optimiser, until=4)
    resumed = finished(LOOP, tmp_path / "parts", optimiser)
    assert resumed.step == whole.step == 9 and resumed.images_seen == 108
    assert all(torch.equal(a, b) for a, b in zip(weights(whole), weights(resumed), strict=True))


@pytest.mark.parametrize("micro", [1, 3, 6])
def test_accumulation_equals_one_big_batch(tmp_path, micro):
    whole = finished(LOOP, tmp_path / "whole")
    parts = finished(replace(LOOP, micro_batch_size=micro), tmp_path / "parts")
    for a, b in zip(whole.modules["net"].parameters(), parts.modules["net"].parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_a_loss_that_mixes_examples_refuses_accumulation(tmp_path):
    kind = recipe(batch_level=True)
    loop = replace(LOOP, micro_batch_size=3)
    with pytest.raises(ValueError, match="mixes the examples of a batch; set micro_batch_size to 0"):
        next(train(kind, kind.setup(ADAMW, Ramps()), Ramps(), loop, tmp_path))


def test_a_non_finite_loss_stops_with_its_step_and_is_never_saved(tmp_path):
    kind = recipe(poison_at=5)
    state = kind.setup(ADAMW, Ramps())
    with pytest.raises(ValueError, match="'main' stopped being finite at step 5"):
        for _ in train(kind, state, Ramps(), replace(LOOP, check_every=100), tmp_path):
            pass
    newest = checkpoints.latest(tmp_path)
    assert newest is not None and checkpoints.step_of(newest) == 4
    assert all(tensor.isfinite().all() for tensor in weights(state)), (
        "the masked update must leave weights finite"
    )


def test_records_come_after_the_update(tmp_path):
    kind = recipe()
    state = kind.setup(ADAMW, Ramps())
    records = list(train(kind, state, Ramps(), LOOP, tmp_path))
    assert [record.step for record in records] == list(range(1, 10))
    assert [record.step for record in records if record.saved] == [4, 9]
    assert set(records[0].scalars) == {"loss/main", "mean", "gradient_norm/main"}


def test_checkpoints_in_turn_resume_and_change_no_result(tmp_path):
    loop = replace(LOOP, save_every=3, keep=2)
    often = finished(loop, tmp_path / "often")
    assert [path.name for path in checkpoints.all_checkpoints(tmp_path / "often")] == [
        "step_00000006",
        "step_00000009",
    ]
    plain = finished(LOOP, tmp_path / "plain")
    assert all(torch.equal(a, b) for a, b in zip(weights(often), weights(plain), strict=True))
    kind = recipe()
    records = list(train(kind, kind.setup(ADAMW, Ramps()), Ramps(), loop, tmp_path / "again"))
    assert [record.step for record in records if record.saved] == [3, 4, 6, 9]


def test_a_run_that_is_asked_to_stop_saves_and_loses_no_update(tmp_path):
    whole = finished(LOOP, tmp_path / "whole")
    kind = recipe()
    state = kind.setup(ADAMW, Ramps())
    records = list(train(kind, state, Ramps(), LOOP, tmp_path / "parts", stop=lambda: state.step == 6))
    assert (records[-1].step, [record.step for record in records if record.saved]) == (6, [4, 6])
    resumed = finished(LOOP, tmp_path / "parts")
    assert all(torch.equal(a, b) for a, b in zip(weights(whole), weights(resumed), strict=True))


def test_how_often_a_run_saves_is_no_part_of_its_name():
    assert config_id(LOOP) == config_id(replace(LOOP, save_every=3))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch_size": 0}, "loop.batch_size is 0"),
        ({"save_every": -1}, "loop.save_every is -1; 0 turns it off"),
        ({"keep": -1}, "loop.keep is -1; 0 turns it off"),
        ({"num_steps": 0}, "loop.num_steps is 0"),
        ({"micro_batch_size": 5}, "does not divide"),
    ],
)
def test_impossible_counts_are_named(tmp_path, change, message):
    kind = recipe()
    with pytest.raises(ValueError, match=message):
        next(train(kind, kind.setup(ADAMW, Ramps()), Ramps(), replace(LOOP, **change), tmp_path))


def test_another_recipes_checkpoint_is_refused(tmp_path):
    finished(LOOP, tmp_path, until=4)
    (tmp_path / "step_00000004" / "ema.net.safetensors").unlink()
    with pytest.raises(ValueError, match="no ema.net.safetensors"):
        finished(LOOP, tmp_path)


@pytest.mark.parametrize(
    ("counters", "absent"),
    [({}, "'step'"), ([], "'step'"), ({"step": 4, "images_seen": 48, "optimisers": {}}, "'optimisers.main'")],
)
def test_a_foreign_state_is_refused(tmp_path, counters, absent):
    finished(LOOP, tmp_path, until=4)
    path = tmp_path / "step_00000004"
    write_json(path / "state.json", counters)
    with pytest.raises(
        ValueError, match=f"{path}/state.json lacks {absent}; delete {path} to resume earlier"
    ):
        finished(LOOP, tmp_path)


# ---- EMA and optimisers ------------------------------------------------------------------------------------


def test_ema_follows_its_closed_form_and_copies_buffers():
    module = torch.nn.BatchNorm1d(2)
    ema = Ema(module, 0.5)
    module.weight.data.fill_(3.0)
    module.running_mean.fill_(7.0)  # pyright: ignore
    ema.update(module, 1)
    warm = 2 / 11
    torch.testing.assert_close(ema.module.weight.data, torch.full((2,), warm * 1 + (1 - warm) * 3))  # pyright: ignore
    ema.update(module, 1000)
    torch.testing.assert_close(ema.module.weight.data[0], (3 + warm + (1 - warm) * 3) / 2 * torch.ones(()))  # pyright: ignore
    assert torch.equal(ema.module.running_mean, module.running_mean)  # pyright: ignore
    with pytest.raises(ValueError, match="EMA decay is 1"):
        Ema(module, 1.0)


def test_unknown_optimisers_and_schedules_list_the_names():
    params = list(torch.nn.Linear(2, 2).parameters())
    with pytest.raises(ValueError, match="choose from: adamw, muon"):
        build(params, OptimiserConfig(name="sgd"))
    with pytest.raises(ValueError, match="choose from: constant, cosine, linear"):
        build(params, OptimiserConfig(schedule="step"))
    with pytest.raises(ValueError, match="learning_rate is 0"):
        build(params, OptimiserConfig(learning_rate=0))
    with pytest.raises(ValueError, match="learning_rate is inf"):
        build(params, OptimiserConfig(learning_rate=float("inf")))


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules_start_at_one_and_warm_up(name):
    config = OptimiserConfig(schedule=name, warmup_images=100)
    assert rate_factor(config, 49, 10_000) == pytest.approx(0.5, rel=0.02)
    assert rate_factor(config, 100, 10_000) == pytest.approx(1.0, rel=0.02)
    assert rate_factor(OptimiserConfig(schedule=name), 10_000, 10_000) == (1.0 if name == "constant" else 0.0)


def test_muon_shares_the_work_with_adamw():
    net = torch.nn.Linear(4, 4)
    before = [p.detach().clone() for p in net.parameters()]
    optimiser = build(net.parameters(), OptimiserConfig(name="muon", learning_rate=0.1))
    net(torch.randn(3, 4)).pow(2).sum().backward()
    optimiser.step()
    assert all(not torch.equal(a, b) for a, b in zip(before, net.parameters(), strict=True))
