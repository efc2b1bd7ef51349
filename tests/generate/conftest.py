"""What the tests of prompted generation share."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image
from tests.generate.small import save_flux2

from flowlab.core.seeds import Streams
from flowlab.data.transforms import to_pil
from flowlab.generate.pipeline import Pipeline


@pytest.fixture(scope="session")
def model_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny FLUX.2."""
    return save_flux2(tmp_path_factory.mktemp("flux") / "model.safetensors")


@pytest.fixture(scope="session")
def pipeline(model_file: Path) -> Pipeline:
    """Around it."""
    return Pipeline.from_pretrained(model_file)


@pytest.fixture(scope="session")
def picture() -> Image.Image:
    """48 x 32 coloured noise in large spots."""
    noise = Streams.for_samples(0, torch.arange(1), purpose="picture").uniform(3, 4, 6)
    return to_pil((noise[0] * 255).to(torch.uint8).repeat_interleave(8, 1).repeat_interleave(8, 2))
