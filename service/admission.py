"""What one gateway process takes on: refusals before a body is read, as cheap as they can be.

Experts have bounds and lines of their own. This one is for the process itself, whose one event loop
answers everybody late once it has more to do than it can. It refuses

1. whoever comes while `max_in_flight` requests are under way;
2. whoever comes while the loop has been late for too long, as `Lag` has it, unless hardly anybody
   comes: then it is not the requests that make it late.

So those that were let in are answered about as fast as ever, whatever is asked besides.
"""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass

import orjson
from starlette.types import ASGIApp, Receive, Scope, Send

from coe.service.reply import send_body

_LOOK_S = 0.02
"""How often the loop is asked how late it is."""
_PATIENCE_S = 1.0
"""For so long it may be late: many who come at once are served, one after the other."""
_CALM_S = 5.0
"""So long after it was late last it may be so again."""
_FEW = 16
_RETRY_AFTER_S = 1


@dataclass(frozen=True, slots=True)
class AdmissionRules:
    """How much is too much."""

    max_in_flight: int
    longest_lag_s: float
    """By which callbacks may be late; above it the process has too much to do."""


class Lag:
    """How late an event loop is, and whether that is too much. Pure: what was measured and the
    time in, a verdict out.

    It may be late for a while. After that it is too late whenever it is late, until it was in time
    for a while: who is refused comes again.
    """

    def __init__(self, longest_s: float) -> None:
        self._longest_s = longest_s
        self._in_time_s = self._late_at_s = -math.inf
        """When it was so last."""
        self._is_late, self._is_patient = False, True

    def on_look(self, now: float, late_s: float) -> None:
        self._is_late = late_s > self._longest_s
        if self._is_late:
            self._late_at_s = now
            self._is_patient = self._is_patient and now - self._in_time_s <= _PATIENCE_S
        else:
            self._in_time_s = now
            self._is_patient = self._is_patient or now - self._late_at_s >= _CALM_S

    @property
    def is_too_long(self) -> bool:
        return self._is_late and not self._is_patient


class Admission:
    """The ASGI app behind which no more is under way than can be served. Only POST is refused:
    whoever asks how the gateway is gets an answer.
    """

    def __init__(self, app: ASGIApp, rules: AdmissionRules) -> None:
        self._app = app
        self._rules = rules
        self._lag = Lag(rules.longest_lag_s)
        self._timer: asyncio.TimerHandle | None = None
        self._n_come = 0
        """Since the last look."""
        self.n_in_flight = 0
        self.n_refused = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        self._n_come += 1
        if self._is_too_much():
            self.n_refused += 1
            await send_body(send, _BODY, 503, _HEADERS)
            return
        self.n_in_flight += 1
        if self._timer is None:
            loop = asyncio.get_running_loop()
            self._lag.on_look(loop.time(), 0.0)  # nobody was there to be late for
            self._look_later(loop)
        try:
            await self._app(scope, receive, send)
        finally:
            self.n_in_flight -= 1

    def _is_too_much(self) -> bool:
        if self.n_in_flight >= self._rules.max_in_flight:
            return True
        return self._lag.is_too_long and self.n_in_flight + self._n_come > _FEW

    def _look_later(self, loop: asyncio.AbstractEventLoop) -> None:
        due_s = loop.time() + _LOOK_S
        self._timer = loop.call_at(due_s, self._look, loop, due_s)

    def _look(self, loop: asyncio.AbstractEventLoop, due_s: float) -> None:
        self._lag.on_look(loop.time(), loop.time() - due_s)
        if self.n_in_flight or self._n_come:
            self._n_come = 0
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
