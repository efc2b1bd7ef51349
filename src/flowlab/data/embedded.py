"""Images that come with the package's dependencies, no download: `digits` and `photos`.

`digits` renders the 1,797 real handwritten digits of scikit-learn (UCI optical recognition of handwritten
digits, Alpaydin and Kaynak 1998) as coloured ink on dark ground. `photos` cuts patches from the colour
photographs of scikit-image whose docstring puts them in the public domain or under CC0.
"""

from __future__ import annotations

import importlib.resources
from functools import cache, cached_property

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from flowlab.core.choices import lookup
from flowlab.core.config import config_id
from flowlab.core.seeds import Streams, mix
from flowlab.data.batch import Batch, checked
from flowlab.data.strokes import DigitStyle, draw_looks, ink_fields, render
from flowlab.data.transforms import flipped, from_pil

__all__ = ["DIGIT_SPLITS", "PHOTOS", "PHOTO_SPLITS", "Digits", "Photos", "digits", "photos"]


# ---- digits ------------------------------------------------------------------------------------------------

DIGIT_SPLITS = {  #  source digits, rendered images by default
    "train": (1000, 20_000),  #   autoencoders, teacher, flow models
    "judge": (400, 8_000),  #     the judge alone
    "heldout": (397, 4_000),  #   reference of every distance
}


def digits(
    split: str,
    *,
    num_images: int | None = None,
    seed: int = 0,
    resolution: int = 32,
    style: DigitStyle | None = None,
) -> Digits:
    """`num_images` renderings of the source digits of `split` (see DIGIT_SPLITS), ten classes.

    The splits share no source digit whatever the seed; the seed changes pose and colours only.
    """
    _, default = lookup(DIGIT_SPLITS, split, "split of digits")
    num_images = default if num_images is None else num_images
    if num_images < 1 or resolution < 8:
        raise ValueError(
            f"digits: {num_images=}, {resolution=}; ask for at least 1 image of at least 8 pixels"
        )
    return Digits(split, num_images, seed, resolution, style or DigitStyle())


class Digits:
    """A dataset of rendered digits; image i shows source digit i mod n of its split, classes interleaved."""

    num_classes = 10

    def __init__(self, split: str, num_images: int, seed: int, resolution: int, style: DigitStyle):
        self.split, self.seed, self.resolution, self.style = split, seed, resolution, style
        self._num_images = num_images

    @cached_property
    def sources(self) -> Tensor:
        """(n,) int64: the source digits of the split. Made when first read, as a name costs no seconds."""
        return _digit_sources(ink_fields()[1])[self.split]

    @property
    def identity(self) -> str:
        """Names every setting that decides a pixel."""
        return (
            f"digits {self.split} num_images={self._num_images} seed={self.seed} "
            f"resolution={self.resolution} style={config_id(self.style)}"
        )

    def __len__(self) -> int:
        return self._num_images

    def read(self, indices: Tensor, flip: Tensor | None = None) -> Batch:
        """Pixels uint8 (B, 3, H, W) and labels of images `indices` (B,)."""
        indices = checked(indices, len(self))
        pixels = flipped(self.views(indices, self._streams(indices)), flip)
        return Batch(index=indices, pixels=pixels, label=self._label(indices), flip=flip)

    def views(self, indices: Tensor, streams: Streams) -> Tensor:
        """New renderings uint8 (B, 3, H, W) of the source digits of images `indices`, posed by `streams`.

        Two calls with streams of two purposes are two views of the same handwriting.
        """
        assert len(indices) == len(streams), f"{len(indices)} indices, {len(streams)} streams"
        looks = draw_looks(streams, self.style)
        return render(ink_fields()[0], self._source(indices), looks, self.resolution, self.style.edge_width)

    def attributes(self, indices: Tensor) -> dict[str, Tensor]:
        """What the images (B,) show: `source` and `label` int64, and the looks of `draw_looks`."""
        indices = checked(indices, len(self))
        return {
            "source": self._source(indices),
            "label": self._label(indices),
            **draw_looks(self._streams(indices), self.style),
        }

    def _source(self, indices: Tensor) -> Tensor:
        return self.sources[indices % len(self.sources)]

    def _label(self, indices: Tensor) -> Tensor:
        return ink_fields()[1][self._source(indices)]

    def _streams(self, indices: Tensor) -> Streams:
        return Streams.for_samples(self.seed, indices, purpose=f"digits {self.split}")


def _digit_sources(labels: Tensor) -> dict[str, Tensor]:
    """Source digits of each split: stratified by class, classes interleaved, the same on every machine.

    Within each class the digits are shuffled by hash and spread evenly over (0, 1); the splits are three
    consecutive stretches of the merged list, so each holds every class in proportion.
    """
    keys = mix(torch.arange(len(labels)))
    place = torch.empty(len(labels), dtype=torch.float64)
    for label in labels.unique():
        members = torch.nonzero(labels == label)[:, 0]
        members = members[keys[members].argsort()]
        place[members] = (torch.arange(len(members)).double() + 0.5) / len(members)
    merged = torch.from_numpy(np.lexsort((keys.numpy(), place.numpy())))
    sizes = [num_sources for num_sources, _ in DIGIT_SPLITS.values()]
    return dict(zip(DIGIT_SPLITS, merged.split(sizes), strict=True))


