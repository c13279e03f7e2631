"""One field of a JSON object, of the type that it has to be of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from coe.service.errors import InvalidRequest

_T = TypeVar("_T")
_WORDS: Mapping[type, str] = {
    str: "a string",
    bool: "true or false",
    int: "a whole number",
    dict: "an object",
    list: "a list",
}


def optional(raw: Mapping[str, Any], name: str, kind: type[_T], place: str = "") -> _T | None:
    """None where it is absent or null. `place`: what stands before the name in complaints."""
    value = raw.get(name)
    if value is None:
        return None
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise InvalidRequest(
            f"{place}{name} must be {_WORDS[kind]}", param=place + name, code="invalid_type"
        )
    return value


def required(raw: Mapping[str, Any], name: str, kind: type[_T], place: str = "") -> _T:
    value = optional(raw, name, kind, place)
    if value is None:
        raise InvalidRequest(
            f"{place}{name} is required", param=place + name, code="missing_parameter"
        )
    return value


def objects(values: Sequence[object], name: str) -> list[tuple[str, dict[str, Any]]]:
    """Each object of a list, after its place."""
    found: list[tuple[str, dict[str, Any]]] = []
    for index, value in enumerate(values):
        place = f"{name}[{index}]"
        if not isinstance(value, dict):
            raise InvalidRequest(f"{place} must be an object", param=place, code="invalid_type")
        found.append((place, value))
    return found


def unsupported(place: str, instead: str) -> InvalidRequest:
    """The refusal of what this gateway does not know to do; `instead` says what to send."""
    return InvalidRequest(
        f"{place} is not supported by this gateway as it is given; {instead}",
        param=place,
        code="unsupported_parameter",
    )
