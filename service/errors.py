"""What a failure looks like over HTTP: the one table from error to status and OpenAI envelope.

What is the caller's to change (the request, its timing, its budget) is told in the error's own
words. What is the operator's (addresses, files, keys, what an upstream said) is logged in full,
and the caller learns which expert failed, how, and the request id to quote.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from math import ceil

from starlette.exceptions import HTTPException

from coe.engines.breaking import BreakerOpen
from coe.engines.upstream_busy import UpstreamBusy, retry_after_of
from coe.errors import (
    AdmissionError,
    BudgetExceeded,
    CoeError,
    ContextOverflow,
    DeadlineExceeded,
    EngineError,
    ExpertRemoved,
    QueueFull,
    RateLimited,
    RequestError,
    RoutingError,
    ShuttingDown,
    StartupError,
    StoreError,
    UnknownExpert,
    UpstreamError,
    UpstreamTimeout,
)
from coe.feedback_log import FeedbackFull, UnknownDecision
from coe.store import BatchOver, FileTooLarge, UnknownBatch, UnknownFile

logger = logging.getLogger("coe.service")

_LONGEST_WAIT_S = 24 * 3600
"""What an upstream asks for beyond this is no time to wait for."""


class InvalidRequest(RequestError):
    """The request says something that cannot be served; `code` is OpenAI's word for why."""

    def __init__(
        self, message: str, *, param: str | None = None, code: str = "invalid_value"
    ) -> None:
        self.code = code
        super().__init__(message, param=param)


class ModelNotFound(RequestError):
    """A model name that is neither the router's nor an expert's."""

    def __init__(self, model: str, known: Sequence[str]) -> None:
        close = get_close_matches(model, known, n=3, cutoff=0.5) or known[:1]
        super().__init__(
            f"no model {model!r}; the nearest are {', '.join(close)} "
            f"(GET /v1/models lists all {len(known)})",
            param="model",
        )


class BodyTooLarge(RequestError):
    """The request's body is over the gateway's limit."""

    def __init__(self, max_body_bytes: int) -> None:
        super().__init__(
            f"the body is larger than {max_body_bytes} bytes, which is the most that this route "
            "takes; send less"
        )


class BodyTooSlow(RequestError):
    """The request's body was still arriving when its time was up."""

    def __init__(self, timeout_s: float) -> None:
        super().__init__(
            f"the body did not arrive within {timeout_s:g} s; send all that content-length "
            "announces"
        )


class NotJsonType(RequestError):
    """The request does not say that its body is JSON."""

    def __init__(self, content_type: str | None) -> None:
        said = "it was missing" if content_type is None else f"it was {content_type[:64]!r}"
        super().__init__(
            f"send the header 'content-type: application/json' ({said}); "
            "with curl: -H 'content-type: application/json'"
        )


class EncodedBody(RequestError):
    """The request's body is compressed."""

    def __init__(self) -> None:
        super().__init__(
            "this gateway takes no compressed bodies; send the body as it is, without the header "
            "content-encoding"
        )


class KeyRefused(RequestError):
    """No key, or none that opens this gateway."""

    def __init__(self, is_given: bool) -> None:
        given = "this API key is not known, has expired or was revoked"
        missing = "send an API key, as 'Authorization: Bearer coe-…'"
        super().__init__(f"{given if is_given else missing}; its operator makes keys")


class FeedbackOff(RequestError):
    """This gateway keeps no feedback."""

    def __init__(self) -> None:
        super().__init__(
            "this gateway keeps no feedback; its operator turns it on by naming a file as "
            "`feedback` under `router` in experts.yaml"
        )


class ResponseNotFound(RequestError):
    """A response that is unknown, forgotten or another tenant's."""

    def __init__(self, response_id: str) -> None:
        super().__init__(
            f"no response {response_id[:128]!r} is kept; create it with store=true, and ask soon",
            param="response_id",
        )


@dataclass(frozen=True, slots=True)
class Kind:
    """How one class of errors is told."""

    status: int
    type: str
    code: str | None


UNEXPECTED = Kind(500, "server_error", "internal_error")

