"""A page to look at reconstructions side by side: one file, no request, zoom and pan shared by all panels."""

from __future__ import annotations

import base64
import html
import io
import json
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

import torch
from torch import Tensor

from flowlab.core.files import atomic_path
from flowlab.data.transforms import to_pil
from flowlab.evaluate.reconstruction import RoundTrip
from flowlab.metrics.paired import psnr

__all__ = ["Chosen", "page", "spread", "write"]


class Chosen:
    """Keeps some images of round trips, by their positions in the data set; see `evaluate(watch=...)`."""

    def __init__(self, indices: Sequence[int]):
        self.indices = tuple(indices)
        self._kept: dict[int, tuple[Tensor, Tensor]] = {}

    def __call__(self, trip: RoundTrip) -> None:
        for i, index in enumerate(trip.index.tolist()):
            if index in self.indices:
                self._kept[index] = (trip.originals[i], trip.outputs[i])

    @property
    def originals(self) -> Tensor:
        """uint8 (n, 3, H, W), in the order of `indices`."""
        return torch.stack([self._kept[index][0] for index in self.indices])

    @property
    def outputs(self) -> Tensor:
        """uint8 (n, 3, H, W): their reconstructions."""
        return torch.stack([self._kept[index][1] for index in self.indices])


def spread(num: int, num_images: int) -> tuple[int, ...]:
    """`num` positions spread evenly over a data set of `num_images`, the first included; all where fewer."""
    if num < 1:
        raise ValueError(f"a viewer of {num} images shows nothing; ask for at least 1")
    num = min(num, num_images)
    return tuple(i * num_images // num for i in range(num))


def write(path: Path, indices: Sequence[int], originals: Tensor, outputs: dict[str, Tensor]) -> None:
    """Write `page` to a file, whole or not at all."""
    with atomic_path(path) as draft:
        draft.write_text(page(indices, originals, outputs), encoding="utf-8")


def page(indices: Sequence[int], originals: Tensor, outputs: dict[str, Tensor]) -> str:
    """The HTML of uint8 originals (n, 3, H, W) beside the reconstructions of each named autoencoder, as many.

    A difference is reconstruction minus original per colour, times a gain, around mid-grey.
    """
    for name, images in outputs.items():
        if images.shape != originals.shape:
            raise ValueError(
                f"{name} has pictures {tuple(images.shape)}, the originals are {tuple(originals.shape)}; "
                "show the same images of all"
            )
    decibel = [psnr(images, originals).tolist() for images in outputs.values()]
    images = [
        {
            "index": index,
            "original": _uri(originals[i]),
            "outputs": [_uri(some[i]) for some in outputs.values()],
            "psnr": [numbers[i] for numbers in decibel],
        }
        for i, index in enumerate(indices)
    ]
    table = json.dumps({"names": list(outputs), "images": images}).replace("</", "<\\/")
    pieces = {
        name: files("flowlab.evaluate").joinpath(f"viewer.{name}").read_text() for name in ("css", "js")
    }
    return _PAGE.format(panels=_panels(list(outputs)), columns=len(outputs) + 1, table=table, **pieces)


# ---- pieces ------------------------------------------------------------------------------------------------

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
  content="default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'">
<title>Reconstructions side by side</title>
<style>
{css}</style>
</head>
<body>
<h1>Reconstructions side by side</h1>
<header>
<span><button id="previous" aria-label="previous image">&#9664;</button>
<button id="next" aria-label="next image">&#9654;</button> <output id="number"></output></span>
<span>zoom <button id="further" aria-label="zoom out">&minus;</button>
<button id="closer" aria-label="zoom in">+</button>
<output id="zoom-value"></output> <button id="whole">whole image</button></span>
<label>difference gain <input id="gain" type="range" min="0" max="6" step="1" value="2">
<output id="gain-value"></output></label>
<span><kbd>&larr;</kbd> <kbd>&rarr;</kbd> image &middot; wheel, <kbd>+</kbd> <kbd>&minus;</kbd> zoom
&middot; drag to move &middot; <kbd>0</kbd> whole</span>
</header>
<main class="panels" style="--columns: {columns}">
{panels}
</main>
<script type="application/json" id="pictures">{table}</script>
<script>
{js}</script>
</body>
</html>
"""

_LEGEND = """<div class="legend">
<p>Below each reconstruction: reconstruction minus original, per colour, times the gain. Grey = equal,
brighter = too much, darker = too little.</p>
<div class="ramp"></div>
<div class="ends"><span>too little</span><span>equal</span><span>too much</span></div>
</div>"""


def _panels(names: Sequence[str]) -> str:
    """First row: the original and the reconstructions; second row: the legend and the differences."""
    titles = [html.escape(name) for name in names]
    first = [_panel("original", "<b>original</b>")]
    first += [
        _panel(f"{name}, reconstruction", f'<b>{name}</b> <span id="psnr-{i}"></span>')
        for i, name in enumerate(titles)
    ]
    second = [_LEGEND, *(_panel(f"{name}, difference", f"{name}, difference") for name in titles)]
    return "\n".join(first + second)


def _panel(label: str, caption: str) -> str:
    canvas = f'<canvas role="img" aria-label="{label}"></canvas>'
    return f"<figure>{canvas}<figcaption>{caption}</figcaption></figure>"


def _uri(image: Tensor) -> str:
    """uint8 (3, H, W) => a PNG as a data URI: lossless, so that the page's differences are exact."""
    buffer = io.BytesIO()
    to_pil(image).save(buffer, "png")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
