"""Files and pages of lists as OpenAI's API shows them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import parse_qsl

from starlette.types import Scope

from coe.errors import nearest
from coe.service.errors import InvalidRequest
from coe.store import StoredFile

ANCHOR = "created_at"
"""What a file's lifetime is counted from."""
LIFETIMES_S = (3600, 30 * 24 * 3600)


def file_object(file: StoredFile) -> dict[str, object]:
    return {
        "id": file.id,
        "object": "file",
        "bytes": file.n_bytes,
        "created_at": int(file.created_s),
        "expires_at": None if file.expires_s is None else int(file.expires_s),
        "filename": file.filename,
        "purpose": file.purpose,
        "status": "processed",
        "status_details": None,
    }


def page_object(objects: Sequence[Mapping[str, object]], has_more: bool) -> dict[str, object]:
    return {
        "object": "list",
        "data": list(objects),
        "first_id": objects[0]["id"] if objects else None,
        "last_id": objects[-1]["id"] if objects else None,
        "has_more": has_more,
    }


@dataclass(frozen=True, slots=True)
class Page:
    """Which part of a list is asked for."""

    limit: int
    after: str | None
    """The last id of the page before."""
    order: str = "desc"
    """By age: the newest first, or `asc`."""
    purpose: str | None = None


def read_page(scope: Scope, keys: Sequence[str], usual: int, most: int) -> Page:
    """What the query says, of which only these keys are taken. Raises `InvalidRequest`."""
    told: dict[str, str] = {}
    query = scope.get("query_string", b"").decode("latin-1")
    for key, value in parse_qsl(query, keep_blank_values=True):
        if key not in keys:
            guess = nearest(key, keys)
            hint = f"; did you mean {guess!r}?" if guess else ""
            raise InvalidRequest(
                f"{key[:64]!r} is not taken, only {', '.join(keys)}{hint}",
                param=key[:64],
                code="unknown_parameter",
            )
        told[key] = value
    limit = told.get("limit", str(usual))
    if not (limit.isascii() and limit.isdigit() and len(limit) < 9 and 1 <= int(limit) <= most):
        raise InvalidRequest(f"limit must be 1 to {most}, not {limit[:16]!r}", param="limit")
    order = told.get("order", "desc")
    if order not in ("asc", "desc"):
        raise InvalidRequest(f"order must be asc or desc, not {order[:16]!r}", param="order")
    return Page(int(limit), told.get("after") or None, order, told.get("purpose") or None)