# A spent budget is 402 and not OpenAI's 429: clients retry a 429 by themselves, and no retry
# brings the budget back. The nearest class in an error's ancestry decides.
TABLE: Mapping[type[CoeError], Kind] = {
    RequestError: Kind(400, "invalid_request_error", "invalid_value"),
    ContextOverflow: Kind(400, "invalid_request_error", "context_length_exceeded"),
    BodyTooLarge: Kind(413, "invalid_request_error", "request_too_large"),
    BodyTooSlow: Kind(408, "invalid_request_error", "request_timeout"),
    NotJsonType: Kind(415, "invalid_request_error", "unsupported_media_type"),
    EncodedBody: Kind(415, "invalid_request_error", "unsupported_media_type"),
    ModelNotFound: Kind(404, "invalid_request_error", "model_not_found"),
    UnknownExpert: Kind(404, "invalid_request_error", "model_not_found"),
    KeyRefused: Kind(401, "invalid_request_error", "invalid_api_key"),
    FeedbackOff: Kind(404, "invalid_request_error", "feedback_off"),
    ResponseNotFound: Kind(404, "invalid_request_error", "response_not_found"),
    UnknownDecision: Kind(404, "invalid_request_error", "decision_not_found"),
    UnknownFile: Kind(404, "invalid_request_error", "file_not_found"),
    UnknownBatch: Kind(404, "invalid_request_error", "batch_not_found"),
    BatchOver: Kind(409, "invalid_request_error", "batch_over"),
    FileTooLarge: Kind(413, "invalid_request_error", "file_too_large"),
    RoutingError: Kind(500, "server_error", "routing_failed"),
    EngineError: Kind(502, "server_error", "upstream_error"),
    StartupError: Kind(503, "server_error", "expert_unavailable"),
    UpstreamError: Kind(502, "server_error", "upstream_error"),
    UpstreamTimeout: Kind(504, "server_error", "upstream_timeout"),
    UpstreamBusy: Kind(503, "server_error", "expert_busy"),
    BreakerOpen: Kind(503, "server_error", "expert_unavailable"),
    ExpertRemoved: Kind(404, "invalid_request_error", "model_not_found"),
    StoreError: Kind(503, "server_error", "state_unavailable"),
    AdmissionError: Kind(429, "rate_limit_error", "refused"),
    QueueFull: Kind(429, "rate_limit_error", "queue_full"),
    RateLimited: Kind(429, "rate_limit_error", "rate_limit_exceeded"),
    FeedbackFull: Kind(507, "server_error", "feedback_full"),
    BudgetExceeded: Kind(402, "insufficient_quota", "budget_exceeded"),
    ShuttingDown: Kind(503, "server_error", "shutting_down"),
    DeadlineExceeded: Kind(504, "server_error", "deadline_exceeded"),
}


@dataclass(frozen=True, slots=True)
class ErrorAnswer:
    """A failure as it goes over the wire."""

    status: int
    envelope: Mapping[str, Mapping[str, object]]
    headers: tuple[tuple[bytes, bytes], ...] = ()


def answer_for(error: Exception, request_id: str) -> ErrorAnswer:
    """How to tell an error; logs in full those that the operator has to know of."""
    kind = _kind_of(error)
    if kind is UNEXPECTED or not isinstance(error, CoeError):
        logger.error("request %s failed unexpectedly", request_id, exc_info=error)
        message = _public("the gateway failed", request_id)
        return ErrorAnswer(UNEXPECTED.status, _envelope(message, UNEXPECTED))
    if kind.status >= 500:
        logger.warning("request %s: %s: %s", request_id, type(error).__name__, error)
    code = error.code if isinstance(error, InvalidRequest) else kind.code
    param = error.param if isinstance(error, RequestError) else None
    if isinstance(error, UnknownExpert):
        param = "model"
    return ErrorAnswer(
        kind.status,
        _envelope(_told(error, request_id), Kind(kind.status, kind.type, code), param),
        _headers(error),
    )


def answer_for_http(error: HTTPException, method: str, path: str) -> ErrorAnswer:
    """How to tell that no route takes this method and path."""
    headers = tuple(
        (name.lower().encode("latin-1"), value.encode("latin-1"))
        for name, value in (error.headers or {}).items()
    )
    code = {404: "unknown_url", 405: "method_not_allowed"}.get(error.status_code)
    messages = {
        404: f"no such path: {path}; the API is under /v1, as in /v1/chat/completions",
        405: f"{path} does not take {method}",
    }
    message = messages.get(error.status_code, error.detail)
    kind = Kind(error.status_code, "invalid_request_error", code)
    return ErrorAnswer(kind.status, _envelope(message, kind), headers)


def _kind_of(error: Exception) -> Kind:
    for cls in type(error).__mro__:
        if cls in TABLE:
            return TABLE[cls]
    return UNEXPECTED


def _told(error: CoeError, request_id: str) -> str:
    """The error's own words where they concern the caller, else what failed and no detail."""
    match error:
        case UnknownExpert() | ExpertRemoved() | UpstreamTimeout() | BreakerOpen():
            return str(error)
        case StoreError():
            return _public("what this request needs could not be read or kept", request_id)
        case RoutingError():
            return _public("no expert could be chosen", request_id)
        case StartupError():
            return _public(f"expert {error.expert_id!r} could not be started", request_id)
        case UpstreamBusy():
            wait_s = error.retry_after_s
            busy = f"expert {error.expert_id!r} has no time for {wait_s:.3g} s; ask again then"
            return _public(busy, request_id)
        case UpstreamError(status=int(status)):
            return _public(f"expert {error.expert_id!r} failed with status {status}", request_id)
        case EngineError():
            return _public(f"expert {error.expert_id!r} failed", request_id)
        case _:
            return str(error)


def _public(failure: str, request_id: str) -> str:
    return f"{failure}; the gateway's log has the cause under request {request_id}"


def _envelope(message: str, kind: Kind, param: str | None = None) -> dict[str, dict[str, object]]:
    return {"error": {"message": message, "type": kind.type, "param": param, "code": kind.code}}


def _headers(error: CoeError) -> tuple[tuple[bytes, bytes], ...]:
    wait_s = retry_after_of(error)
    if wait_s is not None:
        return ((b"retry-after", b"%d" % max(1, ceil(min(wait_s, _LONGEST_WAIT_S)))),)
    if isinstance(error, BodyTooSlow):
        # The rest of the body may never come, and would stand before the next request.
        return ((b"connection", b"close"),)
    return ()


SHUTTING_DOWN = ErrorAnswer(
    503,
    _envelope(
        "the gateway is shutting down; ask again", Kind(503, "server_error", "shutting_down")
    ),
)
