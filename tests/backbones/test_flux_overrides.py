"""What a caller says of a FLUX file beside its shapes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from tests.backbones.tiny_flux import AXES, inputs, official, tiny

from flowlab import backbones
from flowlab.backbones import flux_overrides
from flowlab.backbones.checkpoints import save_official
from flowlab.generate.variants import VARIANTS


def load(path: Path, **overrides: Any) -> Any:
    return backbones.load(path, **overrides)


def test_overrides_say_what_shapes_cannot(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file(official("flux2"), path)
    loaded = load(path, variant="kv", theta=500.0, axes=[2, 10, 10, 10])
    assert (loaded.spec.variant, loaded.spec.theta, loaded.spec.axes) == ("kv", 500.0, (2, 10, 10, 10))
    assert load(path).spec == tiny("flux2").spec
    save_file(official("flux1"), path)
    assert load(path, axes=AXES["flux1"], reference_t=3).spec.reference_t == 3
    with pytest.raises(ValueError, match=r"heads of 32 channels .* say axes=\(3 numbers whose sum is 32\)"):
        load(path)
    with pytest.raises(ValueError, match="unknown variant of FLUX.1 'kv'; choose from: dev, .*kontext"):
        load(path, axes=AXES["flux1"], variant="kv")
    with pytest.raises(ValueError, match="unknown override of FLUX.1 'config'; choose from: .*dtype"):
        load(path, config=None)
    with pytest.raises(ValueError, match="heads=4 was said, but its tensors have heads 2"):
        load(path, axes=AXES["flux1"], heads=4)


@pytest.mark.parametrize(
    ("family", "name", "fields"),
    [
        ("flux2", "KV", {"variant": "kv"}),
        ("flux2", "flux.2-klein-9b-kv", {"variant": "kv"}),
        ("flux2", "flux2_dev", {"variant": "dense"}),
        ("flux2", "FLUX.2-dev", {"variant": "dense"}),
        ("flux2", "base", {"variant": "dense"}),
        ("flux1", "flux1_kontext", {"reference_t": 1}),
        ("flux1", "FLUX.1-Kontext-dev", {"reference_t": 1}),
        ("flux1", "krea", {}),
        ("flux1", "FLUX.1-dev", {}),
    ],
)
def test_published_names_are_variants(tmp_path: Path, family: str, name: str, fields: dict) -> None:
    path = tmp_path / "model.safetensors"
    save_file(official(family), path)
    spec = load(path, variant=name, axes_dim=list(AXES[family])).spec
    assert spec == replace(tiny(family).spec, **fields)


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_of_generation_is_known(name: str) -> None:
    family = name.split("_")[0]
    told = flux_overrides.settled({"variant": name}, family, "here")
    embedded = VARIANTS[name].kind == "embedded"
    assert told.get("guidance", embedded) == embedded
    assert told.get("variant", "dense") == VARIANTS[name].loading.get("variant", "dense")


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"variant": "klein"}, "guidance=False was said, but its tensors have guidance True"),
        ({"axes": 8}, "axes is 8; expected a list"),
        ({"theta": "2000"}, "theta is '2000'; expected float"),
        ({"axes": (8, 8, 8, 8), "axes_dim": (4, 4, 12, 12)}, "axes_dim says axes=.*another override"),
        ({"time_rounding": "float8"}, "unknown rounding of the time 'float8'; choose from: none, bfloat16"),
        ({"spec": 3}, "unknown override of FLUX.2 'spec'"),
        ({"where": "x"}, "unknown override of FLUX.2 'where'"),
        ({"dtype": "int4"}, "unknown dtype 'int4'; choose from: float32"),
    ],
)
def test_overrides_that_cannot_be_are_one_line(tmp_path: Path, said: dict, message: str) -> None:
    save_file(official("flux2"), tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=message) as caught:
        load(tmp_path / "model.safetensors", **said)
    assert "\n" not in str(caught.value)


@torch.no_grad()
def test_the_time_is_rounded_as_published_where_asked(tmp_path: Path) -> None:
    """0.7672 becomes 764 or 768 of 1000 in bfloat16, and 0.5 stays."""
    path = tmp_path / "model.safetensors"
    save_file(official("flux2"), path)
    exact, rounded = (load(path, time_rounding=name) for name in ("none", "bfloat16"))
    given = {**inputs(exact), "guidance": torch.tensor([4.0, 4.0])}  # which stays
    units = (torch.tensor(0.7672).bfloat16() * 1000).item()
    assert units in (764, 768)
    found = rounded.velocity(**{**given, "t": torch.tensor([0.7672, 0.5])})
    wanted, other = (exact.velocity(**{**given, "t": torch.tensor([t, 0.5])}) for t in (units / 1000, 0.7672))
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5)
    assert not torch.allclose(found[0], other[0], atol=1e-4)


@torch.no_grad()
def test_the_guidance_scale_is_rounded_likewise(tmp_path: Path) -> None:
    """3.5 becomes 3504 thousandths in bfloat16, and 4 stays."""
    path = tmp_path / "model.safetensors"
    save_file(official("flux2"), path)
    exact, rounded = (load(path, time_rounding=name) for name in ("none", "bfloat16"))
    assert (torch.tensor(3.5).bfloat16() * 1000).item() == 3504
    given = {**inputs(exact), "t": torch.tensor([0.5, 0.5])}
    found = rounded.velocity(**{**given, "guidance": torch.tensor([3.5, 4.0])})
    wanted, other = (exact.velocity(**{**given, "guidance": torch.tensor([g, 4.0])}) for g in (3.504, 3.5))
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5)
    assert not torch.allclose(found[0], other[0], atol=1e-5)


def test_rounding_is_chosen_of_files_that_state_their_spec(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_official(tiny("flux2"), path)
    assert load(path).spec.time_rounding == "none"
    assert load(path, time_rounding="bfloat16").spec.time_rounding == "bfloat16"


def test_a_file_that_states_its_spec_is_believed(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_official(tiny("flux2", variant="kv"), path)
    assert load(path, axes=(8, 8, 8, 8)).spec.variant == "kv"
    with pytest.raises(ValueError, match="states variant 'kv' itself; variant='dense' contradicts it"):
        load(path, variant="dense")
