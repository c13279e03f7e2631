"""Everything CoE raises on purpose.

    CoeError
    ├── ConfigError                  a file or option is wrong: says which key, and the fix
    ├── DatasetError                 data is absent or malformed: says where it comes from
    ├── RoutingError
    │   ├── UnknownExpert            an id that the pool does not have
    │   └── PoolMismatch             an artifact was fitted on another pool or encoder
    ├── RequestError                 this request can never be served as it is
    │   └── ContextOverflow          prompt and answer do not fit the expert's context
    ├── EngineError
    │   ├── StartupError             an expert could not be made ready
    │   ├── UpstreamError            an expert answered with a failure
    │   ├── UpstreamTimeout          an expert did not answer in time
    │   └── ExpertRemoved            an operator took the expert out of the pool meanwhile
    ├── StoreError                   state could not be read or kept: the disk, or the file
    └── AdmissionError
        ├── QueueFull                refused now, welcome later
        ├── RateLimited              the key has asked as often as it may for now
        ├── BudgetExceeded           the caller's money or energy is spent
        ├── ShuttingDown             nobody is served here any more
        └── DeadlineExceeded         it would be answered too late

Messages say what to change. HTTP is not known here: `service/errors.py` has the one table
from error to status.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

DISTRIBUTION = "coe-router"
"""What pip knows this package by; `coe` there is somebody else's."""


def install_hint(*extras: str) -> str:
    """The command that installs what these extras need, to be typed as it is."""
    return f'pip install "{DISTRIBUTION}[{",".join(extras)}]"'


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name most like the given one, or None if nothing is close."""
    close = get_close_matches(name, list(known), n=1, cutoff=0.5)
    return close[0] if close else None


class CoeError(Exception):
    """Base of every error raised on purpose."""


class ConfigError(CoeError):
    """A configuration file or option is wrong."""

    def __init__(self, problem: str, *, file: str | None = None, key: str | None = None) -> None:
        self.problem = problem
        self.file = file
        self.key = key
        where = ": ".join(part for part in (file, key) if part)
        super().__init__(f"{where}: {problem}" if where else problem)


class DatasetError(CoeError):
    """Data is absent or malformed."""


class RoutingError(CoeError):
    """No expert can be chosen."""


class UnknownExpert(RoutingError):
    """An expert id that the pool does not have."""

    def __init__(self, expert_id: str, known: Iterable[str]) -> None:
        self.expert_id = expert_id
        self.known = tuple(known)
        guess = nearest(expert_id, self.known)
        hint = f"; did you mean {guess!r}?" if guess else ""
        super().__init__(
            f"no expert {expert_id!r} in the pool ({', '.join(self.known) or 'empty'}){hint}"
        )


class PoolMismatch(RoutingError):
    """An artifact was fitted on another pool or encoder than it is used with."""

    def __init__(self, what: str, fitted: object, given: object, fix: str) -> None:
        self.what = what
        self.fitted = fitted
        self.given = given
        super().__init__(f"{what}: fitted with {fitted}, used with {given}; {fix}")


class RequestError(CoeError):
    """This request can never be served as it is."""

    def __init__(self, message: str, *, param: str | None = None) -> None:
        self.param = param
        super().__init__(message)


class ContextOverflow(RequestError):
    """Prompt and answer do not fit the expert's context."""

    def __init__(
        self,
        expert_id: str,
        needed_tokens: int,
        context_tokens: int,
        *,
        is_lower_bound: bool = False,
    ) -> None:
        """`is_lower_bound`: it was refused before all of it was counted."""
        self.expert_id = expert_id
        self.needed_tokens = needed_tokens
        self.context_tokens = context_tokens
        needed = f"at least {needed_tokens}" if is_lower_bound else f"{needed_tokens}"
        super().__init__(
            f"expert {expert_id!r} has a context of {context_tokens} tokens and this request "
            f"needs {needed}; shorten the messages or lower max_tokens",
            param="messages",
        )


class EngineError(CoeError):
    """An expert failed. `expert_id` says which."""

    def __init__(self, expert_id: str, message: str) -> None:
        self.expert_id = expert_id
        super().__init__(f"expert {expert_id!r}: {message}")


class StartupError(EngineError):
    """An expert could not be made ready."""


class UpstreamError(EngineError):
    """An expert answered with a failure, or stopped in the middle of an answer."""

    def __init__(self, expert_id: str, message: str, status: int | None = None) -> None:
        self.status = status
        super().__init__(expert_id, message)


class UpstreamTimeout(EngineError):
    """An expert did not answer in time."""

    def __init__(self, expert_id: str, timeout_s: float, missing: str = "answer") -> None:
        """`missing`: what did not come in time."""
        self.timeout_s = timeout_s
        super().__init__(expert_id, f"no {missing} within {timeout_s:g} s")


class StoreError(CoeError):
    """State could not be read or kept. What is served from memory goes on."""


class ExpertRemoved(EngineError):
    """The expert was taken out of the pool while the request waited for it."""

    def __init__(self, expert_id: str) -> None:
        super().__init__(expert_id, "was removed from the pool by its operator; ask another one")


class AdmissionError(CoeError):
    """The request was refused, which is an answer and not a failure."""


class QueueFull(AdmissionError):
    """Refused now, welcome after `retry_after_s`."""

    def __init__(self, message: str, retry_after_s: float) -> None:
        self.retry_after_s = retry_after_s
        super().__init__(f"{message}; retry after {retry_after_s:g} s")


class RateLimited(AdmissionError):
    """The key has asked as often, or for as many tokens, as it may; welcome after a while."""

    def __init__(self, message: str, retry_after_s: float) -> None:
        self.retry_after_s = retry_after_s
        super().__init__(f"{message}; retry after {retry_after_s:.3g} s")


class BudgetExceeded(AdmissionError):
    """The caller's budget is spent."""

    def __init__(self, message: str, renews_in_s: float | None = None) -> None:
        """`renews_in_s`: None if it never does."""
        self.renews_in_s = renews_in_s
        super().__init__(message)


class ShuttingDown(AdmissionError):
    """Nobody is served here any more."""


class DeadlineExceeded(AdmissionError):
    """It would be answered after its deadline."""
