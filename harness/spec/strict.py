"""Builds frozen dataclasses from parsed YAML: no unknown key, no key missing, no value of another type.

pydantic would do the same and costs 0.2 CPU s to import and set up, which every `kit` command would pay.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from functools import cache
from typing import Any, Literal, TypeVar, get_args, get_origin

T = TypeVar("T")

UNKNOWN = "unknown key"
MISSING = "is missing"
_WORDS = {str: "a string", int: "a whole number", float: "a number", bool: "true or false"}


class Slip(Exception):
    """A value is not as its model wants it.

    Attributes:
        path: Keys and positions that lead to it.
        message: What is wrong with it.
    """

    def __init__(self, message: str, path: tuple[str | int, ...]) -> None:
        super().__init__(message)
        self.message, self.path = message, path


def build(model: type[T], value: object, path: tuple[str | int, ...] = ()) -> T:
    """An instance of a frozen dataclass.

    Args:
        model: Its fields may be str, int, float, bool, Literal, another model, `X | None`, `tuple[X, ...]`,
            `dict[str, X]`.
        value: A mapping as YAML gives it. Lists become tuples; a whole number is a float where one is wanted.
        path: Where it was found.

    Raises:
        Slip: It does not fit.
    """
    if not isinstance(value, dict):
        raise Slip(f"expected a mapping, found {short(value)}", path)
    wanted = _fields(typing.cast(Any, model))
    for key in value:
        if key not in wanted:
            raise Slip(UNKNOWN, (*path, key))
    for name, (_, required) in wanted.items():
        if required and name not in value:
            raise Slip(MISSING, (*path, name))
    found = {key: _fit(wanted[key][0], item, (*path, key)) for key, item in value.items()}
    try:
        return model(**found)
    except ValueError as error:  # a sentence of the model's own
        raise Slip(str(error), path) from None


@cache
def _fields(model: Any) -> dict[str, tuple[Any, bool]]:
    """Name of a field -> its type, and whether it must be given."""
    hints = typing.get_type_hints(model)
    return {
        field.name: (hints[field.name], _is_required(field))
        for field in dataclasses.fields(model)
        if field.init
    }


def _is_required(field: dataclasses.Field[Any]) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _fit(kind: Any, value: object, path: tuple[str | int, ...]) -> Any:
    origin = get_origin(kind)
    if origin is types.UnionType:
        (other,) = (part for part in get_args(kind) if part is not types.NoneType)
        return None if value is None else _fit(other, value, path)
    if origin is Literal:
        if value not in get_args(kind):
            raise Slip(f"expected one of {', '.join(get_args(kind))}, found {short(value)}", path)
        return value
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise Slip(f"expected a list, found {short(value)}", path)
        return tuple(_fit(get_args(kind)[0], item, (*path, place)) for place, item in enumerate(value))
    if origin is dict:
        if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
            raise Slip(f"expected a mapping of names, found {short(value)}", path)
        return {key: _fit(get_args(kind)[1], item, (*path, key)) for key, item in value.items()}
    if kind not in _WORDS:
        return build(kind, value, path)
    if type(value) is not kind and not (kind is float and type(value) is int):
        raise Slip(f"expected {_WORDS[kind]}, found {short(value)}", path)
    return float(value) if kind is float else value  # type: ignore[arg-type]


def short(value: object) -> str:
    """A value in at most 80 characters."""
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
