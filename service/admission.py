"""What one gateway process takes on, decided before a body is read, as cheaply as can be.

Refused is whoever comes

1. while `max_in_flight` requests are under way;
2. while work stands in line for the process's one event loop, as `Congestion` has it;
3. to ask an expert, while every expert has a bounded line and all of these lines are full.

So those that were let in are answered about as fast as ever, whatever is asked besides. Where a
`Connection` asks, a refusal costs no task, no scope and no line of a log; it is counted.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from http import HTTPStatus
from math import ceil

import orjson
from starlette.types import ASGIApp, Receive, Scope, Send

from coe.errors import QueueFull
from coe.ids import new_id
from coe.service.congestion import Congestion
from coe.service.reply import Header, send_body

INTAKE = "coe.intake"
"""Where the state that an app tells its server of has it, for connections to ask."""
LET_IN = "coe.let_in_s"
"""Where a scope says when its request was let in; without it nobody was asked yet."""

_SANE_ID = re.compile(rb"[!-~]{1,128}")
_LONGEST_WAIT_S = 24 * 3600
_clock = time.monotonic


@dataclass(frozen=True, slots=True)
class AdmissionRules:
    """How much is too much."""

    max_in_flight: int
    longest_lag_s: float
    """Work that may stand in line for the process, however long, in seconds of its own time."""


class Refusal:
    """What is told to whoever is not let in; all that is the same for many is made once."""

    def __init__(self, status: int, body: bytes, retry_after_s: int = 1) -> None:
        self.status = status
        self.body = body
        self._retry_after = (b"retry-after", b"%d" % retry_after_s)
        phrase = HTTPStatus(status).phrase.encode("ascii")
        self._head = (
            b"HTTP/1.1 %d %b\r\ncontent-type: application/json\r\ncontent-length: %d\r\n"
            b"retry-after: %d\r\n" % (status, phrase, len(body), retry_after_s)
        )

    def headers(self, given: Iterable[Header]) -> tuple[Header, ...]:
        """All but those of the body, for a request with these."""
        return self._retry_after, (b"x-request-id", _id_of(given))

    def response(self, given: Iterable[Header], lines: bytes) -> bytes:
        """The whole of it, to be written as it is. `lines`: headers of the server's own."""
        request_id = _id_of(given)
        return b"%bx-request-id: %b\r\n%b\r\n%b" % (self._head, request_id, lines, self.body)


def _id_of(given: Iterable[Header]) -> bytes:
    """The client's own if it is sane ASCII, as for those that are let in."""
    for name, value in given:
        if name == b"x-request-id" and _SANE_ID.fullmatch(value):
            return value
    return new_id().encode("ascii")


class Intake:
    """Decides for one process. On its event loop.

    Whoever is let in is under way until `end`.
    """

    def __init__(
        self,
        rules: AdmissionRules,
        full: Callable[[], QueueFull | None] = lambda: None,
        generating: Iterable[str] = (),
    ) -> None:
        """`full`: why no expert takes anybody on; asked for those that come to `generating`."""
        self._rules = rules
        self._full = full
        self._generating = frozenset(path.encode("ascii") for path in generating)
        self._congestion = Congestion(rules.longest_lag_s)
        self._timer: asyncio.TimerHandle | None = None
        self._due_s = self._worked_s = 0.0
        self._waiting: Callable[[], int] = lambda: 0
        self._refused: dict[str, int] = {"in_flight": 0, "congestion": 0, "lines": 0}
        self.n_in_flight = 0

    @property
    def refused(self) -> Mapping[str, int]:
        """How many were not let in until now, and why."""
        return self._refused

    def stands_before(self, waiting: Callable[[], int]) -> None:
        """`waiting`: how many connections nobody has taken over yet."""
        self._waiting = waiting

    def begin(self, path: bytes) -> Refusal | None:
        """Lets a POST in, or says why not."""
        if self.n_in_flight >= self._rules.max_in_flight:
            self._refused["in_flight"] += 1
            return _OVERLOADED
        if path in self._generating and (full := self._full()) is not None:
            self._refused["lines"] += 1
            return _lines_full(max(1, ceil(min(full.retry_after_s, _LONGEST_WAIT_S))))
        if not self._congestion.lets_in(self.n_in_flight):
            self._refused["congestion"] += 1
            return _OVERLOADED
        self.n_in_flight += 1
        if self._timer is None:
            loop = asyncio.get_running_loop()
            self._worked_s = time.thread_time()
            self._congestion.on_look(_clock(), 0.0, 0.0, 0)  # nobody was there to be late for
            self._look_later(loop)
        return None

    def keep(self, let_in_s: float) -> Refusal | None:
        """Has one that was let in go on, or, where it waited for too long, ends it at once."""
        if self._congestion.keeps(self.n_in_flight, _clock() - let_in_s):
            return None
        self.n_in_flight -= 1
        self._refused["congestion"] += 1
        return _OVERLOADED

    def end(self) -> None:
        self.n_in_flight -= 1

    def _look_later(self, loop: asyncio.AbstractEventLoop) -> None:
        look_s = self._congestion.look_s
        self._due_s = _clock() + look_s
        self._timer = loop.call_later(look_s, self._look, loop)

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        now, worked_s = _clock(), time.thread_time()
        late_s, since_s = max(0.0, now - self._due_s), worked_s - self._worked_s
        self._congestion.on_look(now, late_s, since_s, self._waiting())
        self._worked_s = worked_s
        if self.n_in_flight:
            self._look_later(loop)
        else:
            self._timer = None


class Admission:
    """The ASGI app behind which no more is under way than can be served. Only POST is refused:
    whoever asks how the gateway is gets an answer.
    """

    def __init__(self, app: ASGIApp, intake: Intake) -> None:
        self._app = app
        self._intake = intake

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan" and "state" in scope:
            scope["state"][INTAKE] = self._intake
        if scope["type"] != "http" or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        let_in_s = scope.get(LET_IN)
        if let_in_s is None:
            refusal = self._intake.begin(scope["path"].encode("utf-8", "replace"))
        else:
            refusal = self._intake.keep(let_in_s)
        if refusal is not None:
            headers = refusal.headers(scope["headers"])
            await send_body(send, refusal.body, refusal.status, headers)
            return
        try:
            await self._app(scope, receive, send)
        finally:
            self._intake.end()


def _body(message: str, kind: str, code: str) -> bytes:
    return orjson.dumps({"error": {"message": message, "type": kind, "param": None, "code": code}})


_OVERLOADED = Refusal(
    503,
    _body(
        "the gateway has more to do than it can; ask again a little later",
        "server_error",
        "overloaded",
    ),
)


@lru_cache(maxsize=1024)
def _lines_full(retry_after_s: int) -> Refusal:
    message = "as many requests wait for every expert as may; ask again when a place should be free"
    return Refusal(429, _body(message, "rate_limit_error", "queue_full"), retry_after_s)
