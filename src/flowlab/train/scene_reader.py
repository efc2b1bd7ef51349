"""The recipe of the scene reader: name the pieces of rendered scenes, spoiled as generators spoil them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import permutations
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from flowlab.core.devices import default_device
from flowlab.core.seeds import Streams
from flowlab.data.batch import Batch, Dataset, in_order
from flowlab.data.scenes import Scenes, scenes
from flowlab.data.scenes_corrupt import CORRUPTIONS, corrupted, mixed
from flowlab.data.scenes_objects import SHAPES, Scene, SceneTable, position_of, relation, size_word
from flowlab.data.scenes_render import distances
from flowlab.features import scene_reader
from flowlab.features.scene_fit import CELLS, REACH
from flowlab.features.scene_pieces import SIDE, Pieces, pieces
from flowlab.features.scene_reader import SceneReader, SceneReaderSpec
from flowlab.metrics.scenes import PictureScore, score
from flowlab.train import optim
from flowlab.train.ema import Ema
from flowlab.train.loop import LoopConfig
from flowlab.train.optim import OptimiserConfig
from flowlab.train.state import Objective, Randomness, Recipe, Trainable, TrainState

__all__ = ["SCENE_READER", "SceneReaderConfig", "error_rates", "errors"]


@dataclass(frozen=True, kw_only=True)
class SceneReaderConfig:
    """A small network on pieces of scenes."""

    network: SceneReaderSpec = field(default_factory=lambda: SceneReaderSpec(shapes=SHAPES))
    num_images: int = 65_536
    """Training scenes."""
    num_validation: int = 1024
    """Held-out scenes behind each error rate."""
    ema_decay: float = 0.995
    optimiser: OptimiserConfig = field(
        default_factory=lambda: OptimiserConfig(learning_rate=2e-3, weight_decay=0.02, schedule="cosine")
    )
    loop: LoopConfig = field(default_factory=lambda: LoopConfig(batch_size=32, num_steps=1000))


def setup(config: SceneReaderConfig, dataset: Dataset) -> TrainState:
    """A fresh reader that knows the outlines of scenes."""
    torch.manual_seed(config.loop.seed)
    device = default_device()
    reader = SceneReader(config.network)
    reader.outlines.copy_(distances(CELLS, REACH))
    reader.to(device)
    trainable = Trainable(optim.build(list(reader.parameters()), config.optimiser), config.optimiser)
    return TrainState(
        modules={"reader": reader},
        optimisers={"reader": trainable},
        emas={"reader": Ema(reader, config.ema_decay)},
        device=device,
        fixed=(config, dataset),
    )


def objectives(state: TrainState, batch: Batch, randomness: Randomness) -> Iterator[Objective]:
    """Each piece: its object's shape, place and size, or that it is debris."""
    (_, dataset), reader = state.fixed, state.modules["reader"]
    assert isinstance(dataset, Scenes) and isinstance(reader, SceneReader) and batch.pixels is not None
    index = batch.index.cpu()
    truth = dataset.table(index)
    found = pieces(mixed(batch.pixels.cpu(), randomness("spoil").to("cpu")))
    which, real = _matched(found, truth)
    read = reader.read(_moved(found, state.device))
    loss, right = _piece_loss(read, truth, found.image, which, real)
    image = found.image.to(state.device)
    per_image = torch.zeros(len(index), device=state.device).index_add(0, image, loss) / 2
    yield Objective("reader", per_image, {"shape_accuracy": right.mean().detach()})


def _matched(found: Pieces, truth: SceneTable) -> tuple[Tensor, Tensor]:
    """For each piece (n,) the nearest object of its picture, and whether it is it and not a scrap."""
    place = truth.place[found.image] * SIDE  # (n, 3, 2)
    distance = (found.centre[:, None] - place).abs().amax(-1)
    distance = torch.where(truth.present[found.image], distance, torch.inf)
    nearest, which = distance.min(1)
    near = nearest < 0.8 * SIDE * truth.size[found.image, which]
    key = found.image * 3 + which
    largest = torch.zeros(3 * len(truth)).scatter_reduce(0, key, found.half, "amax")
    return which, near & (found.half >= largest[key])


