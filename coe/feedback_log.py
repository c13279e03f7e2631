"""Keeps what clients say of answers, so that a fit can read it (`coe.feedback`).

`FILE` holds the decisions that got feedback, and the feedback. It is only ever appended to and
is all that a fit reads. `FILE.recent` and `FILE.recent.1` hold the latest decisions, so that
feedback finds its query: a bounded memory, which may be deleted while no gateway runs. All three
are readable by their owner only. An event is one line of JSON, written at once.

The processes of one gateway append to one `FILE`, in turns. Each remembers its own decisions, as
`FILE.N.recent`, and looks into those of the others for what it does not know.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path

from coe.append_lock import AppendLock, claim
from coe.errors import AdmissionError, ConfigError, RequestError
from coe.feedback import events_in
from coe.recent_decisions import AppendedFile, RecentDecisions
from coe.routing import RoutingDecision

_MIB = 1024 * 1024
_to_json = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
MAX_TEXT_CHARS = 20_000
"""Of a longer query, so much is kept."""
MOST_REPLACED = 8
"""How often the score of one expert's answer can be replaced."""


class UnknownDecision(RequestError):
    """Feedback on a decision that was never made, or so long ago that it is forgotten."""

    def __init__(self) -> None:
        super().__init__(
            "no decision of that id is remembered; send the header x-coe-decision-id of an answer, "
            "soon after it",
            param="decision_id",
        )


class UnclearExpert(RequestError):
    """Feedback that does not say which of the experts that answered it is about."""

    def __init__(self, experts: Sequence[str], given: str | None) -> None:
        said = "which of them is it about?" if given is None else "none is the one named"
        super().__init__(f"{', '.join(experts)} answered; {said}", param="expert")


class FeedbackFull(AdmissionError):
    """The file has reached its limit."""

    def __init__(self, max_bytes: int) -> None:
        super().__init__(
            f"the feedback file has reached its limit of {max_bytes} bytes; fit on it with "
            "`coe fit --from-feedback`, move it away, and start the gateway again"
        )


class FeedbackSettled(AdmissionError):
    """The score of this answer was replaced so often that it stays as it is."""

    def __init__(self) -> None:
        super().__init__(f"this score was replaced {MOST_REPLACED} times and stays as it is now")


@dataclass(frozen=True, slots=True)
class Recorded:
    """What feedback was taken as."""

    expert_id: str
    is_replacement: bool
    """Whether it takes the place of earlier feedback."""


@dataclass(slots=True)
class _Rated:
    experts: tuple[str, ...]
    """Those that answered."""
    scores: dict[str, list[float]] = field(default_factory=dict)
    """All that were given to each one's answer; the last counts."""


