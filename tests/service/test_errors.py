from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from coe import errors
from coe.engines.breaking import BreakerOpen
from coe.engines.upstream_busy import UpstreamBusy
from coe.errors import (
    BudgetExceeded,
    CoeError,
    ConfigError,
    ContextOverflow,
    DatasetError,
    DeadlineExceeded,
    EngineError,
    ExpertRemoved,
    PoolMismatch,
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
from coe.feedback_log import FeedbackFull, UnclearExpert, UnknownDecision
from coe.service.errors import (
    TABLE,
    BodyTooLarge,
    BodyTooSlow,
    FeedbackOff,
    InvalidRequest,
    ModelNotFound,
    NotJsonType,
    answer_for,
)

INVALID = "invalid_request_error"


@pytest.mark.parametrize(
    ("error", "status", "type_", "code", "param"),
    [
        (InvalidRequest("bad", param="n", code="c"), 400, INVALID, "c", "n"),
        (RequestError("bad", param="seed"), 400, INVALID, "invalid_value", "seed"),
        (ContextOverflow("e", 90, 64), 400, INVALID, "context_length_exceeded", "messages"),
        (BodyTooLarge(8), 413, INVALID, "request_too_large", None),
        (BodyTooSlow(8), 408, INVALID, "request_timeout", None),
        (NotJsonType("text/plain"), 415, INVALID, "unsupported_media_type", None),
        (ModelNotFound("gpt", ("coe",)), 404, INVALID, "model_not_found", "model"),
        (FeedbackOff(), 404, INVALID, "feedback_off", None),
        (UnknownDecision(), 404, INVALID, "decision_not_found", "decision_id"),
        (UnclearExpert(("a", "b"), None), 400, INVALID, "invalid_value", "expert"),
        (FeedbackFull(8), 507, "server_error", "feedback_full", None),
        (UnknownExpert("x", ("y",)), 404, INVALID, "model_not_found", "model"),
        (RoutingError("no"), 500, "server_error", "routing_failed", None),
        (PoolMismatch("w", 1, 2, "fix"), 500, "server_error", "routing_failed", None),
        (StartupError("e", "no"), 503, "server_error", "expert_unavailable", None),
        (UpstreamError("e", "no", 429), 502, "server_error", "upstream_error", None),
        (UpstreamTimeout("e", 3), 504, "server_error", "upstream_timeout", None),
        (UpstreamBusy("e", "no", 429, 3.0), 503, "server_error", "expert_busy", None),
        (BreakerOpen("e", "failed", 3.0), 503, "server_error", "expert_unavailable", None),
        (ExpertRemoved("e"), 404, INVALID, "model_not_found", None),
        (QueueFull("busy", 2.2), 429, "rate_limit_error", "queue_full", None),
        (RateLimited("often", 2.2), 429, "rate_limit_error", "rate_limit_exceeded", None),
        (ShuttingDown("bye"), 503, "server_error", "shutting_down", None),
        (StoreError("disk"), 503, "server_error", "state_unavailable", None),
        (BudgetExceeded("spent"), 402, "insufficient_quota", "budget_exceeded", None),
        (DeadlineExceeded("late"), 504, "server_error", "deadline_exceeded", None),
    ],
)
def test_answer_tells_errors_raised_on_purpose(
    error: CoeError, status: int, type_: str, code: str, param: str | None
) -> None:
    answer = answer_for(error, "r1")
    assert answer.status == status
    envelope = dict(answer.envelope["error"])
    assert envelope.pop("message")
    assert envelope == {"type": type_, "param": param, "code": code}


@pytest.mark.parametrize(
    "error",
    [
        InvalidRequest("bad", param="n", code="c"),
        ContextOverflow("e", 90, 64),
        ModelNotFound("gpt", ("coe",)),
        UnknownExpert("x", ("y",)),
        UpstreamTimeout("e", 3),
        BreakerOpen("e", "failed 8 of its last 10 requests", 2.2),
        QueueFull("busy", 2.2),
        ShuttingDown("the gateway is shutting down"),
        BudgetExceeded("spent"),
        DeadlineExceeded("late"),
    ],
)
def test_answer_tells_the_caller_what_is_the_callers_to_change(error: CoeError) -> None:
    assert answer_for(error, "r1").envelope["error"]["message"] == str(error)


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (StartupError("e", "no file secret.gguf"), "expert 'e' could not be started"),
        (UpstreamError("e", "http://u:secret@h said no", 401), "expert 'e' failed with status 401"),
        (UpstreamError("e", "secret broke off"), "expert 'e' failed"),
        (
            UpstreamBusy("e", "key secret is over its limit", 429, 2.5),
            "expert 'e' has no time for 2.5 s; ask again then",
        ),
        (StoreError("/var/secret.db is full"), "what this request needs could not be read or kept"),
        (EngineError("e", "secret is silent"), "expert 'e' failed"),
        (RoutingError("scores of secret.npz are not finite"), "no expert could be chosen"),
        (PoolMismatch("secret.npz", 1, 2, "fit it again"), "no expert could be chosen"),
    ],
)
def test_answer_keeps_what_is_the_operators_for_the_log(
    error: CoeError, told: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "coe.service"):
        message = answer_for(error, "r1").envelope["error"]["message"]
    assert message == f"{told}; the gateway's log has the cause under request r1"
    assert "r1" in caplog.text
    assert str(error) in caplog.text


@pytest.mark.parametrize(("wait_s", "header"), [(2.2, b"3"), (0.0, b"1"), (1e300, b"86400")])
def test_answer_for_a_refusal_of_time_says_when_to_come_back(wait_s: float, header: bytes) -> None:
    for error in (
        QueueFull("busy", wait_s),
        BreakerOpen("e", "failed", wait_s),
        UpstreamBusy("e", "later", 503, wait_s),
    ):
        assert answer_for(error, "r1").headers == ((b"retry-after", header),)


@pytest.mark.parametrize(
    "error",
    [ValueError("secret"), ConfigError("secret", file="/etc/secret"), DatasetError("secret")],
)
def test_answer_hides_the_unexpected_and_logs_it(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR, "coe.service"):
        answer = answer_for(error, "r1")
    assert answer.status == 500
    assert "secret" not in str(answer.envelope)
    assert "r1" in str(answer.envelope)
    assert "secret" in caplog.text


def test_table_names_every_error_that_concerns_the_caller() -> None:
    unnamed = {cls.__name__ for cls in _tree(CoeError) if cls not in TABLE}
    assert unnamed == {"CoeError", "ConfigError", "DatasetError", "PoolMismatch"}


def test_model_not_found_names_the_nearest() -> None:
    error = ModelNotFound("lands/capital", ("coe", "sums", "lands/capitals"))
    assert "lands/capitals" in str(error)
    assert "sums" not in str(error)


def _tree(cls: type[CoeError]) -> Iterator[type[CoeError]]:
    yield cls
    for child in cls.__subclasses__():
        if child.__module__ == errors.__name__:
            yield from _tree(child)
