"""Scenes of coloured shapes, drawn by rule: images, prompts and edits without end, with their exact truth.

One to three objects on a plain background; twelve shapes, any colour, three sizes, textures and light. An
index decides everything; what is held out of `train` (see scenes_sample) is in every scene of `heldout`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from flowlab.core.choices import lookup
from flowlab.data.batch import Batch, checked
from flowlab.data.scenes_captions import STYLES, Prompt, caption, prompts
from flowlab.data.scenes_edits import Edit, changed, edit, edits
from flowlab.data.scenes_objects import MAX_OBJECTS, Scene, SceneObject, SceneTable
from flowlab.data.scenes_render import RESOLUTIONS, boxes, masks, render
from flowlab.data.scenes_sample import SPLITS, draw_table, global_indices, sample

__all__ = [
    "Edit",
    "Prompt",
    "Scene",
    "SceneEdits",
    "SceneObject",
    "SceneTable",
    "Scenes",
    "boxes",
    "caption",
    "changed",
    "edit",
    "edits",
    "masks",
    "prompts",
    "render",
    "sample",
    "scene_edits",
    "scenes",
]

NUM_IMAGES = {"train": 65_536, "heldout": 4_096}
"""Unless told otherwise; there is no end."""
VERSION = 2
"""Of everything that decides a pixel or a word, for the identity of caches."""


def scenes(
    split: str,
    *,
    num_images: int | None = None,
    resolution: int = 64,
    seed: int = 0,
    style: str = "words",
    num_objects: int | None = None,
) -> Scenes:
    """`num_images` scenes of `split` with a prompt each, in `style` (a key of STYLES).

    Each shows `num_objects` of 1 to 3; None = any of these. Scene i that has the number anyway is the same.
    """
    lookup(STYLES, style, "style of caption")
    if num_objects is not None and not 1 <= num_objects <= MAX_OBJECTS:
        raise ValueError(f"{num_objects=}; a scene has 1 to {MAX_OBJECTS} objects, None draws their number")
    return Scenes(split, _number(split, num_images, resolution), resolution, seed, style, num_objects)


def scene_edits(
    split: str,
    *,
    num_references: int = 1,
    num_images: int | None = None,
    resolution: int = 64,
    seed: int = 0,
) -> SceneEdits:
    """`num_images` edits of `split` with 1 or 2 reference images each."""
    if num_references not in (1, 2):
        raise ValueError(f"{num_references=}; scenes have edits with 1 or 2")
    return SceneEdits(split, _number(split, num_images, resolution), resolution, seed, num_references)


class Scenes:
    """A dataset of scenes: pixels and prompts."""

    num_classes = 0

    def __init__(
        self,
        split: str,
        num_images: int,
        resolution: int,
        seed: int,
        style: str,
        num_objects: int | None = None,
    ):
        self.split, self.resolution, self.seed, self.style = split, resolution, seed, style
        self._num_images, self._num_objects = num_images, num_objects

    @property
    def identity(self) -> str:
        """Names every setting that decides a pixel or a word."""
        return (
            f"scenes {self.split} version={VERSION} num_images={self._num_images} seed={self.seed} "
            f"resolution={self.resolution} style={self.style}"
            + ("" if self._num_objects is None else f" num_objects={self._num_objects}")
        )

    def __len__(self) -> int:
        return self._num_images

    def read(self, indices: Tensor, flip: Tensor | None = None) -> Batch:
        """Pixels uint8 (B, 3, R, R) and prompts of scenes `indices` (B,); flipping would make prompts lie."""
        indices = checked(indices, len(self))
        _refuse(flip)
        table = self.table(indices)
        said = self._prompts(table.scenes(), indices)
        text = tuple(prompt.text for prompt in said)
        return Batch(index=indices, pixels=render(table, self.resolution), text=text)

    def scenes(self, indices: Tensor) -> list[Scene]:
        """The truth of scenes `indices` (B,)."""
        return self.table(indices).scenes()

    def table(self, indices: Tensor) -> SceneTable:
        """The truth of scenes `indices` (B,) as a struct of arrays."""
        indices = checked(indices, len(self))
        return draw_table(indices, split=self.split, seed=self.seed, num_objects=self._num_objects)

    def prompts(self, indices: Tensor) -> list[Prompt]:
        """The prompts of scenes `indices` (B,) with what each asks for; no pixel is drawn."""
        return self._prompts(self.scenes(indices), checked(indices, len(self)))

    def _prompts(self, drawn: Sequence[Scene], indices: Tensor) -> list[Prompt]:
        return prompts(drawn, global_indices(indices, self.split), self.style, self.seed)


class SceneEdits:
    """A dataset of edits: target pixels and instructions; the reference images beside them."""

    num_classes = 0

    def __init__(self, split: str, num_images: int, resolution: int, seed: int, num_references: int):
        self.split, self.resolution, self.seed = split, resolution, seed
        self.num_references, self._num_images = num_references, num_images

    @property
    def identity(self) -> str:
        """Names every setting that decides a pixel or a word."""
        return (
            f"scene edits {self.split} version={VERSION} num_images={self._num_images} seed={self.seed} "
            f"resolution={self.resolution} num_references={self.num_references}"
        )

    def __len__(self) -> int:
        return self._num_images

    def read(self, indices: Tensor, flip: Tensor | None = None) -> Batch:
        """Target pixels uint8 (B, 3, R, R) and instructions of edits `indices` (B,)."""
        _refuse(flip)
        found = self.edits(indices)
        pixels = render([item.target for item in found], self.resolution)
        return Batch(
            index=torch.as_tensor(indices), pixels=pixels, text=tuple(item.instruction for item in found)
        )

    def references(self, indices: Tensor) -> Tensor:
        """uint8 (B, n, 3, R, R) reference images, in the order in which instructions number them."""
        found = self.edits(indices)
        images = render([scene for item in found for scene in item.references], self.resolution)
        return images.unflatten(0, (len(found), self.num_references))

    def edits(self, indices: Tensor) -> list[Edit]:
        """The truth of edits `indices` (B,)."""
        indices = checked(indices, len(self))
        return edits(indices, split=self.split, num_references=self.num_references, seed=self.seed)


def _number(split: str, num_images: int | None, resolution: int) -> int:
    lookup(SPLITS, split, "split of scenes")
    num_images = NUM_IMAGES[split] if num_images is None else num_images
    if num_images < 1 or resolution not in RESOLUTIONS:
        raise ValueError(
            f"scenes: {num_images=}, {resolution=}; ask for at least 1 image of "
            f"{', '.join(map(str, RESOLUTIONS))} pixels"
        )
    return num_images


def _refuse(flip: Tensor | None) -> None:
    if flip is not None and bool(flip.any()):
        raise ValueError("scenes cannot be mirrored: their prompts say left and right; train without flip")