class FeedbackLog:
    """Remembers decisions, and appends feedback on them. Thread-safe. One process at a time,
    unless each of them is a worker.

    A decision costs one unsynchronised append. Feedback is on the disk, its query with it, before
    `record` returns.
    """

    def __init__(
        self,
        file: Path,
        max_bytes: int = 64 * _MIB,
        recent_bytes: int = 16 * _MIB,
        clock: Callable[[], float] = time.time,
        worker: int | None = None,
    ) -> None:
        """Takes up what is in the files. Raises `ConfigError` if they cannot be used.

        `max_bytes` bounds `file`, which then takes no more feedback; `recent_bytes` both files of
        the latest decisions together. `worker`: the place of this process among those that share
        `file`; None: it is the only one.
        """
        self._max_bytes = max_bytes
        self._clock = clock
        self._lock = threading.Lock()
        self._rated: dict[str, _Rated] = {}
        self._n_read = 0
        self._others = None if worker is None else AppendLock(file)
        try:
            with self._others or nullcontext():
                self._file = AppendedFile(file)
            try:
                _claim(self._file.fd, file, is_shared=worker is not None)
                self._catch_up()
                self._recent = RecentDecisions(file, recent_bytes, worker)
            except BaseException:
                self._file.close()
                raise
        except OSError as error:
            problem = f"cannot be used for feedback: {error}"
            raise ConfigError(problem, file=str(file), key="router.feedback") from None

    def remember(
        self, decision_id: str, text: str, decision: RoutingDecision, answered: Sequence[str]
    ) -> None:
        """Makes feedback on the experts that `answered` possible.

        Never raises: a decision that cannot be written is forgotten, which is logged.
        """
        told: dict[str, object] = {
            "text": text[:MAX_TEXT_CHARS],
            "asked": decision.experts,
            "answered": tuple(answered),
            "router": decision.router,
            "scores": {id_: round(score, 4) for id_, score in decision.scores.items()},
        }
        self._recent.add(decision_id, self._line("decision", decision_id, told))

    def record(self, decision_id: str, score: float, expert_id: str | None = None) -> Recorded:
        """Appends feedback and waits for the disk. `expert_id` may be None where one answered.

        Raises `UnknownDecision`, `UnclearExpert`, `FeedbackFull`, `FeedbackSettled`, or `OSError`
        where the disk fails. The last score of an answer counts; the same again is not written.
        """
        with self._lock, self._others or nullcontext():
            if self._others is not None:
                self._catch_up()
            line, rated = b"", self._rated.get(decision_id)
            if rated is None:
                found = self._recent.find(decision_id)
                if found is None:
                    raise UnknownDecision
                line = found
                rated = _Rated(tuple(json.loads(line)["answered"]))
            expert_id = _the_expert(rated.experts, expert_id)
            given = rated.scores.setdefault(expert_id, [])
            if given and given[-1] == score:
                return Recorded(expert_id, is_replacement=True)
            if len(given) > MOST_REPLACED:
                raise FeedbackSettled
            told = self._line("feedback", decision_id, {"expert": expert_id, "score": score})
            if self._file.size + len(line + told) > self._max_bytes:
                raise FeedbackFull(self._max_bytes)
            self._file.append(line + told)
            os.fsync(self._file.fd)
            self._n_read = self._file.size
            given.append(score)
            self._rated[decision_id] = rated
            return Recorded(expert_id, is_replacement=len(given) > 1)

    def close(self) -> None:
        """Waits for feedback that is being written. Nothing is remembered afterwards."""
        with self._lock:
            self._recent.close()
            self._file.close()
            if self._others is not None:
                self._others.close()

    def _catch_up(self) -> None:
        """Takes up what others have appended since."""
        self._file.size = os.fstat(self._file.fd).st_size
        content = self._file.read(self._n_read)
        self._n_read += len(content)
        _rate(self._rated, content)

    def _line(self, kind: str, decision_id: str, told: dict[str, object]) -> bytes:
        """A lone surrogate, which no UTF-8 can carry, becomes `?`."""
        head = {"event": kind, "id": decision_id, "time_s": round(self._clock(), 3)}
        return _to_json(head | told).encode("utf-8", "replace") + b"\n"


def _rate(rated: dict[str, _Rated], content: bytes) -> None:
    """Takes up the events of a file, or of what was appended to it."""
    for event in events_in(content)[0]:
        if event["event"] == "decision":
            rated.setdefault(event["id"], _Rated(tuple(event["answered"])))
        elif event["id"] in rated:
            rated[event["id"]].scores.setdefault(event["expert"], []).append(event["score"])


def _the_expert(experts: Sequence[str], given: str | None) -> str:
    if given is None and len(experts) == 1:
        return experts[0]
    if given is None or given not in experts:
        raise UnclearExpert(experts, given)
    return given


def _claim(fd: int, file: Path, is_shared: bool) -> None:
    try:
        claim(fd, is_shared)
    except BlockingIOError:
        problem = "another gateway writes this file; give each one its own"
        raise ConfigError(problem, file=str(file), key="router.feedback") from None
