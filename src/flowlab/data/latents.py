"""The moment cache: what an encoder makes of a dataset, computed once, in safetensors shards with an index.

A cache folder holds `shard_00000.safetensors`, ... and `index.json`, written last: without it the cache is
unfinished. Shards keep the *moments* and not a latent, so that each step can draw its own posterior sample.
Each shard's header carries the id of the plan it belongs to, so a restart goes on after the whole ones.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from flowlab.core.choices import lookup
from flowlab.core.config import config_id, from_dict, to_dict
from flowlab.core.files import read_json, write_json
from flowlab.core.weights import read_weights, write_weights
from flowlab.data.batch import Batch, Dataset, checked, in_order

__all__ = ["DTYPES", "CachePlan", "LatentDataset", "default_batch", "write_cache"]

Encode = Callable[[Tensor], tuple[Tensor, Tensor | None]]
Gate = Callable[[Iterator[Tensor]], str]

DTYPES = {
    "float32": torch.float32,  #    exact; the default: 20,000 images of 16 tokens x 32 channels are 82 MB
    "float16": torch.float16,  #    rounds by up to 1/2048 of the value; above 65,504 is an error
    "bfloat16": torch.bfloat16,  #  rounds by up to 1/256
}


@dataclass(frozen=True, kw_only=True)
class CachePlan:
    """What decides the content of a cache; two caches with equal plans are interchangeable."""

    identity: str
    """The encoder."""
    dataset: str
    """The dataset's identity."""
    num_images: int
    num_classes: int
    resolution: int
    """Pixels that were encoded."""
    dtype: str
    """Of moments and teacher tokens, a name of DTYPES."""
    shard_size: int
    """Images per shard; the last may hold fewer."""
    flips: bool
    """Whether the moments of the mirrored images are stored too."""
    teacher: str | None
    """Identity of the network behind the teacher tokens, None = no tokens."""
    version: int = 1
    """Of this format."""


@dataclass(frozen=True, kw_only=True)
class Shard:
    """An entry of the index."""

    file: str
    num_images: int
    bytes: int
    sha256: str


# ---- writing -----------------------------------------------------------------------------------------------


def write_cache(
    folder: Path | str,
    dataset: Dataset,
    encode: Encode,
    *,
    identity: str,
    encoder_batch: int | None = None,
    teacher: Callable[[Tensor], Tensor] | None = None,
    teacher_identity: str | None = None,
    flips: bool = False,
    dtype: str = "float32",
    shard_size: int = 4096,
    progress: Callable[[int], None] | None = None,
    gate: Gate | None = None,
) -> Path:
    """Encode every image of `dataset` into `folder`; returns the index. Run again after a kill, it continues.

    `encode`: uint8 (B, 3, H, W) => (mean, logvar or None), each (B, ...). `teacher`: uint8 => (B, N, D).
    `identity` names the encoder's weights, `teacher_identity` the teacher's. `flips` stores both
    orientations, as the latent of a mirrored image is not the mirrored latent. `progress(n)` is called as n
    more images are done. A folder that holds another cache is a ValueError. `encoder_batch` images are
    encoded at once, by default as `default_batch` says.

    `gate` judges the encoder before the first shard: uint8 batches => "passed", "warned" or "off", or it
    raises. The index keeps the outcome, and the gate is not asked again after the first two.
    """
    lookup(DTYPES, dtype, "dtype of a latent cache")
    if encoder_batch is None:
        encoder_batch = default_batch(dataset.resolution)
    if shard_size < 1 or encoder_batch < 1:
        raise ValueError(f"latent cache: {shard_size=}, {encoder_batch=}; give at least 1")
    if (teacher is None) != (teacher_identity is None):
        raise ValueError("latent cache: give teacher and teacher_identity together, or neither")
    plan = CachePlan(
        identity=identity,
        dataset=dataset.identity,
        num_images=len(dataset),
        num_classes=dataset.num_classes,
        resolution=dataset.resolution,
        dtype=dtype,
        shard_size=shard_size,
        flips=flips,
        teacher=teacher_identity,
    )
    folder = Path(folder)
    known = _known_shards(folder, plan)
    outcome = _judged(folder, gate, in_order(dataset, batch_size=encoder_batch))
    run = _joined(encode, teacher)
    shards = []
    for path, start, stop in _shard_ranges(folder, plan):
        if path.name in known:
            _read_shard(folder, known[path.name], plan, verify=True)
        if not path.exists():
            images = in_order(dataset, batch_size=encoder_batch, start=start, stop=stop)
            write_weights(path, _encoded(images, run, plan, progress), {"plan": config_id(plan)})
        elif progress:
            progress(stop - start)
        size, digest = path.stat().st_size, _sha256(path)
        shards.append(Shard(file=path.name, num_images=stop - start, bytes=size, sha256=digest))
    return _write_index(folder, plan, outcome, shards)


