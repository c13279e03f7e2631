"""When servers say to come back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from aiohttp import web

from coe.engines.upstream_busy import (
    UpstreamBusy,
    busy_until,
    read_retry_after,
    retry_after_of,
)
from coe.errors import QueueFull, UpstreamError
from coe.types import GenerationRequest

Ask = Callable[..., GenerationRequest]

AT_S = 1_000_000_000.0  # Sun, 09 Sep 2001 01:46:40 GMT


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"Retry-After": "7"}, 7.0),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after": "7", "retry-after-ms": "250"}, 0.25),
        ({"Retry-After": "Sun, 09 Sep 2001 01:47:10 GMT"}, 30.0),
        ({"Retry-After": "Sun, 09 Sep 2001 01:47:10"}, 30.0),
        ({"Retry-After": "Sun, 09 Sep 2001 01:46:00 GMT"}, 0.0),
        ({"Retry-After": "-1"}, None),
        ({"Retry-After": "inf"}, None),
        ({"Retry-After": "soon"}, None),
        ({"Retry-After": ""}, None),
        ({}, None),
    ],
)
def test_retry_after_is_read_as_seconds(headers: dict[str, str], seconds: float | None) -> None:
    assert read_retry_after(headers, AT_S) == seconds


def test_retry_after_of_errors_that_say_it_and_of_others() -> None:
    busy = UpstreamBusy("e", "answered with status 429", 429, 2.0)
    assert (busy.status, retry_after_of(busy)) == (429, 2.0)
    assert "left alone for 2 s" in str(busy)
    assert retry_after_of(QueueFull("full", 3.0)) == 3.0
    assert retry_after_of(UpstreamError("e", "down", 503)) is None
    assert retry_after_of(QueueFull("full", 3)) == 3.0


@pytest.mark.parametrize(
    ("status", "seconds"), [(429, 7.0), (503, 7.0), (500, 7.0), (404, None), (None, None)]
)
def test_busy_are_those_that_refuse_for_want_of_time(
    status: int | None, seconds: float | None
) -> None:
    assert busy_until(status, {"Retry-After": "7"}) == seconds
    assert busy_until(status, {}) is None


@pytest.mark.parametrize("status", [429, 503])
async def test_openai_engine_tells_when_a_busy_server_has_time(
    upstream: Any, ask: Ask, status: int
) -> None:
    async def chat(_: web.Request) -> web.StreamResponse:
        body = b'{"error": {"message": "over the limit"}}'
        return web.Response(status=status, body=body, headers={"Retry-After": "7"})

    error = await upstream.failure(chat, ask())
    assert isinstance(error, UpstreamBusy)
    assert (error.status, error.retry_after_s) == (status, 7.0)
    assert "over the limit" in str(error)
