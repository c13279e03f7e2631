"""litellm's exceptions, which are every provider's, as errors of an engine.

Told apart by name and status, so that litellm need not be there to read this.
"""

from __future__ import annotations

from typing import Any

import orjson

from coe.engines.completion_stream import refusal
from coe.engines.endpoint import without_userinfo
from coe.engines.upstream_busy import UpstreamBusy, busy_until
from coe.errors import (
    CoeError,
    ContextOverflow,
    StartupError,
    UpstreamError,
    UpstreamTimeout,
)
from coe.experts import Expert

_NO_PROVIDER = "LLM Provider NOT provided"
_MAX_SHOWN = 500


def failure_of(expert: Expert, error: Exception, timeout_s: float, key: str | None) -> CoeError:
    """The caller's fault or the expert's. `key` is kept out of the words."""
    kinds = {cls.__name__ for cls in type(error).__mro__}
    words = _words(error, key)
    status = getattr(error, "status_code", None)
    if not isinstance(status, int):
        status = None
    if "Timeout" in kinds:
        return UpstreamTimeout(expert.id, timeout_s)
    if _NO_PROVIDER in words:
        return StartupError(
            expert.id,
            "litellm knows no provider of its model; write it as provider/name, such as "
            "'mistral/mistral-small-latest'",
        )
    if "MidStreamFallbackError" in kinds:
        return UpstreamError(expert.id, f"failed in the middle of its answer: {words}", status)
    retry_after_s = busy_until(status, _headers(error))
    if retry_after_s is not None:
        return UpstreamBusy(
            expert.id, f"answered with status {status}: {words}", status, retry_after_s
        )
    if status is None:
        return UpstreamError(expert.id, f"{type(error).__name__}: {words}")
    refused = refusal(expert, status, orjson.dumps({"error": words}))
    if "ContextWindowExceededError" in kinds and not isinstance(refused, ContextOverflow):
        # The provider names no numbers; the pool's file does.
        context = expert.context_tokens
        return ContextOverflow(expert.id, context + 1, context, is_lower_bound=True)
    return refused


def _words(error: Exception, key: str | None) -> str:
    words = without_userinfo(str(error)).removeprefix("litellm.")
    if key:
        words = words.replace(key, "…")
    return words[:_MAX_SHOWN] or type(error).__name__


def _headers(error: Exception) -> dict[str, str]:
    """What the provider sent with its refusal; litellm keeps it in a place of its own."""
    told: Any = getattr(error, "litellm_response_headers", None)
    told = told or getattr(getattr(error, "response", None), "headers", None) or {}
    return {str(name).lower(): str(value) for name, value in told.items()}
