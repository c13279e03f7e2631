"""When servers say to come back."""

from __future__ import annotations

import pytest

from coe.engines.upstream_busy import UpstreamBusy, read_retry_after, retry_after_of
from coe.errors import QueueFull, UpstreamError

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
