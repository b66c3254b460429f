"""Frozen dataclasses to JSON and back, checked field by field against their annotations."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar, cast

from device_profiles.errors import BadInput

Json = Any  # what json.loads returns
T = TypeVar("T")


def to_json(value: object) -> Json:
    """Turn dataclasses, mappings and tuples into what `json.dumps` takes; widths become "64" or "64x128"."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: to_json(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {_key_to_text(key): to_json(item) for key, item in value.items()}
    if isinstance(value, tuple):
        return [to_json(item) for item in value]
    return value


def from_json(kind: type[T], data: Json, where: str) -> T:
    """Build a `kind` out of parsed JSON.

    Args:
        kind: A frozen dataclass whose fields are dataclasses, mappings, tuples, unions or plain values.
        data: What `json.loads` returned.
        where: The name of the value in messages, such as the file it came from.

    Raises:
        BadInput: A field without a default is missing, one is unknown or of another type, or the dataclass refuses
            its value.
    """
    return cast(T, _decode(kind, data, where))


def _decode(kind: Any, data: Json, where: str) -> Any:
    origin = typing.get_origin(kind)
    if origin is not None:
        return _decode_generic(origin, typing.get_args(kind), data, where)
    if dataclasses.is_dataclass(kind):
        return _decode_dataclass(cast(type, kind), data, where)
    if kind is float and isinstance(data, int) and not isinstance(data, bool):
        return float(data)
    return _expect(kind, data, where)


def _decode_generic(origin: Any, kinds: tuple[Any, ...], data: Json, where: str) -> Any:
    if origin in (types.UnionType, typing.Union):  # the only unions are with None
        return None if data is None else _decode(kinds[0], data, where)
    if origin is typing.Literal:
        if data not in kinds:
            raise BadInput(f"{where} (={data!r:.80}) must be one of {', '.join(map(repr, kinds))}")
        return data
    if origin is tuple:
        items = _expect(list, data, where)
        return tuple(_decode(kinds[0], item, f"{where}[{i}]") for i, item in enumerate(items))
    items = _expect(dict, data, where)
    return {_key_of(kinds[0], key, where): _decode(kinds[1], item, f"{where}.{key}") for key, item in items.items()}


def _decode_dataclass(kind: type, data: Json, where: str) -> Any:
    items = _expect(dict, data, where)
    kinds = typing.get_type_hints(kind)
    fields = {field.name for field in dataclasses.fields(kind)}
    absent = dataclasses.MISSING
    required = {f.name for f in dataclasses.fields(kind) if f.default is absent and f.default_factory is absent}
    if missing := sorted(required - items.keys()):
        raise BadInput(f"{where} lacks {', '.join(missing)}; measure again to write a whole file")
    if unknown := sorted(items.keys() - fields):
        raise BadInput(f"{where} has unknown fields {', '.join(unknown)}; known are {', '.join(sorted(fields))}")
    return kind(**{name: _decode(kinds[name], items[name], f"{where}.{name}") for name in items})


def _expect(kind: type, data: Json, where: str) -> Any:
    if not isinstance(data, kind) or (isinstance(data, bool) and kind is not bool):
        raise BadInput(f"{where} (={data!r:.80}) must be of type {kind.__name__}")
    return data


def _key_to_text(key: object) -> str:
    return "x".join(str(part) for part in key) if isinstance(key, tuple) else str(key)


def _key_of(kind: Any, text: str, where: str) -> Any:
    if kind is str:
        return text
    parts = text.split("x")
    if len(parts) != (len(typing.get_args(kind)) or 1) or not all(part.isdecimal() for part in parts):
        raise BadInput(f"{where} has the key {text!r}; widths are written like '64', or '64x128' for in and out")
    return tuple(int(part) for part in parts) if len(parts) > 1 else int(text)
