"""The moment cache: round trip, restart after a kill, and every way a cache can be the wrong one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from flowlab.core.pixels import to_float
from flowlab.data.embedded import digits, photos
from flowlab.data.latents import DTYPES, LatentDataset, default_batch, write_cache
from flowlab.data.loader import batches

DATA = digits("train", num_images=50)


def encode(images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Not symmetric under mirroring, as no encoder is."""
    mean = torch.nn.functional.avg_pool2d(to_float(images), 8) + torch.linspace(0, 1, 4)  # (B, 3, 4, 4)
    return mean, mean.abs().neg()


def teacher(images: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.avg_pool2d(to_float(images), 8).flatten(2).mT.contiguous()  # (B, 16, 3)


def write(folder: Path, **options) -> Path:
    return write_cache(
        folder, DATA, encode, **{"identity": "encoder 1", "encoder_batch": 7, "shard_size": 20, **options}
    )


def full(folder: Path, **options) -> Path:
    return write(folder, teacher=teacher, teacher_identity="teacher 1", flips=True, **options)


ROWS = torch.tensor([49, 0, 21, 20, 19, 0])


def pixels_of(rows: torch.Tensor, flip: torch.Tensor | None = None) -> torch.Tensor:
    """(B, 3, 32, 32) uint8 of the encoded dataset."""
    pixels = DATA.read(rows, flip).pixels
    assert pixels is not None
    return pixels


def mean_of(cache: LatentDataset, rows: torch.Tensor, flip: torch.Tensor | None = None) -> torch.Tensor:
    """(B, 3, 4, 4) float32."""
    moments = cache.read(rows, flip).moments
    assert moments is not None
    return moments[0]


@pytest.mark.parametrize("in_memory", [True, False])
def test_round_trip(tmp_path, in_memory):
    full(tmp_path)
    cache = LatentDataset(tmp_path, identity="encoder 1", teacher_identity="teacher 1", in_memory=in_memory)
    batch, pixels, labels = cache.read(ROWS), pixels_of(ROWS), DATA.read(ROWS).label
    mean, logvar = encode(pixels)
    assert batch.moments is not None and batch.moments[1] is not None and logvar is not None
    assert torch.allclose(batch.moments[0], mean) and torch.allclose(batch.moments[1], logvar)
    assert batch.teacher is not None and torch.allclose(batch.teacher, teacher(pixels))
    assert batch.label is not None and labels is not None and torch.equal(batch.label, labels)
    assert batch.index.tolist() == ROWS.tolist() and batch.pixels is None
    assert (len(cache), cache.shape, cache.num_classes, cache.resolution) == (50, (3, 4, 4), 10, 32)


@pytest.mark.parametrize("in_memory", [True, False])
def test_flip_gives_the_moments_of_the_mirrored_image(tmp_path, in_memory):
    full(tmp_path)
    cache = LatentDataset(tmp_path, identity="encoder 1", teacher_identity="teacher 1", in_memory=in_memory)
    flip = torch.tensor([True, False, False, True, True, False])
    tokens, pixels = cache.read(ROWS, flip).teacher, pixels_of(ROWS, flip)
    assert torch.allclose(mean_of(cache, ROWS, flip), encode(pixels)[0])
    assert tokens is not None and torch.allclose(tokens, teacher(pixels))
    assert torch.allclose(mean_of(cache, ROWS), encode(pixels_of(ROWS))[0])


def test_flip_without_mirrored_moments_is_refused(tmp_path):
    write(tmp_path)
    with pytest.raises(ValueError, match="holds no mirrored moments"):
        LatentDataset(tmp_path, identity="encoder 1").read(ROWS, ROWS == 0)


@pytest.mark.parametrize("dtype", DTYPES)
def test_dtypes(tmp_path, dtype):
    write(tmp_path, dtype=dtype)
    mean = mean_of(LatentDataset(tmp_path, identity="encoder 1"), ROWS)
    assert mean.dtype == torch.float32
    assert torch.equal(mean, encode(pixels_of(ROWS))[0].to(DTYPES[dtype]).float())


def test_tokens_are_read_only_when_asked_for(tmp_path):
    full(tmp_path)
    assert LatentDataset(tmp_path, identity="encoder 1").read(ROWS).teacher is None


def test_no_logvar_and_no_labels(tmp_path):
    pictures = photos("train", num_images=5)
    write_cache(tmp_path, pictures, lambda images: (encode(images)[0], None), identity="plain")
    batch = LatentDataset(tmp_path, identity="plain").read(torch.arange(5))
    assert batch.label is None and batch.moments is not None and batch.moments[1] is None


def test_feeds_the_loader(tmp_path):
    full(tmp_path)
    cache = LatentDataset(tmp_path, identity="encoder 1")
    batch, seen = next(batches(cache, batch_size=8, seed=0, flip=True))
    assert seen == 8 and batch.moments is not None and len(batch.moments[0]) == 8


def test_progress_adds_up_and_a_second_call_encodes_nothing(tmp_path):
    done: list[int] = []
    index = full(tmp_path, progress=done.append)
    first = index.read_bytes()
    again: list[int] = []
    write_cache(
        tmp_path, DATA, _forbidden, identity="encoder 1", shard_size=20, teacher=teacher,
        teacher_identity="teacher 1", flips=True, progress=again.append,
    )  # fmt: skip
    assert sum(done) == sum(again) == 50 and index.read_bytes() == first


def _forbidden(images: torch.Tensor):
    raise AssertionError("encoded again")


def test_result_does_not_depend_on_the_encoder_batch(tmp_path):
    write(tmp_path / "a", encoder_batch=7)
    write(tmp_path / "b", encoder_batch=50)
    a, b = (mean_of(LatentDataset(tmp_path / name, identity="encoder 1"), torch.arange(50)) for name in "ab")
    assert torch.equal(a, b)


# ---- interruption ------------------------------------------------------------------------------------------


def test_an_interrupted_run_leaves_no_index_and_continues_after_whole_shards(tmp_path):
    calls: list[int] = []

    def fails_in_the_third_shard(images: torch.Tensor):
        calls.append(len(images))
        if sum(calls) > 41:
            raise KeyboardInterrupt
        return encode(images)

    with pytest.raises(KeyboardInterrupt):
        write_cache(
            tmp_path, DATA, fails_in_the_third_shard, identity="encoder 1", encoder_batch=7, shard_size=20
        )
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "shard_00000.safetensors",
        "shard_00001.safetensors",
    ]
    with pytest.raises(ValueError, match=r"no finished latent cache .*flowlab encode"):
        LatentDataset(tmp_path, identity="encoder 1")
    encoded: list[int] = []
    write_cache(
        tmp_path, DATA, lambda images: (encoded.append(len(images)), encode(images))[1],
        identity="encoder 1", encoder_batch=7, shard_size=20,
    )  # fmt: skip
    assert sum(encoded) == 10
    found = mean_of(LatentDataset(tmp_path, identity="encoder 1"), torch.arange(50))
    assert torch.allclose(found, encode(pixels_of(torch.arange(50)))[0])


