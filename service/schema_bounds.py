"""Bounds of what decoders compile: schemas, patterns and the grammars made of them."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from coe.service.patterns import pattern_trouble
from coe.service.request_limits import RequestLimits, check_length, out_of_bounds

_COUNTS = frozenset(
    {"minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties"}
)
_KEYWORDS = _COUNTS | {"pattern", "patternProperties"}


def check_pattern(pattern: str, place: str, limits: RequestLimits) -> None:
    check_length(len(pattern), limits.max_pattern_chars, place)
    trouble = pattern_trouble(pattern)
    if trouble:
        raise out_of_bounds(place, f"{trouble}; give its repetitions small bounds, as in {{0,64}}")


def check_schema(schema: object, place: str, limits: RequestLimits) -> None:
    """Bounds a JSON schema, and whatever carries one: size, depth, patterns and counts."""
    n_nodes = n_chars = 0
    left: list[tuple[Collection[object], int]] = [([schema], 0)]
    while left:
        node, depth = left.pop()
        n_nodes += len(node)
        if n_nodes > limits.max_schema_nodes:
            raise out_of_bounds(place, f"has more than {limits.max_schema_nodes} values in it")
        if depth > limits.max_schema_depth:
            raise out_of_bounds(place, f"nests more than {limits.max_schema_depth} deep")
        if isinstance(node, dict):
            n_chars += sum(map(len, node))
            if not _KEYWORDS.isdisjoint(node):
                _check_keywords(node, place, limits)
            node = node.values()
        for value in node:
            if isinstance(value, str):
                n_chars += len(value)
            elif isinstance(value, dict | list):
                left.append((value, depth + 1))
    check_length(n_chars, limits.max_schema_chars, place)


def _check_keywords(node: Mapping[str, object], place: str, limits: RequestLimits) -> None:
    pattern = node.get("pattern")
    if isinstance(pattern, str):
        check_pattern(pattern, f"{place}: pattern", limits)
    patterns = node.get("patternProperties")
    for key in patterns if isinstance(patterns, dict) else ():
        check_pattern(key, f"{place}: patternProperties", limits)
    for name, count in node.items():
        if name not in _COUNTS or not isinstance(count, int | float):
            continue
        if count > limits.max_schema_count:
            raise out_of_bounds(
                f"{place}: {name}", f"is {count}, and {limits.max_schema_count} is the most"
            )
