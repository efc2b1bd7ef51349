"""A spec from diffusers' config.json alone."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

from flowlab.backbones.flux_config import CLASSES, stated, written
from flowlab.backbones.flux_sizes import FLUX_SIZES


@pytest.mark.parametrize("name", FLUX_SIZES)
def test_what_is_written_is_stated(name: str) -> None:
    assert stated(written(FLUX_SIZES[name]), "it") == FLUX_SIZES[name]


@pytest.mark.parametrize("family", CLASSES)
def test_what_is_left_out_is_diffusers_default(family: str) -> None:
    diffusers: Any = pytest.importorskip("diffusers")
    parameters = inspect.signature(getattr(diffusers, CLASSES[family])).parameters
    defaults = {name: one.default for name, one in parameters.items()}
    kind = {"_class_name": CLASSES[family]}
    assert stated(kind, "it") == stated({**kind, **defaults}, "it")


def test_another_class_is_named() -> None:
    with pytest.raises(ValueError, match="org/x is of a UNet2DModel; prompts need one of FluxTransformer2DM"):
        stated({"_class_name": "UNet2DModel"}, "org/x")