def test_sigkill_in_mid_write(tmp_path):
    source = Path(__file__).parents[2] / "src"
    program = f"""
        import sys, time
        sys.path.insert(0, {str(source)!r})
        import torch
        from flowlab.data.embedded import digits
        from flowlab.data.latents import write_cache
        def slow(images):
            time.sleep(0.05)
            return images[:, :, ::8, ::8].float(), None
        write_cache({str(tmp_path)!r}, digits("train", num_images=50), slow, identity="e",
                    encoder_batch=1, shard_size=5)
    """
    process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(program)])
    deadline = time.monotonic() + 60
    while not (tmp_path / "shard_00001.safetensors").exists():
        assert time.monotonic() < deadline and process.poll() is None, "the writer made no second shard"
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "index.json").exists()
    kept = {path: path.stat().st_mtime_ns for path in tmp_path.glob("shard_*")}

    def quick(images: torch.Tensor):
        return images[:, :, ::8, ::8].float(), None

    write_cache(tmp_path, DATA, quick, identity="e", shard_size=5)
    assert all(path.stat().st_mtime_ns == when for path, when in kept.items()) and len(kept) < 10
    found = mean_of(LatentDataset(tmp_path, identity="e"), torch.arange(50))
    assert torch.equal(found, quick(pixels_of(torch.arange(50)))[0])


# ---- the wrong cache ---------------------------------------------------------------------------------------


def refused(folder: Path, words: str, **options) -> None:
    """Opening the cache fails with one line that holds `words`."""
    with pytest.raises(ValueError, match=words) as caught:
        LatentDataset(folder, **{"identity": "encoder 1", **options})
    assert "\n" not in str(caught.value)


def test_another_encoder_or_teacher(tmp_path):
    full(tmp_path)
    refused(tmp_path, "was made by encoder 'encoder 1', not 'encoder 2'", identity="encoder 2")
    refused(tmp_path, "was made by teacher 'teacher 1', not 'teacher 2'", teacher_identity="teacher 2")
    write(tmp_path / "plain")
    refused(tmp_path / "plain", "was made by teacher None, not 'teacher 1'", teacher_identity="teacher 1")


@pytest.mark.parametrize("in_memory", [True, False])
def test_missing_and_cut_shards(tmp_path, in_memory):
    write(tmp_path)
    shard = tmp_path / "shard_00001.safetensors"
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-10])
    refused(tmp_path, r"shard_00001\.safetensors has \d+ bytes instead of \d+", in_memory=in_memory)
    shard.unlink()
    refused(tmp_path, r"shard_00001\.safetensors is missing", in_memory=in_memory)
    write(tmp_path)  # the remedy works
    assert shard.read_bytes() == whole and len(LatentDataset(tmp_path, identity="encoder 1")) == 50


