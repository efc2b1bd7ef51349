"""The token cache: features of prompts on disk, by prompt and by the encoder that made them.

A cache folder holds `cache.json`, which names the encoder, and shards `tokens_<hash>.safetensors`, each with
the prompts of its rows in its header. A shard is written whole or not at all, so a run that is killed and
started again goes on behind the last one. Features come back to the bit, in the encoder's number format.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from flowlab.core.config import from_dict, to_dict
from flowlab.core.files import read_json, write_json
from flowlab.core.weights import read_weights, write_weights
from flowlab.text.base import SHOWN, TextEncoder, TextFeatures

__all__ = ["CachedText", "TokenCache"]

SHARD_BYTES = 1 << 28
"""The most a shard holds, counted as float32: 8 prompts of FLUX.2 dev, or 8,192 of the embedded encoder."""


@dataclass(frozen=True, kw_only=True)
class CacheIndex:
    """What all features of a cache have in common."""

    identity: str
    """The encoder."""
    width: int
    length: int
    version: int = 1
    """Of this format."""


class TokenCache:
    """Prompts => features that were stored. A folder made by another encoder than `identity` is a ValueError.

    Files are mapped, not read: a prompt costs memory when it is asked for.
    """

    def __init__(self, folder: Path | str, *, identity: str):
        self.folder = Path(folder)
        self.index = _read_index(self.folder)
        if self.index.identity != identity:
            raise ValueError(
                f"{self.folder} was made by text encoder {self.index.identity!r}, not {identity!r};"
                " use another folder"
            )
        self._shards: dict[str, dict[str, Tensor]] = {}
        self._rows: dict[str, tuple[str, int]] = {}  # prompt => shard, row
        for path in sorted(self.folder.glob("tokens_*.safetensors")):
            self._open(path)

    @property
    def identity(self) -> str:
        """The encoder's."""
        return self.index.identity

    @property
    def width(self) -> int:
        """Channels of a token."""
        return self.index.width

    @property
    def length(self) -> int:
        """Tokens of a prompt."""
        return self.index.length

    def __len__(self) -> int:
        return len(self._rows)

    def __contains__(self, prompt: str) -> bool:
        return prompt in self._rows

    def read(self, prompts: Sequence[str]) -> TextFeatures:
        """Features of at least one prompt, on the CPU; one that is not stored is a ValueError."""
        absent = [prompt for prompt in prompts if prompt not in self._rows]
        if absent:
            raise ValueError(
                f"{self.folder} lacks {len(absent)} of {len(prompts)} prompts, first {absent[0][:SHOWN]!r};"
                " encode them first"
            )
        places = [self._rows[prompt] for prompt in prompts]
        tokens = torch.stack([self._shards[shard]["tokens"][row] for shard, row in places])
        if "pooled" not in self._shards[places[0][0]]:
            return TextFeatures(tokens)
        return TextFeatures(
            tokens, torch.stack([self._shards[shard]["pooled"][row] for shard, row in places])
        )

    def write(self, prompts: Sequence[str], features: TextFeatures) -> None:
        """Store the features of B different prompts as one shard."""
        expected = (len(set(prompts)), self.length, self.width)
        assert features.tokens.shape == expected, f"{tuple(features.tokens.shape)=}, {expected=}"
        tensors = {"tokens": features.tokens.cpu()}
        if features.pooled is not None:
            tensors["pooled"] = features.pooled.cpu()
        text = json.dumps(list(prompts))
        path = self.folder / f"tokens_{hashlib.sha256(text.encode()).hexdigest()[:16]}.safetensors"
        write_weights(path, tensors, {"identity": self.identity, "prompts": text})
        self._open(path)

    def _open(self, path: Path) -> None:
        tensors, header = read_weights(path)
        if header.get("identity") != self.identity:
            raise ValueError(
                f"{path} is by text encoder {header.get('identity')!r}, not {self.identity!r}; delete it"
            )
        self._shards[path.name] = tensors
        self._rows |= {prompt: (path.name, row) for row, prompt in enumerate(json.loads(header["prompts"]))}


class CachedText:
    """A text encoder that looks into a cache before it encodes, and stores what it had to encode.

    Features are given on the CPU. A new folder is made; one of another encoder is a ValueError. That a prompt
    was cut is said when it is encoded, not when it is read.
    """

    def __init__(self, encoder: TextEncoder, folder: Path | str):
        self.encoder = encoder
        self.identity, self.width, self.length = encoder.identity, encoder.width, encoder.length
        if not (Path(folder) / INDEX).exists():
            index = CacheIndex(identity=self.identity, width=self.width, length=self.length)
            write_json(Path(folder) / INDEX, to_dict(index))
        self.cache = TokenCache(folder, identity=self.identity)

    def encode(self, prompts: Sequence[str]) -> TextFeatures:
        """Features of at least one prompt, of the new ones after they were stored."""
        self.fill(prompts)
        return self.cache.read(prompts)

    def num_tokens(self, prompt: str) -> int:
        """As the encoder counts."""
        return self.encoder.num_tokens(prompt)

    def fill(self, prompts: Sequence[str], progress: Callable[[int], None] | None = None) -> None:
        """Encode and store those of the prompts that are not stored; `progress(n)` as n more are done."""
        different = list(dict.fromkeys(prompts))
        new = [prompt for prompt in different if prompt not in self.cache]
        if progress and len(new) < len(different):
            progress(len(different) - len(new))
        per_shard = max(1, SHARD_BYTES // (4 * self.width * self.length))
        for start in range(0, len(new), per_shard):
            part = new[start : start + per_shard]
            self.cache.write(part, self.encoder.encode(part))
            if progress:
                progress(len(part))


INDEX = "cache.json"


def _read_index(folder: Path) -> CacheIndex:
    path = folder / INDEX
    if not path.is_file():
        raise ValueError(f"no token cache in {folder} (no {INDEX}); encode the prompts first")
    return from_dict(CacheIndex, read_json(path), str(path))
