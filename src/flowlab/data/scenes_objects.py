"""What a scene is: its words, its objects, and the same as a struct of arrays for drawing and sampling.

Lengths are shares of the canvas: x runs right and y down from the top left corner, both in [0, 1].
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import cache
from typing import Any

import torch
from torch import Tensor

from flowlab.core.choices import lookup

__all__ = [
    "BACKGROUNDS",
    "COLOURS",
    "LIGHTS",
    "MAX_OBJECTS",
    "POSITIONS",
    "RELATIONS",
    "SHAPES",
    "SIZES",
    "TEXTURES",
    "Scene",
    "SceneObject",
    "SceneTable",
    "background_word",
    "colour_word",
    "contrast",
    "hex_of",
    "position_of",
    "relation",
    "rgb_of",
    "second_tone",
    "size_word",
]

MAX_OBJECTS = 3
SHAPES = ("circle", "square", "triangle", "star", "ring", "cross",
          "heart", "diamond", "pentagon", "crescent", "arrow", "oval")  # fmt: skip
TEXTURES = ("plain", "striped", "dotted")
LIGHTS = ("none", "left", "right", "top", "bottom")  # the side a soft light comes from
SIZES = {"small": 0.13, "medium": 0.175, "large": 0.235}  # half the side of the box, before its jitter
COLOURS = {  # the words of captions; any other colour is written as its hex code
    "red": "#DC2626",
    "orange": "#F58A1F",
    "yellow": "#F5D90A",
    "green": "#2E9E3F",
    "cyan": "#22C7D6",
    "blue": "#2456DB",
    "purple": "#8A2BC2",
    "pink": "#F57FB3",
    "brown": "#7F4A22",
    "white": "#FDFDFD",
    "gray": "#8C8C8C",
    "black": "#060606",
}
BACKGROUNDS = {
    "dark": "#26272E",
    "light": "#E9EAE6",
    "navy": "#14295A",
    "teal": "#145E5E",
    "cream": "#F2DEB0",
    "lilac": "#C9B8E6",
}
POSITIONS = {  # word => (column, row) of a 3 x 3 grid
    "top left": (0, 0), "top": (1, 0), "top right": (2, 0),
    "left": (0, 1), "center": (1, 1), "right": (2, 1),
    "bottom left": (0, 2), "bottom": (1, 2), "bottom right": (2, 2),
}  # fmt: skip
RELATIONS = {"left of": (1, 0), "right of": (-1, 0), "above": (0, 1), "below": (0, -1)}
"""Word => the direction from the first object to the second."""
SHADE = 0.45
"""Share of black (or white, in dark colours) in the second tone of a texture."""
MIN_OFFSET, MIN_SLOPE = 0.15, 1.2
"""A relation is stated only where centres differ this much along it, and this many times more than across."""


# ---- readable ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class SceneObject:
    """One shape with all that decides its pixels."""

    shape: str
    """A member of SHAPES."""
    colour: str
    """"#RRGGBB"."""
    x: float
    """Centre, from the left."""
    y: float
    """Centre, from the top."""
    size: float
    """Half the side of the square around it."""
    rotation: float = 0.0
    """Degrees clockwise."""
    texture: str = "plain"
    """A member of TEXTURES; its second tone is a mix of the colour with black or white."""
    light: str = "none"
    """A member of LIGHTS; the colour is exact at the centre."""

    def __post_init__(self) -> None:
        for value, words, what in (
            (self.shape, SHAPES, "shape"),
            (self.texture, TEXTURES, "texture"),
            (self.light, LIGHTS, "light"),
        ):
            lookup(dict.fromkeys(words), value, what)
        rgb_of(self.colour)


@dataclass(frozen=True, kw_only=True)
class Scene:
    """One to three objects on a plain background; later objects lie over earlier ones."""

    objects: tuple[SceneObject, ...]
    background: str
    """"#RRGGBB"."""

    def __post_init__(self) -> None:
        if not 1 <= len(self.objects) <= MAX_OBJECTS:
            raise ValueError(f"a scene of {len(self.objects)} objects; give 1 to {MAX_OBJECTS}")
        rgb_of(self.background)


def rgb_of(code: str) -> tuple[int, int, int]:
    """ "#RRGGBB" => red, green, blue in 0..255."""
    try:
        if len(code) != 7 or code[0] != "#":
            raise ValueError
        return int(code[1:3], 16), int(code[3:5], 16), int(code[5:7], 16)
    except ValueError:
        raise ValueError(f"{code!r} is no colour; write it as #RRGGBB") from None


def hex_of(rgb: Sequence[int]) -> str:
    """Red, green, blue in 0..255 => "#RRGGBB"."""
    red, green, blue = rgb
    return f"#{red:02X}{green:02X}{blue:02X}"


def colour_word(code: str) -> str:
    """The colour as a caption says it: by its name in COLOURS, or the code itself."""
    return _names()[0].get(code.upper(), code)


def background_word(code: str) -> str:
    """The same for BACKGROUNDS."""
    return _names()[1].get(code.upper(), code)


@cache
def _names() -> tuple[dict[str, str], dict[str, str]]:
    return {code: name for name, code in COLOURS.items()}, {code: name for name, code in BACKGROUNDS.items()}


def size_word(size: float) -> str:
    """The name in SIZES nearest by ratio."""
    return min(SIZES, key=lambda word: max(SIZES[word] / size, size / SIZES[word]))


def position_of(x: float, y: float) -> str:
    """The word of POSITIONS for a centre; the middle column and row span 0.4 to 0.6."""
    cell = tuple(0 if value < 0.4 else 2 if value > 0.6 else 1 for value in (x, y))
    return next(word for word, place in POSITIONS.items() if place == cell)


def relation(a: SceneObject, b: SceneObject) -> str | None:
    """The word of RELATIONS that plainly holds from `a` to `b`; None where none does."""
    across, down = b.x - a.x, b.y - a.y
    for word, (right, below) in RELATIONS.items():
        along = across * right + down * below
        if along >= MIN_OFFSET and along >= MIN_SLOPE * abs(across * below + down * right):
            return word
    return None


# ---- struct of arrays --------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class SceneTable:
    """B scenes as tensors; the rows of objects beyond `count` hold whatever was drawn there."""

    count: Tensor
    """(B,) int64 in 1..3."""
    shape: Tensor
    """(B, 3) int64, position in SHAPES."""
    colour: Tensor
    """(B, 3, 3) uint8 RGB of each object."""
    place: Tensor
    """(B, 3, 2) float32 centres x, y."""
    size: Tensor
    """(B, 3) float32."""
    rotation: Tensor
    """(B, 3) float32 degrees clockwise."""
    texture: Tensor
    """(B, 3) int64, position in TEXTURES."""
    light: Tensor
    """(B, 3) int64, position in LIGHTS."""
    background: Tensor
    """(B, 3) uint8 RGB."""

    def __len__(self) -> int:
        return len(self.count)

    def __getitem__(self, rows: Tensor | slice) -> SceneTable:
        """The scenes of a slice, of indices or of a mask."""
        return SceneTable(**{field.name: getattr(self, field.name)[rows] for field in fields(self)})

    @property
    def present(self) -> Tensor:
        """(B, 3) bool: the objects that are there."""
        return torch.arange(MAX_OBJECTS) < self.count[:, None]

    def scenes(self) -> list[Scene]:
        """The same as readable objects; the way back is exact."""
        columns = {field.name: getattr(self, field.name).tolist() for field in fields(self)}
        return [
            Scene(
                objects=tuple(_object(columns, row, i) for i in range(columns["count"][row])),
                background=hex_of(columns["background"][row]),
            )
            for row in range(len(self))
        ]

    @classmethod
    def of(cls, scenes: Sequence[Scene]) -> SceneTable:
        """Readable scenes as tensors."""
        rows = [
            [*scene.objects, *[scene.objects[0]] * (MAX_OBJECTS - len(scene.objects))] for scene in scenes
        ]

        def column(read: Callable[[SceneObject], Any]) -> Tensor:
            return torch.tensor([[read(item) for item in row] for row in rows])

        return cls(
            count=torch.tensor([len(scene.objects) for scene in scenes]),
            shape=column(lambda item: SHAPES.index(item.shape)),
            colour=column(lambda item: rgb_of(item.colour)).to(torch.uint8),
            place=column(lambda item: (item.x, item.y)),
            size=column(lambda item: item.size),
            rotation=column(lambda item: float(item.rotation)),
            texture=column(lambda item: TEXTURES.index(item.texture)),
            light=column(lambda item: LIGHTS.index(item.light)),
            background=torch.tensor([rgb_of(scene.background) for scene in scenes]).to(torch.uint8),
        )


def _object(columns: dict[str, list], row: int, i: int) -> SceneObject:
    x, y = columns["place"][row][i]
    return SceneObject(
        shape=SHAPES[columns["shape"][row][i]],
        colour=hex_of(columns["colour"][row][i]),
        x=x,
        y=y,
        size=columns["size"][row][i],
        rotation=columns["rotation"][row][i],
        texture=TEXTURES[columns["texture"][row][i]],
        light=LIGHTS[columns["light"][row][i]],
    )


def second_tone(colour: Tensor) -> Tensor:
    """The other tone of a texture, float (..., 3): darker for light colours, lighter for dark ones."""
    colour = colour.float()
    bright = (colour * torch.tensor([0.299, 0.587, 0.114])).sum(-1, keepdim=True) > 100
    return torch.lerp(colour, torch.where(bright, 0.0, 255.0), SHADE)


def contrast(a: Tensor, b: Tensor) -> Tensor:
    """Distance of two uint8 colours (..., 3) as the eye sees it, 0 to 765 (Riemersma's "redmean" formula)."""
    a, b = a.float(), b.float()
    red = (a[..., 0] + b[..., 0]) / 512
    weight = torch.stack([2 + red, torch.full_like(red, 4.0), 3 - red], -1)
    return ((a - b).square() * weight).sum(-1).sqrt()