def test_altered_shard(tmp_path):
    write(tmp_path)
    shard = tmp_path / "shard_00001.safetensors"
    content = bytearray(shard.read_bytes())
    content[-5] ^= 1
    shard.write_bytes(content)
    refused(tmp_path, r"shard_00001\.safetensors was altered")
    with pytest.raises(ValueError, match="was altered"):
        write(tmp_path)  # and writing again does not bless it


def test_shard_with_a_broken_header(tmp_path):
    write(tmp_path)
    shard = tmp_path / "shard_00001.safetensors"
    shard.write_bytes(b"\xff" * shard.stat().st_size)
    refused(tmp_path, r"shard_00001\.safetensors is not a whole safetensors file", in_memory=False)


def test_shard_of_another_cache(tmp_path):
    write(tmp_path / "a")
    write_cache(tmp_path / "b", DATA, encode, identity="encoder 3", shard_size=20)
    name = "shard_00001.safetensors"
    (tmp_path / "a" / name).write_bytes((tmp_path / "b" / name).read_bytes())
    refused(tmp_path / "a", "belongs to another cache", in_memory=False)


@pytest.mark.parametrize("content", ["{", "[]", '{"plan": {}}', '{"plan": {"identity": 3}, "shards": []}'])
def test_damaged_index(tmp_path, content):
    write(tmp_path)
    (tmp_path / "index.json").write_text(content)
    refused(tmp_path, r"index\.json")


def test_writing_over_another_cache_is_refused(tmp_path):
    write(tmp_path)
    with pytest.raises(ValueError, match="belongs to a cache with other settings; delete"):
        write_cache(tmp_path, DATA, encode, identity="encoder 2", shard_size=20)
    for shard in tmp_path.glob("shard_*"):
        shard.unlink()
    with pytest.raises(ValueError, match=r"index\.json belongs to a cache with other settings"):
        write(tmp_path, dtype="float16")


def test_index_says_what_it_holds(tmp_path):
    index = json.loads(full(tmp_path).read_text())
    assert index["plan"]["identity"] == "encoder 1" and index["plan"]["dataset"] == DATA.identity
    assert [shard["num_images"] for shard in index["shards"]] == [20, 20, 10]
    assert index["tensors"]["mean"] == {"shape": [3, 4, 4], "dtype": "float32"}


@pytest.mark.parametrize(
    "wrong", [{"dtype": "int8"}, {"shard_size": 0}, {"encoder_batch": 0}, {"teacher": teacher}]
)
def test_bad_settings_write_nothing(tmp_path, wrong):
    with pytest.raises(ValueError, match="latent cache"):
        write(tmp_path / "cache", **wrong)
    assert not (tmp_path / "cache").exists()


def test_values_that_are_not_finite_name_the_image(tmp_path):
    def breaks(images: torch.Tensor):
        mean, logvar = encode(images)
        return mean * 1e6, logvar

    with pytest.raises(ValueError, match=r"mean of image 0 of digits train .* is not finite in float16"):
        write_cache(tmp_path, DATA, breaks, identity="e", dtype="float16")
    assert not list(tmp_path.glob("shard_*"))


# ---- the gate ----------------------------------------------------------------------------------------------


def test_the_gate_sees_the_first_images_once_and_its_word_is_kept(tmp_path):
    seen: list[torch.Tensor] = []

    def gate(pictures: Iterator[torch.Tensor]) -> str:
        seen.append(next(pictures))
        return "warned"

    write(tmp_path, gate=gate)
    assert torch.equal(seen[0], pixels_of(torch.arange(7)))
    assert LatentDataset(tmp_path, identity="encoder 1").gate == "warned"
    index = (tmp_path / "index.json").read_bytes()
    write(tmp_path, gate=gate)
    write(tmp_path)
    assert len(seen) == 1 and (tmp_path / "index.json").read_bytes() == index


def test_a_gate_that_refuses_leaves_nothing_and_without_one_it_was_off(tmp_path):
    def gate(pictures: Iterator[torch.Tensor]) -> str:
        raise ValueError("a doubled scale")

    with pytest.raises(ValueError, match="a doubled scale"):
        write(tmp_path / "cache", gate=gate)
    assert not (tmp_path / "cache").exists()
    write(tmp_path / "cache")
    content = json.loads((tmp_path / "cache" / "index.json").read_text())
    assert content.pop("gate") == "off"
    (tmp_path / "cache" / "index.json").write_text(json.dumps(content))  # as written before there was one
    assert LatentDataset(tmp_path / "cache", identity="encoder 1").gate == "off"


def test_small_images_are_encoded_64_at_a_time_and_large_ones_by_their_pixels():
    assert [default_batch(side) for side in (32, 64, 256, 512, 2048)] == [64, 64, 8, 2, 1]
