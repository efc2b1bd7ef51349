"""Every preset builds, survives JSON, and its debug form trains for real."""

from __future__ import annotations

import dataclasses
import itertools
import math
from pathlib import Path
from typing import Any

import pytest

from flowlab.core.config import config_id, from_dict, to_dict
from flowlab.presets import PRESETS
from flowlab.train.run import recipe_of, start


@pytest.mark.parametrize("name", PRESETS)
def test_preset_is_one_full_configuration(name: str) -> None:
    config = PRESETS[name]()
    assert from_dict(type(config), to_dict(config)) == config
    assert config == PRESETS[name](), "a preset is a constant"
    assert recipe_of(config)
    assert PRESETS[name].__name__ == name
    assert f"`flowlab train {name}`" in (PRESETS[name].__doc__ or ""), "the docstring gives the command"


def test_no_two_presets_are_equal() -> None:
    names = [name for name in PRESETS if name != "ae_ablation_kl"]  # the base arm is ae_flux2_plain_digits
    ids = {config_id(PRESETS[name]()): name for name in names}
    assert len(ids) == len(names)


@pytest.mark.parametrize("name", PRESETS)
def test_a_long_run_loses_few_updates_when_it_is_stopped(name: str) -> None:
    loop = PRESETS[name]().loop
    every = range(loop.save_every, loop.num_steps, loop.save_every) if loop.save_every else ()
    saves = sorted({0, *loop.save_steps, *every, loop.num_steps})
    longest = max(after - before for before, after in itertools.pairwise(saves))
    assert loop.num_steps <= 5000 or longest <= 10_000, f"{longest} updates without a checkpoint"
    assert loop.num_steps <= 50_000 or loop.keep, "a long run does not fill the disk"


@pytest.mark.parametrize("name", PRESETS)
def test_debug_form_takes_its_steps(name: str, tmp_path: Path) -> None:
    config = _inside(tmp_path, PRESETS[name](debug=True))
    state, records = start(config, tmp_path / "run")
    seen = list(records)
    assert len(seen) == config.loop.num_steps <= 4
    assert all(math.isfinite(float(value)) for record in seen for value in record.scalars.values())
    assert seen[-1].saved is not None and seen[-1].saved.is_dir()
    exported = recipe_of(config).export(state, tmp_path / "run")
    assert exported.is_file()


def _inside(folder: Path, config: Any) -> Any:
    """The same configuration with its cache in `folder`."""
    has_cache = "cache" in {field.name for field in dataclasses.fields(config)}
    return dataclasses.replace(config, cache=str(folder / "cache")) if has_cache else config
