"""What is known of one request by its end: noted while it is served, told once it is over.

Nothing in here is for anybody but the operator, and the prompt only where the operator asked.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from typing import Literal, Protocol

from starlette.types import Scope

from coe.errors import AdmissionError
from coe.routing import RoutingDecision
from coe.telemetry import Call, current_watch, kind_of
from coe.types import Delta, GenerationRequest, Usage

ABANDONED = "abandoned"
"""The kind of a failure that is nobody's: the client left."""
UNFINISHED = "unfinished"
"""An answer that ended before its end, nobody said why."""
_OPERATIONS = {"completions": "text_completion", "embeddings": "embeddings"}
_KEY = "coe.notes"
Clock = Callable[[], float]


class Meter(Protocol):
    """Is told of what happens while a request is served, as `GatewayMetrics` is."""

    def called(self, call: WatchedCall, seconds: float, failure: str | None) -> None: ...

    def cached(self, outcome: str) -> None: ...

    def feedback(self, expert_id: str, score: float) -> None: ...


class CallSpan(Protocol):
    """One expert's call in a trace."""

    @property
    def headers(self) -> tuple[tuple[str, str], ...]:
        """What the expert's server is told of the trace."""
        ...

    def ended(self, usage: Usage | None, reason: str | None, failure: str | None) -> None: ...


class RequestSpan(Protocol):
    """One request in a trace."""

    def decided(self, decision: RoutingDecision, seconds: float) -> None: ...

    def call(self, expert_id: str, request: GenerationRequest) -> CallSpan: ...

    def aggregation(self, expert_ids: Sequence[str]) -> AbstractContextManager[None]: ...

    def ended(self, notes: RequestNotes, status: int, failure: str | None) -> None: ...


class Upstream:
    """Seconds in which at least one expert was waited for, however many at once."""

    __slots__ = ("_clock", "_n_waited_for", "_since_s", "seconds")

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._n_waited_for = 0
        self._since_s = 0.0
        self.seconds = 0.0

    def enter(self) -> None:
        if self._n_waited_for == 0:
            self._since_s = self._clock()
        self._n_waited_for += 1

    def leave(self) -> None:
        self._n_waited_for -= 1
        if self._n_waited_for == 0:
            self.seconds += self._clock() - self._since_s


class RequestNotes:
    """Whoever learns something of a request writes it here. Meets `coe.telemetry.Watch`."""

    def __init__(
        self,
        route: str,
        meter: Meter | None = None,
        span: RequestSpan | None = None,
        wants_prompt: bool = False,
        clock: Clock = time.perf_counter,
    ) -> None:
        self.route = route
        self.wants_prompt = wants_prompt
        self.meter = meter
        self.span = span
        self.clock = clock
        self.upstream = Upstream(clock)
        self.decision: RoutingDecision | None = None
        self.decision_id = ""
        self.routing_s: float | None = None
        self.answered: tuple[str, ...] = ()
        """Experts that have spoken to their end, in that order."""
        self.usage: Usage | None = None
        """Of all experts that told theirs."""
        self.failure: str | None = None
        """The kind of what went wrong last; what made it good has erased it."""
        self.cache: str | None = None
        """None: it was not looked up."""
        self.is_refused = False
        """Turned away for load, time, limits or money: an answer, not a failure."""
        self.prompt: str | None = None

    @property
    def expert(self) -> str | None:
        """Who answered alone; None: nobody, or several."""
        return self.answered[0] if len(self.answered) == 1 else None

    def decided(self, decision: RoutingDecision, decision_id: str, seconds: float) -> None:
        """`seconds`: how long it took."""
        self.decision = decision
        self.decision_id = decision_id
        self.routing_s = seconds
        if self.span is not None:
            self.span.decided(decision, seconds)

    def asks(self, prompt: str) -> None:
        """Forgotten at once unless the operator wants it."""
        if self.wants_prompt:
            self.prompt = prompt

    def looked_up(self, outcome: Literal["hit", "near", "miss"]) -> None:
        """In the cache of responses; `near`: one for a request that means the same."""
        self.cache = outcome
        if self.meter is not None:
            self.meter.cached(outcome)

    def scored(self, expert_id: str, score: float) -> None:
        """A client's feedback."""
        if self.meter is not None:
            self.meter.feedback(expert_id, score)

    def failed(self, error: Exception) -> None:
        """What the client is told in place of an answer."""
        self.failure = kind_of(error)
        self.is_refused = isinstance(error, AdmissionError)

    def call(self, expert_id: str, request: GenerationRequest) -> Call:
        return WatchedCall(self, expert_id, request)

    @contextmanager
    def aggregation(self, expert_ids: Sequence[str]) -> Iterator[None]:
        if self.span is None:
            yield
            return
        with self.span.aggregation(expert_ids):
            yield


class WatchedCall(Call):
    """One expert being asked for one request."""

    def __init__(self, notes: RequestNotes, expert_id: str, request: GenerationRequest) -> None:
        super().__init__(request)
        self.expert_id = expert_id
        self.usage: Usage | None = None
        self.first_s: float | None = None
        """Until its first word; None: it said none."""
        self._notes = notes
        self.operation = operation_of(request)
        self._reason: str | None = None
        self._is_waited_for = True
        self._span = None if notes.span is None else notes.span.call(expert_id, request)
        if self._span is not None:
            self.request = _traced(request, self._span.headers)
        self._began_s = notes.clock()
        notes.upstream.enter()

    def hears(self, delta: Delta) -> None:
        self._notes.upstream.leave()
        self._is_waited_for = False
        if self.first_s is None and delta.says_something:
            self.first_s = self._notes.clock() - self._began_s
        if delta.finish_reason is not None:
            self._reason, self.usage = delta.finish_reason, delta.usage

    def resumes(self) -> None:
        self._notes.upstream.enter()
        self._is_waited_for = True

    def ends(self, error: BaseException | None) -> None:
        if self._is_waited_for:
            self._notes.upstream.leave()
        notes = self._notes
        seconds, failure = notes.clock() - self._began_s, self._failure(error)
        if failure is None:
            notes.answered += (self.expert_id,)
            notes.failure = None
            if self.usage is not None:
                notes.usage = self.usage if notes.usage is None else notes.usage + self.usage
        elif failure != ABANDONED:
            notes.failure = failure
        if notes.meter is not None:
            notes.meter.called(self, seconds, failure)
        if self._span is not None:
            self._span.ended(self.usage, self._reason, failure)

    def _failure(self, error: BaseException | None) -> str | None:
        """Whoever heard all of it may leave before the end of the iterator."""
        if isinstance(error, Exception):
            return kind_of(error)
        if self._reason is not None:
            return None
        return UNFINISHED if error is None else ABANDONED


def operation_of(request: GenerationRequest) -> str:
    """What OpenTelemetry calls it."""
    return "chat" if request.raw is None else _OPERATIONS.get(request.raw.route, "chat")


def notes_of(scope: Scope) -> RequestNotes:
    """The request's own, or some that nobody reads where it is not observed."""
    notes: RequestNotes | None = scope.get(_KEY)
    return RequestNotes("") if notes is None else notes


def current_notes() -> RequestNotes:
    """The notes of the request that this is done for, or some that nobody reads."""
    watch = current_watch()
    return watch if isinstance(watch, RequestNotes) else RequestNotes("")


def put_notes(scope: Scope, notes: RequestNotes) -> None:
    scope[_KEY] = notes


def _traced(request: GenerationRequest, headers: tuple[tuple[str, str], ...]) -> GenerationRequest:
    return replace(request, trace=headers)
