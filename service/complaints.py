"""What is wrong with a body, in the request's own terms."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import orjson
from pydantic import ValidationError

from coe.errors import nearest
from coe.service.errors import InvalidRequest


def json_object(body: bytes) -> dict[str, Any]:
    """Raises `InvalidRequest`."""
    try:
        raw = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise InvalidRequest(f"the body is not JSON: {error}", code="invalid_json") from None
    if not isinstance(raw, dict):
        raise InvalidRequest("the body must be a JSON object", code="invalid_json")
    return raw


def complaint(error: ValidationError, taken: Collection[str]) -> InvalidRequest:
    """The first complaint. `taken`: what is taken where nothing may go unread."""
    first = error.errors(include_url=False, include_input=False)[0]
    param = _path(first["loc"])
    kind = first["type"]
    if kind == "missing":
        return InvalidRequest(f"{param} is required", param=param, code="missing_parameter")
    code = "invalid_value"
    if kind.endswith("_type"):
        code = "invalid_type"
    elif kind == "unsupported_value":
        code = kind
    elif kind == "extra_forbidden":
        guess = nearest(str(first["loc"][-1]), taken) if len(first["loc"]) > 1 else None
        hint = f"; did you mean {guess!r}?" if guess else ""
        message = f"{param} is not taken, only {', '.join(taken)}{hint}"
        return InvalidRequest(message, param=param, code=code)
    return InvalidRequest(f"{param}: {first['msg']}", param=param, code=code)


def _path(location: tuple[int | str, ...]) -> str:
    text = ""
    for part in location:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text
