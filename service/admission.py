"""What one gateway process takes on: refusals before a body is read, as cheap as they can be.

Experts have bounds and lines of their own. This one is for the process itself, whose one event loop
answers everybody late once it has more to do than it can. It refuses

1. whoever comes while `max_in_flight` requests are under way;
2. whoever comes while the loop has been late for a while and still is, unless hardly anything is
   under way: then it is not the requests that make it late.

So those that were let in are answered about as fast as ever, whatever is asked besides.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

import orjson
from starlette.types import ASGIApp, Receive, Scope, Send

from coe.service.reply import send_body

_LOOK_S = 0.02
"""How often the loop is asked how late it is."""
_PATIENCE_S = 0.1
"""A loop that was in time once within so long has only been held up."""
_FEW = 16
_RETRY_AFTER_S = 1


@dataclass(frozen=True, slots=True)
class AdmissionRules:
    """How much is too much."""

    max_in_flight: int
    longest_lag_s: float
    """By which callbacks may be late; above it the process has too much to do."""


class Lag:
    """How late an event loop is. Pure: what was measured and the time in, a verdict out."""

    def __init__(self, longest_s: float) -> None:
        self._longest_s = longest_s
        self._late_s = 0.0
        self._in_time_s = float("-inf")
        """When the loop was last in time."""

    def on_look(self, now: float, late_s: float) -> None:
        self._late_s = late_s
        if late_s <= self._longest_s:
            self._in_time_s = now

    def on_calm(self, now: float) -> None:
        """Nobody looks for a while."""
        self.on_look(now, 0.0)

    def is_too_long(self, now: float) -> bool:
        return self._late_s > self._longest_s and now - self._in_time_s > _PATIENCE_S


class Admission:
    """The ASGI app behind which no more is under way than can be served. Only POST is refused:
    whoever asks how the gateway is gets an answer.
    """

    def __init__(self, app: ASGIApp, rules: AdmissionRules) -> None:
        self._app = app
        self._rules = rules
        self._lag = Lag(rules.longest_lag_s)
        self._timer: asyncio.TimerHandle | None = None
        self.n_in_flight = 0
        self.n_refused = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        loop = asyncio.get_running_loop()
        if self._is_too_much(loop.time):
            self.n_refused += 1
            await send_body(send, _BODY, 503, _HEADERS)
            return
        self.n_in_flight += 1
        if self._timer is None:
            self._lag.on_calm(loop.time())
            self._look_later(loop)
        try:
            await self._app(scope, receive, send)
        finally:
            self.n_in_flight -= 1

    def _is_too_much(self, clock: Callable[[], float]) -> bool:
        if self.n_in_flight >= self._rules.max_in_flight:
            return True
        return self.n_in_flight >= _FEW and self._lag.is_too_long(clock())

    def _look_later(self, loop: asyncio.AbstractEventLoop) -> None:
        due_s = loop.time() + _LOOK_S
        self._timer = loop.call_at(due_s, self._look, loop, due_s)

    def _look(self, loop: asyncio.AbstractEventLoop, due_s: float) -> None:
        self._lag.on_look(loop.time(), loop.time() - due_s)
        if self.n_in_flight:
            self._look_later(loop)
        else:
            self._timer = None


_BODY = orjson.dumps(
    {
        "error": {
            "message": "the gateway has more to do than it can; ask again a little later",
            "type": "server_error",
            "param": None,
            "code": "overloaded",
        }
    }
)
_HEADERS = ((b"retry-after", b"%d" % _RETRY_AFTER_S),)
