"""Datasets by name: the embedded ones, or any folder of class folders."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from flowlab.core.counts import AtMost
from flowlab.data.batch import Dataset
from flowlab.data.embedded import digits, photos
from flowlab.data.folder import folder
from flowlab.data.scenes import scenes

__all__ = ["DATASETS", "load"]

DATASETS: dict[str, Callable[..., Dataset]] = {
    "digits": digits,  #   32 px, 10 classes; splits train, judge, heldout
    "photos": photos,  #   any size up to 300 px, no labels; splits train, heldout
    "scenes": scenes,  #   32, 64, 128 or 256 px, prompts, no labels; splits train, heldout
}
ENDLESS = (
    ("digits", "train"),
    ("digits", "judge"),
    ("digits", "heldout"),
    ("photos", "train"),
    ("scenes", "train"),
    ("scenes", "heldout"),
)
"""Drawn at random, so that there are always more."""


def load(
    name: str,
    split: str,
    *,
    num_images: int | None = None,
    resolution: int = 32,
    seed: int = 0,
    resize: str = "exact",
) -> Dataset:
    """A dataset of `DATASETS`, or the folder of class folders at `name`/`split` (split "all": `name` itself).

    `num_images` None = the dataset's own number, `AtMost(n)` = n or all that there are. `seed` has no effect
    on folders, `resize` none on the rest.
    """
    if isinstance(num_images, AtMost):
        whole = None if (name, split) in ENDLESS else load(name, split, resolution=resolution, resize=resize)
        num_images = min(num_images, len(whole)) if whole is not None else int(num_images)
    if name in DATASETS:
        return DATASETS[name](split, num_images=num_images, resolution=resolution, seed=seed)
    root = Path(name)
    if not root.is_dir():
        raise ValueError(
            f"unknown dataset {name!r}; choose from: {', '.join(DATASETS)}, or give a folder of class folders"
        )
    if split == "all":
        return folder(root, num_images=num_images, resolution=resolution, resize=resize)
    if not (root / split).is_dir():
        inside = ", ".join(sorted(item.name for item in root.iterdir() if item.is_dir())[:10]) or "no folders"
        raise ValueError(
            f"no split {split!r} in {root} (it holds: {inside}); use 'all' if those are the classes"
        )
    return folder(root / split, num_images=num_images, resolution=resolution, resize=resize)
