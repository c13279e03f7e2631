"""Batches as OpenAI's API reads and shows them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from coe.errors import nearest
from coe.service.batches.lines import READS, WrongLine
from coe.service.bounds import check_nesting
from coe.service.errors import InvalidRequest
from coe.service.files.objects import ANCHOR, LIFETIMES_S
from coe.store import StoredBatch

_KEYS = ("input_file_id", "endpoint", "completion_window", "metadata", "output_expires_after")
_MOST_DEPTH = 4
_MOST_PAIRS = 16
_MOST_NAME_CHARS = 64
_MOST_VALUE_CHARS = 512
_TIMES = (
    "in_progress",
    "finalizing",
    "completed",
    "failed",
    "expired",
    "cancelling",
    "cancelled",
)


@dataclass(frozen=True, slots=True)
class BatchCall:
    """What a client wants done, checked as far as it can be without the file."""

    input_file_id: str
    endpoint: str
    window: str
    metadata: Mapping[str, str]
    output_lifetime_s: float | None = None
    """How long its output is kept; None: not said."""


def read_batch(body: bytes) -> BatchCall:
    """Raises `InvalidRequest`."""
    check_nesting(body, _MOST_DEPTH)
    try:
        raw = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise InvalidRequest(f"the body is not JSON: {error}", code="invalid_json") from None
    if not isinstance(raw, dict):
        raise InvalidRequest("the body must be a JSON object", code="invalid_json")
    for key in raw:
        if key not in _KEYS:
            guess = nearest(key, _KEYS)
            hint = f"; did you mean {guess!r}?" if guess else ""
            told = f"{key} is not taken, only {', '.join(_KEYS)}{hint}"
            raise InvalidRequest(told, param=key, code="unknown_parameter")
    endpoint = _text(raw, "endpoint")
    if endpoint not in READS:
        told = f"endpoint must be {' or '.join(READS)}, not {endpoint[:64]!r}"
        raise InvalidRequest(told, param="endpoint")
    window = _text(raw, "completion_window")
    return BatchCall(
        _text(raw, "input_file_id"),
        endpoint,
        window,
        _metadata(raw.get("metadata")),
        _lifetime_s(raw.get("output_expires_after")),
    )


def batch_object(batch: StoredBatch) -> dict[str, object]:
    errors = {"object": "list", "data": list(batch.errors)} if batch.errors else None
    shown: dict[str, object] = {
        "id": batch.id,
        "object": "batch",
        "endpoint": batch.endpoint,
        "errors": errors,
        "input_file_id": batch.input_file_id,
        "completion_window": batch.window,
        "status": batch.state,
        "output_file_id": batch.output_file_id,
        "error_file_id": batch.error_file_id,
        "created_at": int(batch.created_s),
        "expires_at": int(batch.expires_s),
        "request_counts": {
            "total": batch.n_total,
            "completed": batch.n_completed,
            "failed": batch.n_failed,
        },
        "metadata": dict(batch.metadata) or None,
    }
    for state in _TIMES:
        at_s = batch.times.get(state)
        shown[f"{state}_at"] = None if at_s is None else int(at_s)
    return shown


def batch_errors(wrong: Sequence[WrongLine]) -> list[dict[str, object]]:
    """The lines that kept a batch from being begun."""
    return [
        {"code": one.code, "message": str(one), "param": one.param, "line": one.number}
        for one in wrong
    ]


def batch_error(code: str, message: str) -> list[dict[str, object]]:
    """What befell a batch as a whole."""
    return [{"code": code, "message": message, "param": None, "line": None}]


def _text(raw: Mapping[str, Any], key: str) -> str:
    value = raw.get(key)
    if value is None:
        raise InvalidRequest(f"{key} is required", param=key, code="missing_parameter")
    if not isinstance(value, str) or not value:
        told = f"{key} must be a string that is not empty"
        raise InvalidRequest(told, param=key, code="invalid_type")
    return value


def _lifetime_s(value: object) -> float | None:
    if value is None:
        return None
    told = value if isinstance(value, dict) else {}
    seconds, (least, most) = told.get("seconds"), LIFETIMES_S
    is_whole = type(seconds) is int and least <= seconds <= most
    if told.keys() != {"anchor", "seconds"} or told["anchor"] != ANCHOR or not is_whole:
        raise InvalidRequest(
            f"output_expires_after needs the anchor {ANCHOR!r} and {least} to {most} seconds",
            param="output_expires_after",
        )
    return float(told["seconds"])


def _metadata(value: object) -> Mapping[str, str]:
    if value is None:
        return {}
    told = (
        f"metadata must be an object of at most {_MOST_PAIRS} texts, names of "
        f"{_MOST_NAME_CHARS} and values of {_MOST_VALUE_CHARS} characters at most"
    )
    if not isinstance(value, dict) or len(value) > _MOST_PAIRS:
        raise InvalidRequest(told, param="metadata")
    for name, text in value.items():
        is_text = isinstance(text, str) and len(text) <= _MOST_VALUE_CHARS
        if len(name) > _MOST_NAME_CHARS or not is_text:
            raise InvalidRequest(told, param="metadata")
    return value
