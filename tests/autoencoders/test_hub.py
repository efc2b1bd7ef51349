"""The hub without a network: a cache on disk stands in for it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from flowlab.autoencoders import hub, load, save_diffusers, save_official
from flowlab.autoencoders.kl import KLAutoencoder, KLSpec

COMMIT = "0" * 40


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    """A cache with org/vae (a folder at the root), org/pipeline (in vae/) and org/files (a single file)."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    torch.manual_seed(0)
    spec = KLSpec(latent_channels=4, channels=32, multipliers=(1, 1, 1, 1), num_res_blocks=1, scale=0.18215)
    model = KLAutoencoder(spec)
    for name in ("vae", "pipeline", "files"):
        repository = tmp_path / f"models--org--{name}"
        (repository / "refs").mkdir(parents=True)
        (repository / "refs" / "main").write_text(COMMIT)
        snapshot = repository / "snapshots" / COMMIT
        if name == "files":
            save_official(model, snapshot / "ae.safetensors")
        else:
            save_diffusers(model, snapshot / "vae" if name == "pipeline" else snapshot)
    return tmp_path


def test_ids_lead_to_the_cached_files(cache):
    found = [
        load(name).identity
        for name in ("org/vae", "org/pipeline", "org/pipeline/vae", "org/files:ae.safetensors")
    ]
    assert len(set(found)) == 1


class ReadTimeout(Exception):
    """As the network library's, which is no OSError and has no words."""


@pytest.mark.parametrize("name", ["org/vae", "org/files:ae.safetensors"])
@pytest.mark.parametrize(("fault", "words"), [(ReadTimeout(), "ReadTimeout"), (ReadTimeout("403"), "403")])
def test_whatever_stops_the_download_is_one_line(monkeypatch, name, fault, words):
    import huggingface_hub

    def stopped(*args, **settings):
        raise fault

    for fetch in ("hf_hub_download", "snapshot_download"):
        monkeypatch.setattr(huggingface_hub, fetch, stopped)
    with pytest.raises(
        ValueError, match=rf"the hub does not give it \({words}\); fetch it and give its path"
    ):
        load(name)


def test_a_folder_on_disk_comes_first(cache, tmp_path, monkeypatch):
    shutil.copytree(hub.fetch("org/pipeline"), tmp_path / "here" / "org" / "vae")
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr(hub, "fetch", None)
    load("org/vae")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "org/absent",
            r"there is no org/absent on disk, and the hub does not give it \(.+\); fetch it and give",
        ),
        (
            "org/files",
            "org/files has no diffusers model in the root or vae; name a file of it as org/files:ae",
        ),
        ("org/vae/other", "org/vae/other has no diffusers model in other"),
        ("org/absent:ae.safetensors", "the hub does not give it"),
        ("org/missing.safetensors", "no weights at org/missing.safetensors"),
        ("./org/vae", "unknown autoencoder .* './org/vae'; choose from: sd, flux1"),
        ("flux9", "unknown autoencoder .*hub id.* 'flux9'; choose from: sd, flux1"),
        ("flux2_f8c32", "flux2_f8c32 ships without weights; give the path or the hub id"),
    ],
)
def test_what_cannot_be_found_is_one_line(cache, name, message):
    with pytest.raises(ValueError, match=message) as caught:
        load(name)
    assert "\n" not in str(caught.value)
