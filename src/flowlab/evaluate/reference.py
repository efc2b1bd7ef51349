"""The judge, and the held-out images that it judges against: the yardstick that all rows of a study share."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flowlab.core.config import config_id
from flowlab.core.devices import default_device, device_of
from flowlab.core.pixels import to_float, to_uint8
from flowlab.core.weights import read_weights, tensors_id, write_weights
from flowlab.data import datasets
from flowlab.data.batch import in_order
from flowlab.features.embedded import Judge, load_judge
from flowlab.metrics.frechet import Reference, frechet_bootstrap, statistics
from flowlab.metrics.kernel import kernel_distance

__all__ = ["JUDGE_SIDE", "Yardstick", "features_of", "resized", "seen_at", "yardstick"]

JUDGE_SIDE = 32
"""Pixels per side of the images that the embedded judge was trained on."""


@dataclass(frozen=True)
class Yardstick:
    """Reference features and the network that made them."""

    judge: Judge
    features_name: str
    """What a column or an axis must say beside the number, such as "digits judge"."""
    reference: Reference
    features: Tensor
    """(n, d) float32."""

    def distances(self, images: Tensor) -> dict[str, float]:
        """uint8 (n, 3, H, W) => fid and its bootstrap standard error, kid and its standard error.

        That of fid is of the generated images alone. kid is of one subset: all generated images against as
        many of the reference, and its error is of both.
        """
        parts = images.split(250)  # large ones are not all held as floats
        features = torch.cat([features_of(self.judge, resized(part, JUDGE_SIDE)) for part in parts])
        kid = kernel_distance(features, self.features, num_subsets=1, subset_size=len(features))
        return {
            "fid": self.reference.distance(statistics(features)),
            "fid_se": frechet_bootstrap(features, self.reference),
            "kid": kid.distance,
            "kid_se": kid.standard_error,
        }


def yardstick(
    dataset: str,
    resolution: int,
    num_images: int,
    judge: str,
    cache: Path | str,
    *,
    split: str = "heldout",
    resize: str = "exact",
) -> Yardstick:
    """Features of the first `num_images` held-out images, read from the cache or computed and kept there.

    Images of another size than the judge knows are resized for it, and the features' name says so.
    """
    network, name = load_judge(judge).to(default_device()), seen_at(judge, resolution, JUDGE_SIDE)
    data = datasets.load(dataset, split, num_images=num_images, resolution=resolution, resize=resize)
    identity = config_id([data.identity, name, tensors_id(network.state_dict())])
    path = Path(cache) / f"reference_{identity}.safetensors"
    if not path.is_file():
        batches = (batch.pixels for batch in in_order(data, batch_size=250))
        found = [
            features_of(network, resized(pixels, JUDGE_SIDE)) for pixels in batches if pixels is not None
        ]
        write_weights(path, {"features": torch.cat(found)}, {"dataset": data.identity, "features": name})
    features = read_weights(path)[0]["features"]
    return Yardstick(network, name, Reference(statistics(features)), features)


@torch.no_grad()
def features_of(network: nn.Module, images: Tensor, batch_size: int = 32) -> Tensor:
    """uint8 (n, 3, H, W) => (n, d) float32 on the CPU."""
    device = device_of(network)
    return torch.cat([network(part.to(device)).float().cpu() for part in images.split(batch_size)])


def resized(images: Tensor, side: int) -> Tensor:
    """uint8 (B, 3, H, W) => uint8 (B, 3, side, side), antialiased bilinear; the same where they fit."""
    if images.shape[2:] == (side, side):
        return images
    smaller = F.interpolate(to_float(images), (side, side), mode="bilinear", antialias=True)
    return to_uint8(smaller)


def seen_at(name: str, resolution: int, side: int | None) -> str:
    """The features' name, with the resize where there was one: it moves every number."""
    return name if side in (None, resolution) else f"{name} at {side} px"
