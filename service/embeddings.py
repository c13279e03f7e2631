"""`POST /v1/embeddings`: passed through to the expert that is named, or routed to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from coe.service.calls import own_fields
from coe.service.chunks import error_event
from coe.service.control import Control
from coe.service.errors import InvalidRequest
from coe.service.telling import Telling
from coe.service.wire import ChatCall
from coe.types import Completion, Delta, GenerationRequest, RawRequest

ROUTE = "embeddings"


def read_embeddings_call(
    raw: Mapping[str, Any], control: Control, tenant: str
) -> tuple[ChatCall, Telling]:
    """Embedders and servers have embeddings; whether a server has, it says itself."""
    model = raw.get("model")
    if not isinstance(model, str) or not model:
        raise InvalidRequest("model is required", param="model", code="missing_parameter")
    if raw.get("input") in (None, "", []):
        raise InvalidRequest("input is required", param="input", code="missing_parameter")
    complaint = InvalidRequest(
        f"expert {model!r} speaks text and has no embeddings; name an embedder or a server",
        param="model",
    )
    passed = RawRequest(own_fields(raw), ROUTE, is_all=True)
    generation = GenerationRequest((), priority=control.priority or 0, raw=passed, ask=_ask(raw))
    return ChatCall(model, generation, False, False, control, complaint), _AsItIs()


def _ask(raw: Mapping[str, Any]) -> str:
    given = raw["input"]
    first = given[0] if isinstance(given, list) else given
    return first if isinstance(first, str) else ""


class _AsItIs:
    """The expert's own response, which is whole."""

    def whole(self, answer: bytes | Completion, decision_id: str, model: str) -> bytes:
        assert isinstance(answer, bytes)
        return answer

    def begin(self, decision_id: str, model: str) -> bytes:
        return b""

    def piece(self, delta: Delta) -> bytes:
        return delta.raw

    def end(self) -> bytes:
        return b""

    def fail(self, envelope: Mapping[str, object]) -> bytes:
        return error_event(envelope)
