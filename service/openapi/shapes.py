"""JSON schemas in few words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Schema = dict[str, Any]

ANY_TEXT: Schema = {"type": "string"}
BOOLEAN: Schema = {"type": "boolean"}
COUNT: Schema = {"type": "integer", "minimum": 0}
NULL: Schema = {"type": "null"}
OBJECT: Schema = {"type": "object"}
PASSED_ON = "x-coe-passed-on"
"""Marks a field that goes to an expert's own server as it came; other experts refuse it by name."""


def text(least: int = 0, most: int | None = None) -> Schema:
    """A string of so many characters."""
    bounds = {"minLength": least} | ({} if most is None else {"maxLength": most})
    return {"type": "string", **bounds}


def number(least: float, most: float) -> Schema:
    return {"type": "number", "minimum": least, "maximum": most}


def whole(least: int, most: int) -> Schema:
    return {"type": "integer", "minimum": least, "maximum": most}


def one_of(*values: object) -> Schema:
    """One of these values, and no other."""
    return {"enum": list(values)}


def list_of(items: Schema, least: int = 0, most: int | None = None) -> Schema:
    bounds = {"minItems": least} | ({} if most is None else {"maxItems": most})
    return {"type": "array", "items": items, **bounds}


def any_of(*schemas: Schema) -> Schema:
    return {"anyOf": list(schemas)}


def optional(schema: Schema) -> Schema:
    """Null says what leaving it out says."""
    return any_of(schema, NULL)


def passed_on(schema: Schema, why: str = "") -> Schema:
    """What only an expert that is a server takes; null everybody does. `{}` is any value."""
    told = "Only for experts that are servers; others refuse it by name."
    values = optional(schema) if schema else {}
    return {**values, "description": f"{why} {told}".strip(), PASSED_ON: True}


def told(schema: Schema, description: str) -> Schema:
    return {**schema, "description": description}


def record(
    properties: Mapping[str, Schema], required: Sequence[str] = (), is_closed: bool = False
) -> Schema:
    """An object. A closed one has no other properties."""
    schema: Schema = {"type": "object", "properties": dict(properties)}
    if required:
        schema["required"] = list(required)
    if is_closed:
        schema["additionalProperties"] = False
    return schema


def answer(properties: Mapping[str, Schema]) -> Schema:
    """An object that always has all of these, and may have more."""
    return record(properties, tuple(properties))


def ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}