def default_batch(resolution: int) -> int:
    """Images to encode at once: 64, or of large ones about half a million pixels, 8 at 256 px."""
    return max(1, min(64, 2**19 // resolution**2))


def _write_index(folder: Path, plan: CachePlan, outcome: str, shards: Sequence[Shard]) -> Path:
    tensors = _described(folder / shards[0].file)
    index = {"plan": to_dict(plan), "gate": outcome, "tensors": tensors, "shards": to_dict(shards)}
    write_json(folder / "index.json", index)
    return folder / "index.json"


def _judged(folder: Path, gate: Gate | None, images: Iterable[Batch]) -> str:
    """The gate's outcome: of an earlier call if that was good, else asked for now."""
    known = _outcome(folder)
    if gate is None or known != "off":
        return known
    return gate(batch.pixels for batch in images if batch.pixels is not None)


def _outcome(folder: Path) -> str:
    """What the index of an earlier call says of the gate."""
    path = folder / "index.json"
    return str(read_json(path).get("gate", "off")) if path.exists() else "off"


def _shard_ranges(folder: Path, plan: CachePlan) -> Iterator[tuple[Path, int, int]]:
    for number, start in enumerate(range(0, plan.num_images, plan.shard_size)):
        yield folder / f"shard_{number:05d}.safetensors", start, min(start + plan.shard_size, plan.num_images)


def _known_shards(folder: Path, plan: CachePlan) -> dict[str, Shard]:
    """Index entries, if there is an index, of the shards that exist; another cache here is a ValueError."""
    other = f"belongs to a cache with other settings; delete {folder} or choose another folder"
    for path in sorted(folder.glob("shard_*.safetensors")):
        if read_weights(path)[1].get("plan") != config_id(plan):
            raise ValueError(f"{path} {other}")
    if not (folder / "index.json").exists():
        return {}
    found, shards = _read_index(folder)
    if found != plan:
        raise ValueError(f"{folder / 'index.json'} {other}")
    return {shard.file: shard for shard in shards if (folder / shard.file).exists()}


def _joined(
    encode: Encode, teacher: Callable[[Tensor], Tensor] | None
) -> Callable[[Tensor], dict[str, Tensor]]:
    """One function from pixels to all that is stored of one orientation, without gradients."""

    @torch.no_grad()
    def run(pixels: Tensor) -> dict[str, Tensor]:
        mean, logvar = encode(pixels)
        tokens = None if teacher is None else teacher(pixels)
        found = {"mean": mean, "logvar": logvar, "teacher": tokens}
        return {name: value for name, value in found.items() if value is not None}

    return run


def _encoded(
    images: Iterable[Batch],
    run: Callable[[Tensor], dict[str, Tensor]],
    plan: CachePlan,
    progress: Callable[[int], None] | None,
) -> dict[str, Tensor]:
    """The tensors of one shard: index, label, and for each orientation mean, logvar and teacher."""
    parts = []
    for batch in images:
        assert batch.pixels is not None, f"{plan.dataset} has no pixels to encode"
        part = {"index": batch.index} if batch.label is None else {"index": batch.index, "label": batch.label}
        for suffix, pixels in (("", batch.pixels), ("_flip", batch.pixels.flip(-1)))[: 1 + plan.flips]:
            part |= {name + suffix: _stored(value, name, batch, plan) for name, value in run(pixels).items()}
        parts.append(part)
        if progress:
            progress(len(batch))
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def _stored(value: Tensor, name: str, batch: Batch, plan: CachePlan) -> Tensor:
    """The value in the cache's number format; if not finite there, a ValueError that names the image."""
    assert len(value) == len(batch), f"{name} has {len(value)} rows for {len(batch)} images"
    value = value.detach().to("cpu", DTYPES[plan.dtype])
    bad = ~value.flatten(1).isfinite().all(1)  # (B,)
    if bad.any():
        image = int(batch.index[bad][0])
        raise ValueError(
            f"{name} of image {image} of {plan.dataset} is not finite in {plan.dtype}; check the encoder"
        )
    return value


def _described(path: Path) -> dict[str, Any]:
    """Shape of one image's row and number format of each tensor in a shard."""
    tensors, _ = read_weights(path)
    return {
        name: {"shape": list(tensor.shape[1:]), "dtype": str(tensor.dtype).removeprefix("torch.")}
        for name, tensor in tensors.items()
    }


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# ---- reading -----------------------------------------------------------------------------------------------


class LatentDataset:
    """A written cache as a dataset of moments, labels and teacher tokens (float32 whatever the cache holds).

    `identity` names the encoder the caller is about to use, `teacher_identity` the teacher whose tokens it
    wants (None: they are not read). A cache made by another is a ValueError, as are a missing, cut or altered
    shard. `in_memory` True reads all of it at once and compares each shard's SHA-256; False maps the files,
    reads what is asked and compares sizes only.
    """

    def __init__(
        self,
        folder: Path | str,
        *,
        identity: str,
        teacher_identity: str | None = None,
        in_memory: bool = True,
    ):
        self.folder = Path(folder)
        self.plan, shards = _read_index(self.folder)
        _match("encoder", self.plan.identity, identity, self.folder)
        if teacher_identity is not None:
            _match("teacher", self.plan.teacher, teacher_identity, self.folder)
        parts = [_read_shard(self.folder, shard, self.plan, verify=in_memory) for shard in shards]
        if teacher_identity is None:
            parts = [{name: part[name] for name in part if not name.startswith("teacher")} for part in parts]
        self._parts = (
            [{name: torch.cat([part[name] for part in parts]) for name in parts[0]}] if in_memory else parts
        )
        starts = [0, *itertools.accumulate(len(part["index"]) for part in self._parts)]
        self._starts = torch.tensor(starts)  # (parts + 1,)

    @property
    def identity(self) -> str:
        """Names encoder, dataset and format."""
        return f"latents {config_id(self.plan)} of {self.plan.dataset} by {self.plan.identity}"

    @property
    def gate(self) -> str:
        """What the gate said of the encoder: "passed", "warned", or "off" where it was not asked."""
        return _outcome(self.folder)

    @property
    def num_classes(self) -> int:
        """Of the encoded dataset."""
        return self.plan.num_classes

    @property
    def resolution(self) -> int:
        """Of the pixels that were encoded."""
        return self.plan.resolution

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one image's mean."""
        return tuple(self._parts[0]["mean"].shape[1:])

    def __len__(self) -> int:
        return self.plan.num_images

    def read(self, indices: Tensor, flip: Tensor | None = None) -> Batch:
        """Moments, labels, teacher tokens of images `indices` (B,); of the mirrored where `flip` is True."""
        indices = checked(indices, len(self))
        if flip is not None and not self.plan.flips:
            raise ValueError(
                f"{self.folder} holds no mirrored moments; write it with flips, or train without"
            )
        mean = self._oriented("mean", indices, flip)
        assert mean is not None, f"{self.folder} has no means"
        return Batch(
            index=indices,
            moments=(mean, self._oriented("logvar", indices, flip)),
            label=self._rows("label", indices),
            teacher=self._oriented("teacher", indices, flip),
            flip=flip,
        )

    def _oriented(self, name: str, indices: Tensor, flip: Tensor | None) -> Tensor | None:
        value = self._rows(name, indices)
        if value is None:
            return None
        if flip is not None and flip.any():
            mirrored = self._rows(f"{name}_flip", indices[flip])
            assert mirrored is not None, f"{name}_flip is absent"
            value[flip] = mirrored
        return value.float()

    def _rows(self, name: str, indices: Tensor) -> Tensor | None:
        """Rows (B, ...) of one tensor, gathered from the parts that hold them."""
        if name not in self._parts[0]:
            return None
        if len(self._parts) == 1:
            return self._parts[0][name][indices]
        owner = torch.searchsorted(self._starts, indices, right=True) - 1  # (B,)
        first = self._parts[0][name]
        rows = torch.empty(len(indices), *first.shape[1:], dtype=first.dtype)
        for number in owner.unique().tolist():
            mine = owner == number
            rows[mine] = self._parts[number][name][indices[mine] - self._starts[number]]
        return rows


def _read_index(folder: Path) -> tuple[CachePlan, list[Shard]]:
    path = folder / "index.json"
    if not path.is_file():
        raise ValueError(
            f"no finished latent cache in {folder} (no index.json); run `flowlab encode` to make or finish it"
        )
    content = read_json(path)
    if not isinstance(content, dict) or {"plan", "shards"} - content.keys():
        raise ValueError(f"{path} is not the index of a latent cache; delete the folder and encode again")
    plan = from_dict(CachePlan, content["plan"], f"{path}: plan")
    shards = from_dict(tuple[Shard, ...], content["shards"], f"{path}: shards")
    found = sum(shard.num_images for shard in shards)
    if found != plan.num_images:
        raise ValueError(
            f"{path} lists {found} of {plan.num_images} images; delete {folder} and encode again"
        )
    return plan, list(shards)


def _match(what: str, found: str | None, wanted: str, folder: Path) -> None:
    if found != wanted:
        raise ValueError(f"{folder} was made by {what} {found!r}, not {wanted!r}; encode into another folder")


def _read_shard(folder: Path, shard: Shard, plan: CachePlan, *, verify: bool) -> dict[str, Tensor]:
    path = folder / shard.file
    again = "delete it and run `flowlab encode` again"
    if not path.is_file():
        raise ValueError(f"the latent shard {path} is missing; run `flowlab encode` again")
    size = path.stat().st_size
    if size != shard.bytes:
        raise ValueError(f"the latent shard {path} has {size} bytes instead of {shard.bytes}; {again}")
    if verify and _sha256(path) != shard.sha256:
        raise ValueError(f"the latent shard {path} was altered (index.json has another SHA-256); {again}")
    tensors, header = read_weights(path)
    if header.get("plan") != config_id(plan):
        raise ValueError(f"the latent shard {path} belongs to another cache; {again}")
    return tensors
