"""Drive the loop for a person: run folder, resume, progress bar, TensorBoard, previews, final export."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from flowlab.core import checkpoints
from flowlab.core.config import config_id, deciding, from_dict, to_dict
from flowlab.core.devices import default_device
from flowlab.core.files import atomic_path, read_json, write_json
from flowlab.core.stopping import StopRequest
from flowlab.train.autoencoder import AUTOENCODER, AutoencoderConfig
from flowlab.train.ema import check_decay
from flowlab.train.features import JUDGE, TEACHER, JudgeConfig, TeacherConfig
from flowlab.train.flow import FLOW, FlowConfig
from flowlab.train.loop import train
from flowlab.train.loop import validate as validate_loop
from flowlab.train.optim import validate as validate_optimiser
from flowlab.train.scene_reader import SCENE_READER, SceneReaderConfig
from flowlab.train.state import Recipe, Record, TrainState
from flowlab.train.text_flow import TEXT_FLOW, TextFlowConfig

__all__ = ["RECIPES", "check_folder", "recipe_of", "run", "start", "validate"]

RECIPES: dict[type, Recipe] = {
    AutoencoderConfig: AUTOENCODER,
    FlowConfig: FLOW,
    TeacherConfig: TEACHER,
    JudgeConfig: JUDGE,
    SceneReaderConfig: SCENE_READER,
    TextFlowConfig: TEXT_FLOW,
}


def run(config: Any, folder: Path | str, *, until_step: int | None = None, log_every: int = 25) -> Path:
    """Train `config` in `folder` and return the exported file; the same call resumes.

    Leaves `config.json`, `checkpoints/`, `previews/` and `tensorboard/` in the folder. Ctrl-C, SIGTERM and
    SIGHUP save after the update in hand; then KeyboardInterrupt.
    """
    from torch.utils.tensorboard import SummaryWriter
    from tqdm import tqdm

    folder = Path(folder)
    request = StopRequest()
    state, records = start(config, folder, until_step, lambda: request.made)
    total = min(config.loop.num_steps, config.loop.num_steps if until_step is None else until_step)
    newest = checkpoints.latest(folder / "checkpoints")
    done = checkpoints.step_of(newest) if newest else 0
    with (
        request.listening(),
        SummaryWriter(str(folder / "tensorboard")) as writer,
        tqdm(total=total, initial=done, unit="step") as bar,
    ):
        for record in records:
            bar.update()
            if record.step % log_every == 0 or record.saved:
                values = {name: float(value) for name, value in record.scalars.items()}
                _log(writer, record, values)
                bar.set_postfix({name: f"{value:.4g}" for name, value in list(values.items())[:3]})
            if request.made and record.saved:
                raise KeyboardInterrupt
            if record.saved:
                write_previews(recipe_of(config).preview(state), folder / "previews", record.step, writer)
    return recipe_of(config).export(state, folder)


def start(
    config: Any, folder: Path, until_step: int | None = None, stop: Callable[[], bool] = lambda: False
) -> tuple[TrainState, Iterator[Record]]:
    """The state and the iterator of updates; nothing is trained until the caller asks for a record.

    A fault of the configuration or the data leaves no trace in `folder`.
    """
    recipe = recipe_of(config)
    validate(config)
    check_folder(config, folder)
    if default_device().type == "cuda":
        torch.set_float32_matmul_precision("high")  # TF32, as the published recipes
    dataset = recipe.dataset(config)
    state = recipe.setup(config, dataset)
    write_json(folder / "config.json", _described(config))
    return state, train(recipe, state, dataset, config.loop, folder / "checkpoints", until_step, stop)


def recipe_of(config: Any) -> Recipe:
    """The recipe that trains this kind of configuration."""
    assert type(config) in RECIPES, f"no recipe trains {type(config).__name__}"
    return RECIPES[type(config)]


def validate(config: Any) -> None:
    """Refuse what cannot work, before the first expensive second."""
    validate_loop(config.loop)
    validate_optimiser(config.optimiser)
    check_decay(config.ema_decay, "ema_decay")
    recipe_of(config).validate(config)


def check_folder(config: Any, folder: Path) -> None:
    """Refuse a folder that holds another configuration."""
    path = folder / "config.json"
    if not path.exists():
        return
    found = read_json(path)
    if not isinstance(found, dict) or not {"kind", "config"} <= found.keys():
        raise ValueError(f"{path} was not written by `flowlab train`; give another --out")
    if found["kind"] != type(config).__name__:
        raise ValueError(f"{folder} holds a {found['kind']}; give another --out or delete it")
    mine, theirs = (_compared(one) for one in (config, from_dict(type(config), found["config"], str(path))))
    if mine != theirs:
        difference = _first_difference(mine, theirs)
        raise ValueError(
            f"{folder} holds another configuration ({difference}); give another --out or delete it"
        )


def _compared(config: Any) -> dict[str, Any]:
    """What must not change between starts: all that decides a result, and a cache may move."""
    return {**deciding(config), "cache": ""}


def _described(config: Any) -> dict[str, Any]:
    return {"kind": type(config).__name__, "id": config_id(config), "config": to_dict(config)}


def write_previews(images: Mapping[str, Tensor], folder: Path, step: int, writer: Any = None) -> None:
    """Grids of uint8 images as PNG, and into TensorBoard."""
    from flowlab.core.pixels import contact_sheet
    from flowlab.data.transforms import to_pil

    folder.mkdir(parents=True, exist_ok=True)
    for name, batch in images.items():
        sheet = contact_sheet(batch, columns=8)
        with atomic_path(folder / f"{name.replace(' ', '_')}_{step:08d}.png") as draft:
            to_pil(sheet).save(draft, format="PNG")
        if writer is not None:
            writer.add_image(name, sheet, step)


def _log(writer: Any, record: Record, values: Mapping[str, float]) -> None:
    for name, value in values.items():
        writer.add_scalar(name, value, record.step)


def _first_difference(own: Any, found: Any, where: str = "") -> str:
    if isinstance(own, dict) and isinstance(found, dict):
        for name in own:
            if own[name] != found.get(name):
                return _first_difference(own[name], found.get(name), f"{where}.{name}".lstrip("."))
    return f"{where} is {found!r} there and {own!r} here"
