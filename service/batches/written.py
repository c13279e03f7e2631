"""The lines that a batch writes: answers, failures, and what nobody was asked."""

from __future__ import annotations

from collections.abc import Mapping

import orjson

from coe.service.batches.lines import BatchRequest
from coe.service.errors import answer_for
from coe.service.reply import to_json

_NO_BREAKS = bytes.maketrans(b"\r\n", b"  ")


def answer_line(request: BatchRequest, body: bytes, told: Mapping[str, object]) -> bytes:
    """The line of an answer; what is `told` of it is under `coe` in its body.

    The body stays as it is otherwise. Raises ValueError if it is no JSON object.
    """
    if not isinstance(orjson.loads(body), dict):
        raise ValueError("not a JSON object")
    # JSON has breaks only between its tokens, and a line has none.
    inner = body.translate(_NO_BREAKS).strip()[1:-1].strip()
    separator = b"," if inner else b""
    joined = b"{" + inner + separator + b'"coe":' + to_json(told) + b"}"
    return _line(request, 200, orjson.Fragment(joined))


def error_line(request: BatchRequest, error: Exception) -> bytes:
    """The line of a request that could not be answered, as the gateway would have told it."""
    told = answer_for(error, request.request_id)
    return _line(request, told.status, told.envelope)


def unasked_line(custom_id: str, request_id: str, code: str, message: str) -> bytes:
    """The line of a request that nobody was asked, because its batch came to an end."""
    error = {"code": code, "message": message}
    return to_json({"id": request_id, "custom_id": custom_id, "response": None, "error": error})


def _line(request: BatchRequest, status: int, body: object) -> bytes:
    response = {"status_code": status, "request_id": request.request_id, "body": body}
    return to_json(
        {
            "id": request.request_id,
            "custom_id": request.custom_id,
            "response": response,
            "error": None,
        }
    )
