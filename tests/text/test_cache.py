"""The token cache: to the bit, by prompt, resumable, and never of another encoder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from flowlab.text import cache
from flowlab.text.base import TextFeatures
from flowlab.text.cache import CachedText, TokenCache
from flowlab.text.embedded import EmbeddedText

PROMPTS = ["a red star", "", "a blue ring", "a red star", 'with "quotes", é and a\nnew line']


class Counting:
    """Three tokens of two bfloat16 channels and a pooled vector; remembers the prompts it was asked for."""

    identity, width, length = "counting 1", 2, 3

    def __init__(self) -> None:
        self.asked: list[str] = []

    def encode(self, prompts: Sequence[str]) -> TextFeatures:
        self.asked += prompts
        tokens = torch.stack([self._tokens(prompt) for prompt in prompts])
        return TextFeatures(tokens, tokens.sum(1))

    def num_tokens(self, prompt: str) -> int:
        return len(prompt.split())

    def _tokens(self, prompt: str) -> torch.Tensor:
        generator = torch.Generator().manual_seed(sum(prompt.encode()))
        return torch.randn(self.length, self.width, generator=generator).bfloat16()


class Killed(Exception):
    """Stands for the end of the process."""


def test_features_come_back_to_the_bit_and_are_encoded_once(tmp_path: Path) -> None:
    encoder = Counting()
    cached = CachedText(encoder, tmp_path)
    first, expected = cached.encode(PROMPTS), Counting().encode(PROMPTS)
    again = CachedText(encoder, tmp_path).encode(PROMPTS)
    assert encoder.asked == list(dict.fromkeys(PROMPTS))
    for features in (first, again):
        assert torch.equal(features.tokens, expected.tokens) and features.tokens.dtype == torch.bfloat16
        assert features.pooled is not None and expected.pooled is not None
        assert torch.equal(features.pooled, expected.pooled)


def test_a_cached_encoder_is_one_like_its_own(tmp_path: Path) -> None:
    encoder = EmbeddedText()
    cached = CachedText(encoder, tmp_path)
    assert (cached.identity, cached.width, cached.length) == (encoder.identity, 128, 64)
    assert cached.num_tokens("a red ring") == 3
    assert torch.equal(cached.encode(PROMPTS).tokens, encoder.encode(PROMPTS).tokens)
    assert cached.encode(PROMPTS).pooled is None


def test_reading_needs_no_encoder(tmp_path: Path) -> None:
    CachedText(EmbeddedText(), tmp_path).fill(PROMPTS)
    reader = TokenCache(tmp_path, identity=EmbeddedText().identity)
    assert len(reader) == 4 and "a blue ring" in reader and "a ring" not in reader
    assert (reader.width, reader.length) == (128, 64)
    found = reader.read(PROMPTS[::-1]).tokens
    assert torch.equal(found, EmbeddedText().encode(PROMPTS[::-1]).tokens)
    with pytest.raises(ValueError, match="lacks 1 of 2 prompts, first 'a ring'; encode them first"):
        reader.read(["a red star", "a ring"])


def test_a_killed_run_goes_on_behind_the_last_shard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "SHARD_BYTES", 2 * 4 * Counting.width * Counting.length)  # two prompts a shard
    prompts = [f"ring {i}" for i in range(7)]

    def stop(_: int) -> None:
        raise Killed

    killed = Counting()
    with pytest.raises(Killed):
        CachedText(killed, tmp_path).fill(prompts, progress=stop)
    (tmp_path / ".tokens_0123.safetensors.77.part").write_bytes(b"half")  # as a kill within a write leaves it
    rest, counts = Counting(), []
    cached = CachedText(rest, tmp_path)
    cached.fill(prompts, progress=counts.append)
    assert (killed.asked, rest.asked) == (prompts[:2], prompts[2:])
    assert counts == [2, 2, 2, 1]
    assert len(list(tmp_path.glob("tokens_*.safetensors"))) == 4
    assert torch.equal(cached.encode(prompts).tokens, Counting().encode(prompts).tokens)


def test_another_encoder_is_refused(tmp_path: Path) -> None:
    CachedText(Counting(), tmp_path).fill(PROMPTS)
    with pytest.raises(ValueError, match="was made by text encoder 'counting 1', not 'embedded text"):
        CachedText(EmbeddedText(), tmp_path)
    with pytest.raises(ValueError, match="'counting 1', not 'counting 2'; use another folder"):
        TokenCache(tmp_path, identity="counting 2")


def test_a_shard_of_another_encoder_is_refused(tmp_path: Path) -> None:
    CachedText(Counting(), tmp_path / "one").fill(PROMPTS)
    CachedText(EmbeddedText(), tmp_path / "two").fill(PROMPTS)
    shard = next((tmp_path / "two").glob("tokens_*"))
    (tmp_path / "one" / "tokens_f.safetensors").write_bytes(shard.read_bytes())
    with pytest.raises(ValueError, match="tokens_f.safetensors is by text encoder 'embedded"):
        TokenCache(tmp_path / "one", identity="counting 1")


def test_a_cut_shard_and_a_missing_index_are_named(tmp_path: Path) -> None:
    CachedText(Counting(), tmp_path).fill(PROMPTS)
    shard = next(tmp_path.glob("tokens_*"))
    shard.write_bytes(shard.read_bytes()[:-3])
    with pytest.raises(ValueError, match=f"{shard.name} is not a whole safetensors file.*delete it"):
        TokenCache(tmp_path, identity="counting 1")
    with pytest.raises(ValueError, match="no token cache in .*no cache.json.*encode the prompts first"):
        TokenCache(tmp_path / "empty", identity="counting 1")
