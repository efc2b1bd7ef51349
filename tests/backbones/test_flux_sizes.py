"""The table of FLUX sizes: published parameter counts, and a model of each."""

import pytest
import torch

from flowlab.backbones.flux_sizes import FLUX_SIZES, build_flux

PARAMETERS = {
    "flux2_dev": 32_223_281_152,
    "flux2_klein_9b": 9_078_581_248,
    "flux2_klein_4b": 3_875_544_576,
    "flux2_medium": 293_082_112,
    "flux2_small": 32_507_904,
    "flux2_scenes": 4_583_936,
    "flux2_tiny": 262_336,
    "flux1_dev": 11_901_408_320,
    "flux1_schnell": 11_891_178_560,
    "flux1_fill": 11_902_391_360,
    "flux1_canny": 11_901_604_928,
    "flux1_lite": 8_163_264_064,
}
TENSORS = {"flux2_dev": 299, "flux2_klein_9b": 201, "flux2_klein_4b": 149, "flux1_dev": 780}


@pytest.mark.parametrize("name", FLUX_SIZES)
def test_parameters_are_the_published_number(name: str) -> None:
    with torch.device("meta"):
        state = build_flux(name).state_dict()
    assert sum(tensor.numel() for tensor in state.values()) == PARAMETERS[name]
    assert len(state) == TENSORS.get(name, len(state))


def test_the_scenes_model_fits_what_may_ship() -> None:
    assert 2 * PARAMETERS["flux2_scenes"] < 24e6  # bytes in bfloat16


def test_unknown_names_list_the_known() -> None:
    with pytest.raises(ValueError, match="choose from: flux2_dev"):
        build_flux("flux3")
    with pytest.raises(ValueError, match="unknown field of flux2_scenes 'depth'"):
        build_flux("flux2_scenes", depth=3)
