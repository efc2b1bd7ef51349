"""Reads pictures of coloured shapes back: which shapes, in which colours, where, how large, on what ground.

Whatever differs from the background is cut into connected pieces (scene_pieces); a small network names the
shape, place and size of each piece, or refuses it; drawing it again gives its colour and texture (scene_fit).
It is a ruler: how often it errs is stored with its weights and belongs beside every score, and no model is
ever trained on its answers.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flowlab.core.weights import load_strict, read_weights, write_weights
from flowlab.features.scene_fit import CELLS, TEXTURES, fit
from flowlab.features.scene_pieces import SIDE, Pieces, cut, pieces

__all__ = ["SceneReader", "SceneReaderSpec", "SeenObject", "SeenScene", "load", "save"]

# Trained by `flowlab train scene_reader` on 32,000 scenes, when the network named colour and texture as well;
# those outputs have been cut off (they erred on 2.0 and 7.1 per cent). Errors in per cent: on 1,024 held-out
# scenes, under mixed corruptions, and through the autoencoder flux2_scenes (benchmarks/scenes.py):
# shape 0.0, 1.0, 4.7; count 0.0, 0.6, 0.5; relation 0.0, 1.2, 0.6; position 0.0, 0.4, 0.3;
# size 0.0, 0.6, 1.2; texture 0.0, 0.9, 5.1; colour beyond Delta E 5 0.4, 4.1, 14.9.
# Under the worst of `tiles` 11.1 of colours: these move the mean colour of 5.2 per cent of objects that far.
WEIGHTS = Path(__file__).parent / "weights" / "scene_reader.safetensors"


# ---- what is seen ------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class SeenObject:
    """One object as it appears; lengths are shares of the picture, x right and y down from its top left."""

    shape: str
    colour: str
    """"#RRGGBB", of the main tone."""
    texture: str
    x: float
    y: float
    size: float
    """Half the side of the square around it."""


@dataclass(frozen=True, kw_only=True)
class SeenScene:
    """One picture, its objects from left to right."""

    objects: tuple[SeenObject, ...]
    background: str
    """"#RRGGBB"."""


@dataclass(frozen=True, kw_only=True)
class SceneReaderSpec:
    """The shapes it knows and its width."""

    shapes: tuple[str, ...]
    width: int = 24
    """Channels of the first layer."""
    crop: int = 24
    """Side of the cut-out of a piece, in samples."""


# ---- the network -------------------------------------------------------------------------------------------


class SceneReader(nn.Module):
    """Pieces => what each is. `reader(images)` reads whole pictures."""

    def __init__(self, spec: SceneReaderSpec):
        super().__init__()
        self.spec = spec
        w = spec.width
        self.conv1 = nn.Conv2d(5, w, 3, padding=1)
        self.conv2 = nn.Conv2d(w, 2 * w, 3, padding=1)
        self.conv3 = nn.Conv2d(2 * w, 4 * w, 3, padding=1)
        self.norm2, self.norm3 = nn.GroupNorm(4, 2 * w), nn.GroupNorm(4, 4 * w)
        self.hidden = nn.Linear(4 * w * 9, 4 * w)
        self.answers = nn.Linear(4 * w, len(spec.shapes) + 4)
        self.outlines: Tensor
        """(shapes, CELLS, CELLS) as scene_fit.fit takes them; training fills it."""
        self.register_buffer("outlines", torch.zeros(len(spec.shapes), CELLS, CELLS))
        self.error_rates: dict[str, dict[str, float]] = {}
        """Corruption => attribute => share of errors on held-out pictures; from the file of the weights."""

    @torch.no_grad()
    def forward(self, images: Tensor) -> list[SeenScene]:
        """uint8 (B, 3, H, W) of any size => what is seen in each."""
        found = pieces(images)
        objects: list[list[SeenObject]] = [[] for _ in range(len(images))]
        for image, seen in self._objects(found) if len(found.image) else ():
            objects[image].append(seen)
        grounds = found.background.round().long().tolist()
        return [
            SeenScene(objects=tuple(sorted(some, key=lambda one: one.x)), background=_hex(ground))
            for some, ground in zip(objects, grounds, strict=True)
        ]

    def read(self, found: Pieces) -> dict[str, Tensor]:
        """For n pieces: logits `shape` (n, shapes) and `real` (n,) (positive: an object, not debris); `place`
        (n, 2) and `size` (n,) in shares of the picture."""
        crops, _ = cut(found, self.spec.crop)
        first = F.relu(self.conv1(crops))  # (n, w, 24, 24)
        second = F.relu(self.norm2(self.conv2(F.max_pool2d(first, 2))))
        third = F.relu(self.norm3(self.conv3(F.max_pool2d(second, 2))))
        summary = F.relu(self.hidden(F.adaptive_avg_pool2d(third, 3).flatten(1)))
        shape, rest = self.answers(summary).split([len(self.spec.shapes), 4], dim=1)
        half = found.half / SIDE
        return {
            "shape": shape,
            "real": rest[:, 3],
            "place": found.centre / SIDE + rest[:, :2] * half[:, None],
            "size": rest[:, 2].exp() * half,
        }

    def _objects(self, found: Pieces) -> Iterator[tuple[int, SeenObject]]:
        """The picture of each real piece, and what is seen of it."""
        read = self.read(found)
        shape, place, size = read["shape"].argmax(1), read["place"], read["size"]
        colour, texture = fit(found, self.outlines[shape], place * SIDE, size * SIDE)
        codes = colour.round().long().tolist()
        for row in torch.nonzero(read["real"] > 0)[:, 0].tolist():
            x, y = place[row].tolist()
            yield (
                int(found.image[row]),
                SeenObject(
                    shape=self.spec.shapes[int(shape[row])],
                    texture=TEXTURES[int(texture[row])],
                    colour=_hex(codes[row]),
                    x=x,
                    y=y,
                    size=float(size[row]),
                ),
            )


def _hex(rgb: list[int]) -> str:
    return "#" + "".join(f"{value:02X}" for value in rgb)


# ---- files -------------------------------------------------------------------------------------------------


def load(path: Path | str = WEIGHTS) -> SceneReader:
    """The shipped reader, or another one, frozen."""
    tensors, metadata = read_weights(path)
    if metadata.get("kind") != "scene_reader":
        raise ValueError(f"{path} holds {metadata.get('kind', 'something else')}, not a scene_reader")
    spec = json.loads(metadata["spec"])
    reader = SceneReader(SceneReaderSpec(**{**spec, "shapes": tuple(spec["shapes"])}))
    load_strict(reader, {name: tensor.float() for name, tensor in tensors.items()}, where=str(path))
    reader.error_rates = json.loads(metadata["error_rates"])
    return reader.eval().requires_grad_(False)


def save(reader: SceneReader, path: Path) -> None:
    """Write float16 weights with the spec and the error rates in the metadata."""
    tensors = {name: tensor.half() for name, tensor in reader.state_dict().items()}
    facts = {"spec": json.dumps(asdict(reader.spec)), "error_rates": json.dumps(reader.error_rates)}
    write_weights(path, tensors, {"kind": "scene_reader", **facts})
