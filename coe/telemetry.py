"""What is counted while a pool serves. Plain numbers since the start, for whoever reports them.

Every field only grows, but for `breaker`, so that each can be exported as a counter under its own
name, with the expert and the kind of failure as labels. Who wants to know more of one request,
what it cost where and how long it took, watches it.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Protocol

from coe.errors import CoeError
from coe.types import Delta, GenerationRequest, Usage

_WORD_START = re.compile(r"(?<!^)(?=[A-Z])")


@dataclass(frozen=True, slots=True)
class ExpertCounts:
    """What one expert was asked, and what came of it."""

    requests: int = 0
    answers: int = 0
    """Whole ones."""
    abandoned: int = 0
    """Left by whoever asked, before their end."""
    failures: Mapping[str, int] = field(default_factory=dict)
    """Kind → how many. Refusals are among them."""
    failovers: int = 0
    """Requests that were routed to it and went on to another expert."""
    retries: int = 0
    """Beyond `requests`, which counts a request that is tried again once."""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    uncounted_answers: int = 0
    """Whole answers whose tokens nobody told."""
    breaker: str | None = None
    """closed, open or half-open; None: it has none."""
    breaker_openings: int = 0


@dataclass(frozen=True, slots=True)
class Counts:
    """One moment's numbers."""

    requests: int
    """Of clients, each of which may have asked several experts."""
    answers: int
    abandoned: int
    failures: Mapping[str, int]
    """Kind → requests that were told so."""
    experts: Mapping[str, ExpertCounts]


@dataclass(slots=True, eq=False)
class Tally:
    """Numbers that grow, of one expert or of all requests. On one event loop."""

    requests: int = 0
    answers: int = 0
    abandoned: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    failovers: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    uncounted_answers: int = 0

    def request(self) -> Asked:
        """Counts one, and once it is entered and left, what came of it."""
        self.requests += 1
        return Asked(self)


class Asked:
    """One request under way."""

    __slots__ = ("_tally", "is_answered")

    def __init__(self, tally: Tally) -> None:
        self._tally = tally
        self.is_answered = False

    def __enter__(self) -> Asked:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, Exception):
            self._tally.failures[kind_of(error)] += 1
        elif error is not None:
            self._tally.abandoned += not self.is_answered

    def answered(self, usage: Usage | None = None) -> None:
        """It was answered to its end."""
        self.is_answered = True
        self._tally.answers += 1
        if usage is None:
            self._tally.uncounted_answers += 1
        else:
            self._tally.prompt_tokens += usage.prompt_tokens
            self._tally.completion_tokens += usage.completion_tokens


class Counters:
    """Everything a composition counts."""

    def __init__(self) -> None:
        self.all = Tally()
        self._experts: dict[str, Tally] = {}

    def of(self, expert_id: str) -> Tally:
        return self._experts.setdefault(expert_id, Tally())


def kind_of(error: Exception) -> str:
    """`UpstreamTimeout` → `upstream_timeout`; a defect, which is no `CoeError`, is `unexpected`."""
    if not isinstance(error, CoeError):
        return "unexpected"
    return _WORD_START.sub("_", type(error).__name__).lower()


class Histogram:
    """How many values fell into each of some ranges. Cheap enough for every request."""

    __slots__ = ("_bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        """`bounds`: the upper ones, ascending, each inside its range."""
        self._bounds = tuple(bounds)
        self.counts = [0] * (len(bounds) + 1)
        """One for each range; what is above all bounds comes last."""
        self.total = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self._bounds, value)] += 1
        self.total += value

    def at_most(self) -> Iterator[tuple[float, int]]:
        """Each bound with the number of values up to it; the last is infinity, with all."""
        n_values = 0
        for bound, count in zip((*self._bounds, float("inf")), self.counts, strict=True):
            n_values += count
            yield bound, n_values


class Call:
    """One expert being asked, as a request's watch sees it. This one does not look."""

    def __init__(self, request: GenerationRequest) -> None:
        self.request = request
        """As it is to be sent."""

    def hears(self, delta: Delta) -> None:
        """The expert said something, which is handed on now."""

    def resumes(self) -> None:
        """It was handed on, and the expert is listened to again."""

    def ends(self, error: BaseException | None) -> None:
        """None: it came to its end. What is no `Exception`: it was left."""

    def __enter__(self) -> Call:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self.ends(error)


class Watch(Protocol):
    """Follows one client's request through the experts that it takes."""

    def call(self, expert_id: str, request: GenerationRequest) -> Call: ...

    def aggregation(self, expert_ids: Sequence[str]) -> AbstractContextManager[None]:
        """Around making one answer of several."""
        ...


_WATCH: ContextVar[Watch | None] = ContextVar("coe_watch", default=None)


class watched_by:
    """Whatever is asked in the block, also by tasks begun in it, is told to `watch`."""

    __slots__ = ("_token", "_watch")

    def __init__(self, watch: Watch) -> None:
        self._watch = watch

    def __enter__(self) -> None:
        self._token = _WATCH.set(self._watch)

    def __exit__(self, *raised: object) -> None:
        _WATCH.reset(self._token)


def current_watch() -> Watch | None:
    """Of the request that this is done for; None: nobody looks."""
    return _WATCH.get()


def expert_call(expert_id: str, request: GenerationRequest) -> Call:
    """To be entered around asking an expert."""
    watch = _WATCH.get()
    return Call(request) if watch is None else watch.call(expert_id, request)


def aggregation(expert_ids: Sequence[str]) -> AbstractContextManager[None]:
    """To be entered around making one answer of several."""
    watch = _WATCH.get()
    return nullcontext() if watch is None else watch.aggregation(expert_ids)
