"""The reference of a distance as a file: statistics, and all that must match before two may be compared.

Our own form is safetensors; ADM's npz (Dhariwal and Nichol 2021, the `VIRTUAL_imagenet256` files: mu, sigma,
mu_s, sigma_s, arr_0) is read as well. Features, resize policy and quantisation are part of a metric's
meaning: a file that differs in one of them is refused with both named.
"""

from __future__ import annotations

import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from flowlab.core.weights import read_weights, write_weights
from flowlab.metrics.statistics import Statistics

__all__ = ["ReferenceFile", "check_match", "read_adm", "read_reference", "write_reference"]


@dataclass(frozen=True, kw_only=True, eq=False)
class ReferenceFile:
    """Reference statistics and what they were made from."""

    statistics: Statistics
    """Of the pooled features: mu, sigma, n."""
    features: str
    """Name of the feature network, such as "digits judge" or "inception 6726825d"."""
    policy: str
    """Resize and quantisation before the network, such as "32px as is, rounded uint8"."""
    dataset: str
    """Identity of the images (a dataset's `identity`, or the file's name for published statistics)."""
    spatial: Statistics | None = None
    """Of the spatial features (mu_s, sigma_s, for sFID)."""
    images: Tensor | None = None
    """(n, 3, H, W) uint8 reference images (arr_0, for precision and recall)."""


def write_reference(path: Path | str, reference: ReferenceFile) -> None:
    """Write statistics and their identity atomically as safetensors; reference images are not stored."""
    tensors = {"mu": reference.statistics.mean, "sigma": reference.statistics.covariance}
    metadata = {"format": _FORMAT, "n": str(reference.statistics.n)}
    metadata |= {name: str(getattr(reference, name)) for name in _IDENTITY}
    if reference.spatial is not None:
        tensors |= {"mu_s": reference.spatial.mean, "sigma_s": reference.spatial.covariance}
        metadata |= {"n_s": str(reference.spatial.n)}
    write_weights(path, tensors, metadata)


def read_reference(
    path: Path | str, *, features: str | None = None, policy: str | None = None, dataset: str | None = None
) -> ReferenceFile:
    """Read a file of `write_reference`; a given name that differs from the file's is a ValueError with both.

    Missing, truncated or foreign files are a ValueError of one line.
    """
    tensors, metadata = read_weights(path)
    missing = [name for name in ("mu", "sigma") if name not in tensors]
    missing += [name for name in ("n", *_IDENTITY) if name not in metadata]
    if metadata.get("format") != _FORMAT or missing:
        lacks = ", ".join(missing) or "the format mark"
        raise ValueError(f"{path} is not a file of reference statistics (lacks {lacks}); write it again")
    spatial = None
    if "mu_s" in tensors:
        spatial = _from_file(path, metadata.get("n_s", ""), tensors["mu_s"], tensors.get("sigma_s"))
    reference = ReferenceFile(
        statistics=_from_file(path, metadata["n"], tensors["mu"], tensors["sigma"]),
        features=metadata["features"],
        policy=metadata["policy"],
        dataset=metadata["dataset"],
        spatial=spatial,
    )
    check_match(reference, features=features, policy=policy, dataset=dataset, where=str(path))
    return reference


def read_adm(
    path: Path | str, *, num_images: int, features: str, policy: str, dataset: str | None = None
) -> ReferenceFile:
    """Read ADM's npz, or any with `mu` and `sigma`.

    Such files state neither their count nor their features: `num_images` is what the moments were computed
    from (for `VIRTUAL_imagenet256_labeled.npz` the training set, 1281167, and not the 10000 images inside).
    """
    arrays = _read_npz(path)
    if "mu" not in arrays or "sigma" not in arrays:
        raise ValueError(
            f"{path} has no mu and sigma but {', '.join(arrays) or 'nothing'}; give a file of statistics"
        )
    spatial, images = None, None
    if "mu_s" in arrays:
        spatial = _from_file(path, str(num_images), _tensor(arrays["mu_s"]), _tensor(arrays.get("sigma_s")))
    if "arr_0" in arrays:
        images = _images(path, arrays["arr_0"])
    return ReferenceFile(
        statistics=_from_file(path, str(num_images), _tensor(arrays["mu"]), _tensor(arrays["sigma"])),
        features=features,
        policy=policy,
        dataset=dataset or Path(path).name,
        spatial=spatial,
        images=images,
    )


def check_match(
    reference: ReferenceFile,
    *,
    features: str | None = None,
    policy: str | None = None,
    dataset: str | None = None,
    where: str = "the reference",
) -> None:
    """ValueError naming both where the reference was made otherwise; what is None is not compared."""
    wanted = {"features": features, "policy": policy, "dataset": dataset}
    for name, value in wanted.items():
        own = getattr(reference, name)
        if value is not None and value != own:
            raise ValueError(
                f"{where} has {name} {own!r}, wanted {value!r}; use a reference made the same way"
            )


# ---- small parts -------------------------------------------------------------------------------------------

_FORMAT = "flowlab reference 1"
_IDENTITY = ("features", "policy", "dataset")


def _from_file(path: Path | str, count: str, mean: Tensor | None, covariance: Tensor | None) -> Statistics:
    if mean is None or covariance is None or not count.isdecimal():
        raise ValueError(f"{path} lacks a mean, a covariance or a count ({count!r}); write it again")
    try:
        return Statistics.from_moments(int(count), mean, covariance)
    except ValueError as problem:
        raise ValueError(f"{path}: {problem}") from problem


def _read_npz(path: Path | str) -> dict[str, np.ndarray]:
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"no reference at {path}; give the path of an .npz file")
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, AttributeError, zipfile.BadZipFile, zlib.error) as problem:
        raise ValueError(f"{path} is not a whole npz file ({problem}); fetch or write it again") from problem


def _tensor(array: np.ndarray | None) -> Tensor | None:
    return None if array is None else torch.from_numpy(np.asarray(array, dtype=np.float64))


def _images(path: Path | str, array: np.ndarray) -> Tensor:
    """uint8 (n, H, W, 3) => (n, 3, H, W)."""
    if array.dtype != np.uint8 or array.ndim != 4 or array.shape[-1] != 3:
        raise ValueError(f"{path}: arr_0 is {array.dtype} {array.shape}; expected uint8 images (n, H, W, 3)")
    return torch.from_numpy(array).permute(0, 3, 1, 2)
