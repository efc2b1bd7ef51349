"""Frozen dataclasses to plain JSON and back, and the short hash that names a configuration."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import types
import typing
from collections.abc import Callable
from typing import Any, TypeVar

__all__ = ["config_id", "deciding", "from_dict", "identifying", "to_dict"]

T = TypeVar("T")

IN_ID = (True, False, "unless default")
"""What a field's metadata may say under "in_id"; True where it says nothing."""


def to_dict(config: Any) -> Any:
    """A dataclass as nested dicts, lists and scalars that `json` can write."""
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        return {field.name: to_dict(getattr(config, field.name)) for field in dataclasses.fields(config)}
    if isinstance(config, (list, tuple)):
        return [to_dict(item) for item in config]
    if config is None or isinstance(config, (str, int, float, bool)):
        return config
    raise ValueError(f"a config field holds {type(config).__name__} {config!r}; only plain values are saved")


def from_dict(kind: type[T], values: Any, where: str = "config") -> T:
    """The inverse of `to_dict`; an unknown, missing or mistyped field is a ValueError that names it."""
    return typing.cast(T, _read(kind, values, where))


def deciding(config: Any) -> Any:
    """As `to_dict`, without the fields that change no result: those with metadata `{"in_id": False}`."""
    return _selected(config, lambda rule, field, value: rule is not False)


def identifying(config: Any) -> Any:
    """As `deciding`, also without the fields of metadata `{"in_id": "unless default"}` at their default.

    A field that is added to a configuration later gets that metadata, so that the ids of finished runs stay.
    """
    return _selected(
        config,
        lambda rule, field, value: rule is True or (rule == "unless default" and value != _default(field)),
    )


def config_id(config: Any) -> str:
    """Twelve hex digits that change with any field of `identifying`."""
    text = json.dumps(identifying(config), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _selected(config: Any, enters: Callable[[Any, dataclasses.Field[Any], Any], bool]) -> Any:
    """`to_dict` of the fields of every dataclass for which `enters(rule, field, value)`."""
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        values = [(field, getattr(config, field.name)) for field in dataclasses.fields(config)]
        return {
            field.name: _selected(value, enters)
            for field, value in values
            if enters(_rule(field), field, value)
        }
    if isinstance(config, (list, tuple)):
        return [_selected(item, enters) for item in config]
    return to_dict(config)


def _rule(field: dataclasses.Field[Any]) -> bool | str:
    rule = field.metadata.get("in_id", True)
    assert rule in IN_ID, f"the field {field.name} has in_id={rule!r}; choose from: {IN_ID}"
    return rule


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    assert field.default is not dataclasses.MISSING, (
        f"the field {field.name} has no default to be left out at"
    )
    return field.default


# ---- reading -----------------------------------------------------------------------------------------------


def _read(kind: Any, value: Any, where: str) -> Any:
    if dataclasses.is_dataclass(kind):
        return _read_dataclass(kind, value, where)
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is tuple:
        return _read_tuple(arguments, value, where)
    if origin in (typing.Union, types.UnionType):
        return _read_union(arguments, value, where)
    if origin is typing.Literal:
        if value not in arguments:
            raise ValueError(f"{where} is {value!r}; choose from: {', '.join(map(str, arguments))}")
        return value
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise ValueError(f"{where} is {value!r}; expected {kind.__name__}")
    return value


def _read_dataclass(kind: Any, value: Any, where: str) -> Any:
    if not isinstance(value, dict):
        raise ValueError(f"{where} is {value!r}; expected the fields of {kind.__name__}")
    fields = {field.name: field for field in dataclasses.fields(kind)}
    unknown = [name for name in value if name not in fields]
    if unknown:
        raise ValueError(
            f"{where} has the unknown field {unknown[0]!r}; {kind.__name__} has: {', '.join(fields)}"
        )
    required = [
        name
        for name, field in fields.items()
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    ]
    absent = [name for name in required if name not in value]
    if absent:
        raise ValueError(f"{where} lacks the field {absent[0]!r} of {kind.__name__}")
    hints = typing.get_type_hints(kind)
    return kind(**{name: _read(hints[name], item, f"{where}.{name}") for name, item in value.items()})


def _read_tuple(arguments: tuple[Any, ...], value: Any, where: str) -> tuple[Any, ...]:
    if not isinstance(value, (list, tuple)):
        raise ValueError(f"{where} is {value!r}; expected a list")
    kinds = [arguments[0]] * len(value) if arguments[-1:] == (Ellipsis,) else list(arguments)
    if len(kinds) != len(value):
        raise ValueError(f"{where} has {len(value)} items; expected {len(kinds)}")
    return tuple(
        _read(kind, item, f"{where}[{i}]") for i, (kind, item) in enumerate(zip(kinds, value, strict=True))
    )


def _read_union(arguments: tuple[Any, ...], value: Any, where: str) -> Any:
    problems = []
    for kind in arguments:
        if kind is type(None):
            if value is None:
                return None
            continue
        try:
            return _read(kind, value, where)
        except ValueError as problem:
            problems.append(str(problem))
    raise ValueError(problems[0] if problems else f"{where} is {value!r}; expected None")