def _piece_loss(
    read: dict[str, Tensor], truth: SceneTable, image: Tensor, which: Tensor, real: Tensor
) -> tuple[Tensor, Tensor]:
    """(n,) losses, and (m,) whether the shapes of the m real ones are right."""
    device = read["shape"].device
    shape, size, place = (
        getattr(truth, name)[image, which].to(device) for name in ("shape", "size", "place")
    )
    real = real.to(device)
    loss = F.cross_entropy(read["shape"], shape, reduction="none")
    loss = loss + (read["place"] - place).abs().sum(1) / size
    loss = loss + (read["size"] / size).log().abs()
    debris = F.binary_cross_entropy_with_logits(read["real"], real.float(), reduction="none")
    right = (read["shape"].argmax(1) == shape)[real]
    return loss * real + debris, right.float()


def _moved(found: Pieces, device: torch.device) -> Pieces:
    return Pieces(**{name: getattr(found, name).to(device) for name in Pieces.__dataclass_fields__})


# ---- how often it errs -------------------------------------------------------------------------------------


def error_rates(reader: SceneReader, num_images: int) -> dict[str, dict[str, float]]:
    """Corruption at full strength => attribute => share of errors, on the first held-out scenes."""
    spoils: dict[str, Callable[[Tensor, Streams], Tensor]] = {"none": lambda images, streams: images}
    spoils |= {name: partial(_at_full_strength, name) for name in CORRUPTIONS}
    held_out = scenes("heldout", num_images=num_images)
    return {name: errors(reader, held_out, spoil) for name, spoil in {**spoils, "mixed": mixed}.items()}


def _at_full_strength(name: str, images: Tensor, streams: Streams) -> Tensor:
    return corrupted(images, name, streams)


def errors(
    reader: SceneReader, dataset: Scenes, spoil: Callable[[Tensor, Streams], Tensor]
) -> dict[str, float]:
    """Attribute => share of errors on all of `dataset`; a colour errs beyond Delta E 5."""
    scores = list[PictureScore]()
    for batch in in_order(dataset, batch_size=64):
        assert batch.pixels is not None, "scenes are read as pixels"
        images = spoil(batch.pixels, Streams.for_samples(0, batch.index, purpose="validate"))
        truths = [everything(scene) for scene in dataset.scenes(batch.index)]
        scores += [score(seen, truth) for seen, truth in zip(reader(images), truths, strict=True)]
    facts = {
        "shape": [right for one in scores for right in one.shapes],
        "colour": [distance <= 5 for one in scores for distance in one.delta_e],
        "count": [bool(one.count) for one in scores],
        "relation": [right for one in scores for right in one.relations],
        "position": [right for one in scores for right in one.positions],
        "size": [right for one in scores for right in one.sizes],
        "texture": [right for one in scores for right in one.textures],
        "background": [one.background is not None and one.background <= 5 for one in scores],
    }
    return {attribute: 1 - sum(right) / len(right) for attribute, right in facts.items() if right}


def everything(scene: Scene) -> dict[str, object]:
    """All that can be asked of a scene, in the form of prompts' `asked`."""
    items = scene.objects
    pairs = [(i, relation(items[i], items[j]), j) for i, j in permutations(range(len(items)), 2)]
    return {
        "objects": [
            {
                "shape": item.shape,
                "color": item.colour,
                "size": size_word(item.size),
                "texture": item.texture,
                "position": position_of(item.x, item.y),
            }
            for item in items
        ],
        "count": len(items),
        "relations": [[i, word, j] for i, word, j in pairs if word],
        "background": scene.background,
    }


# ---- the recipe --------------------------------------------------------------------------------------------


def _export(state: TrainState, folder: Path) -> Path:
    """Measure and write `scene_reader.safetensors`, as float16 will read."""
    config, _ = state.fixed
    reader = state.emas["reader"].module
    assert isinstance(reader, SceneReader), type(reader).__name__
    path = folder / "scene_reader.safetensors"
    scene_reader.save(reader, path)
    shipped = scene_reader.load(path)
    shipped.error_rates = error_rates(shipped, config.num_validation)
    scene_reader.save(shipped, path)
    return path


def _validate(config: SceneReaderConfig) -> None:
    if min(config.num_images, config.num_validation) < 1:
        raise ValueError(f"{config.num_images=}, {config.num_validation=}; ask for at least 1 of each")


SCENE_READER = Recipe(
    validate=_validate,
    dataset=lambda config: scenes("train", num_images=config.num_images),
    setup=setup,
    objectives=objectives,
    preview=lambda state: {},
    export=_export,
)
