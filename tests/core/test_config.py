"""Configurations survive JSON; a fault names the field."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Literal

import pytest

from flowlab.core.config import config_id, deciding, from_dict, identifying, to_dict
from flowlab.presets import PRESETS


@dataclass(frozen=True, kw_only=True)
class Inner:
    rate: float = 0.1
    names: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Outer:
    size: int
    mode: Literal["a", "b"] = "a"
    pair: tuple[int, float] = (1, 2.0)
    inner: Inner = field(default_factory=Inner)
    maybe: Inner | None = None


def test_round_trip_through_json():
    config = Outer(size=3, mode="b", inner=Inner(rate=1.0, names=("x", "y")), maybe=Inner())
    assert from_dict(Outer, json.loads(json.dumps(to_dict(config)))) == config


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_survives_json(name):
    config = PRESETS[name]()
    assert from_dict(type(config), json.loads(json.dumps(to_dict(config)))) == config


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "lacks the field 'size'"),
        ({"size": 1, "sise": 2}, "unknown field 'sise'"),
        ({"size": "3"}, "config.size is '3'; expected int"),
        ({"size": True}, "config.size is True; expected int"),
        ({"size": 1, "mode": "c"}, "choose from: a, b"),
        ({"size": 1, "pair": [1]}, "config.pair has 1 items"),
        ({"size": 1, "inner": {"rate": "fast"}}, "config.inner.rate is 'fast'"),
        ({"size": 1, "inner": 5}, "expected the fields of Inner"),
    ],
)
def test_faults_are_named(values, message):
    with pytest.raises(ValueError, match=message):
        from_dict(Outer, values)


def test_an_integer_serves_as_a_float_and_changes_no_id():
    assert from_dict(Inner, {"rate": 1}) == Inner(rate=1.0)
    assert config_id(from_dict(Inner, {"rate": 1})) == config_id(Inner(rate=1.0))


def test_the_id_changes_with_any_field():
    ids = {config_id(c) for c in (Outer(size=1), Outer(size=2), Outer(size=1, inner=Inner(rate=0.2)))}
    assert len(ids) == 3 and all(len(name) == 12 for name in ids)


def test_fields_that_change_no_result_stay_out_of_the_id_and_in_the_file():
    @dataclass(frozen=True, kw_only=True)
    class Checked(Inner):
        check: bool = field(default=True, metadata={"in_id": False})

    assert config_id(Checked()) == config_id(Checked(check=False)) == config_id(Inner())
    assert config_id([Checked()]) == config_id([Inner()]) and config_id(Checked(rate=0.2)) != config_id(
        Inner()
    )
    assert to_dict(Checked(check=False))["check"] is False


@dataclass(frozen=True, kw_only=True)
class Grown(Inner):
    """Inner with fields that came later, at a default and at a default factory."""

    crop: str = field(default="none", metadata={"in_id": "unless default"})
    more: Inner = field(default_factory=Inner, metadata={"in_id": "unless default"})


def test_a_field_that_came_later_enters_the_id_once_it_leaves_its_default():
    assert config_id(Grown()) == config_id(Inner()) and config_id((Grown(), 1)) == config_id((Inner(), 1))
    changed = (Grown(crop="centre"), Grown(more=Inner(rate=0.2)), Grown(rate=0.2))
    assert len({config_id(one) for one in (Grown(), *changed)}) == 4
    assert identifying(changed[0]) == {"rate": 0.1, "names": [], "crop": "centre"}
    assert set(deciding(Grown())) == set(to_dict(Grown())), "what a folder is compared by has all of them"
    assert from_dict(Grown, to_dict(Inner())) == Grown(), "an older file reads as the default"


def test_a_rule_that_nobody_knows_is_an_error():
    @dataclass(frozen=True, kw_only=True)
    class Misspelt:
        crop: str = field(default="none", metadata={"in_id": "unless_default"})

    with pytest.raises(AssertionError, match="crop has in_id='unless_default'; choose from"):
        config_id(Misspelt())


def test_only_plain_values_are_saved():
    with pytest.raises(ValueError, match="only plain values"):
        to_dict({1, 2})