# ---- photos ------------------------------------------------------------------------------------------------

PHOTOS = {  #  file in scikit-image's wheel, split, licence as its docstring states it
    "astronaut": ("astronaut.png", "train", "public domain, NASA"),
    "hubble": ("hubble_deep_field.jpg", "train", "public domain, NASA"),
    "ihc": ("ihc.png", "train", "no known restrictions"),
    "retina": ("retina.jpg", "train", "CC0"),
    "rocket": ("rocket.jpg", "train", "public domain, SpaceX"),
    "chelsea": ("chelsea.png", "heldout", "CC0, Stefan van der Walt"),
    "coffee": ("coffee.png", "heldout", "CC0, Rachel Michetti"),
}
PHOTO_SPLITS = ("train", "heldout")


def photos(split: str, *, num_images: int | None = None, seed: int = 0, resolution: int = 32) -> Photos:
    """Patches of real colour photographs, split by photograph; no labels.

    `train`: `num_images` (default 10,000) random crops, an equal share from each photograph. `heldout`: the
    grid of non-overlapping tiles, all of them or `num_images` spread evenly; `seed` changes nothing there.
    """
    lookup(dict.fromkeys(PHOTO_SPLITS), split, "split of photos")
    sources = [i for i, (_, where, _) in enumerate(PHOTOS.values()) if where == split]
    pictures = {source: _photo(list(PHOTOS)[source]) for source in sources}
    smallest = min(min(picture.shape[1:]) for picture in pictures.values())
    if not 1 <= resolution <= smallest:
        raise ValueError(
            f"photos: {resolution=}; the smallest photograph of {split!r} allows 1 to {smallest}"
        )
    if split == "train":
        places = _random_places(pictures, 10_000 if num_images is None else num_images, seed, resolution)
        name = f"photos train num_images={len(places)} seed={seed} resolution={resolution}"
    else:
        places = _thinned(_tile_places(pictures, resolution), num_images)
        name = f"photos heldout num_images={len(places)} resolution={resolution}"
    return Photos(name, pictures, places, resolution)


class Photos:
    """A dataset of photograph patches at known places."""

    num_classes = 0

    def __init__(self, identity: str, pictures: dict[int, Tensor], places: Tensor, resolution: int):
        self.identity, self.resolution = identity, resolution
        self._pictures, self._places = (
            pictures,
            places,
        )  # source => (3, H, W) uint8; (n, 3): source, top, left

    def __len__(self) -> int:
        return len(self._places)

    def read(self, indices: Tensor, flip: Tensor | None = None) -> Batch:
        """Pixels uint8 (B, 3, H, W) of patches `indices` (B,)."""
        indices = checked(indices, len(self))
        patches = [self._patch(*place) for place in self._places[indices].tolist()]
        return Batch(index=indices, pixels=flipped(torch.stack(patches), flip), flip=flip)

    def attributes(self, indices: Tensor) -> dict[str, Tensor]:
        """Where each patch (B,) lies: `source` (position in PHOTOS), `top`, `left` in pixels, all int64."""
        source, top, left = self._places[checked(indices, len(self))].unbind(1)
        return {"source": source, "top": top, "left": left}

    def _patch(self, source: int, top: int, left: int) -> Tensor:
        return self._pictures[source][:, top : top + self.resolution, left : left + self.resolution]


# ---- places ------------------------------------------------------------------------------------------------


def _random_places(pictures: dict[int, Tensor], num_images: int, seed: int, size: int) -> Tensor:
    """(n, 3) source, top, left: crop i lies anywhere in photograph i mod (number of photographs)."""
    if num_images < 1:
        raise ValueError(f"photos: {num_images=}; ask for at least 1")
    sources = torch.tensor(list(pictures))[torch.arange(num_images) % len(pictures)]
    room = (
        torch.tensor([[*picture.shape[1:]] for picture in pictures.values()]) - size + 1
    )  # (photographs, 2)
    room = room[torch.arange(num_images) % len(pictures)]
    draws = Streams.for_samples(seed, torch.arange(num_images), purpose="photos").uniform(
        2, dtype=torch.float64
    )
    return torch.cat([sources[:, None], (draws * room).long()], 1)


def _tile_places(pictures: dict[int, Tensor], size: int) -> Tensor:
    """(n, 3) source, top, left of every whole tile; what remains is left off evenly around a photograph."""
    places = []
    for source, picture in pictures.items():
        tops, lefts = (torch.arange(side // size) * size + side % size // 2 for side in picture.shape[1:])
        places.append(torch.cartesian_prod(torch.tensor([source]), tops, lefts))
    return torch.cat(places)


def _thinned(places: Tensor, num_images: int | None) -> Tensor:
    """`num_images` places spread evenly over the list; None = all."""
    if num_images is None:
        return places
    if not 1 <= num_images <= len(places):
        raise ValueError(
            f"photos: {num_images=}; the held-out photographs hold {len(places)} tiles of this size"
        )
    return places[torch.arange(num_images) * len(places) // num_images]


@cache
def _photo(name: str) -> Tensor:
    """A photograph of PHOTOS as uint8 (3, H, W)."""
    file = importlib.resources.files("skimage") / "data" / PHOTOS[name][0]
    with file.open("rb") as stream, Image.open(stream) as image:
        return from_pil(image.convert("RGB"))
