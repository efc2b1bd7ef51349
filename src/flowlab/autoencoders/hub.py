"""Weights from the Hugging Face hub, through its cache; the one file that touches huggingface_hub."""

from __future__ import annotations

import re
from pathlib import Path

from flowlab.autoencoders.formats import PICKLES

__all__ = ["WEIGHTS", "fetch", "is_hub_id"]

HUB_ID = re.compile(r"(?P<repo>\w[\w.-]*/\w[\w.-]*)(/(?P<folder>\w[\w.-]*)|:(?P<file>\w[\w./-]*))?")
WEIGHTS = (".safetensors", *PICKLES)
"""A name that ends so is a path on disk, found or not."""
FOLDERS = ("", "vae")
"""Where a repository may keep its autoencoder, in the order of looking."""


def is_hub_id(name: str) -> bool:
    """Whether `name` reads as "org/name", "org/name/folder" or "org/name:file.safetensors"."""
    return HUB_ID.fullmatch(name) is not None and (":" in name or Path(name).suffix not in WEIGHTS)


def fetch(name: str) -> Path:
    """The local file or folder of a hub id; a diffusers folder, unless the id names a file.

    What is in the cache is used without a network. Whatever stops the download is a ValueError of one line.
    """
    match = HUB_ID.fullmatch(name)
    assert match is not None, f"{name!r} is no hub id"
    try:
        from huggingface_hub import hf_hub_download, snapshot_download
    except ImportError as problem:
        raise ValueError(
            f"there is no {name} on disk, and the hub needs huggingface_hub; install flowlab with its extra:"
            " flowlab[zoo]"
        ) from problem
    repo, folder, file = match["repo"], match["folder"], match["file"]
    folders = FOLDERS if folder is None else (folder,)
    try:
        if file is not None:
            return Path(hf_hub_download(repo, file))
        files = ("config.json", "diffusion_pytorch_model*.safetensors*", "diffusion_pytorch_model*.bin")
        wanted = [str(Path(place) / file) for place in folders for file in files]
        root = Path(
            snapshot_download(repo, allow_patterns=wanted, ignore_patterns=["*.fp16.*", "*.non_ema.*"])
        )
    except Exception as problem:  # the hub's own are OSErrors; those of a proxy and of a timeout are not
        reason = (str(problem).strip() or type(problem).__name__).splitlines()[0]
        raise ValueError(
            f"there is no {name} on disk, and the hub does not give it ({reason}); fetch it and give its path"
        ) from problem
    return _chosen(root, folders, name)


def _chosen(root: Path, folders: tuple[str, ...], name: str) -> Path:
    for place in folders:
        if (root / place / "config.json").is_file():
            return root / place
    places = " or ".join(place or "the root" for place in folders)
    raise ValueError(f"{name} has no diffusers model in {places}; name a file of it as {name}:ae.safetensors")
