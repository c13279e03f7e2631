"""Keeps what clients say of answers, so that a fit can read it (`coe.feedback`).

`FILE` holds the decisions that got feedback, and the feedback. It is only ever appended to and
is all that a fit reads. `FILE.recent` and `FILE.recent.1` hold the latest decisions, so that
feedback finds its query: a bounded memory, which may be deleted while no gateway runs. All three
are readable by their owner only. An event is one line of JSON, written at once.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from coe.errors import AdmissionError, ConfigError, RequestError
from coe.feedback import event_of, events_in
from coe.routing import RoutingDecision

_LOG = logging.getLogger(__name__)
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
    """Remembers decisions, and appends feedback on them. One process at a time; thread-safe.

    A decision costs one unsynchronised append. Feedback is on the disk, its query with it, before
    `record` returns.
    """

    def __init__(
        self,
        file: Path,
        max_bytes: int = 64 * _MIB,
        recent_bytes: int = 16 * _MIB,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Takes up what is in the files. Raises `ConfigError` if they cannot be used.

        `max_bytes` bounds `file`, which then takes no more feedback; `recent_bytes` both files of
        the latest decisions together.
        """
        self._max_bytes = max_bytes
        self._clock = clock
        self._lock = threading.Lock()
        try:
            self._file = _AppendedFile(file)
            try:
                _lock_file(self._file.fd, file)
                self._rated = _rated_in(self._file.read())
                self._recent = _RecentDecisions(file, recent_bytes)
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
        with self._lock:
            line, rated = b"", self._rated.get(decision_id)
            if rated is None:
                line = self._recent.find(decision_id)
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
            given.append(score)
            self._rated[decision_id] = rated
            return Recorded(expert_id, is_replacement=len(given) > 1)

    def close(self) -> None:
        """Waits for feedback that is being written. Nothing is remembered afterwards."""
        with self._lock:
            self._recent.close()
            self._file.close()

    def _line(self, kind: str, decision_id: str, told: dict[str, object]) -> bytes:
        """A lone surrogate, which no UTF-8 can carry, becomes `?`."""
        head = {"event": kind, "id": decision_id, "time_s": round(self._clock(), 3)}
        return _to_json(head | told).encode("utf-8", "replace") + b"\n"


class _AppendedFile:
    """A private file that only grows, by whole lines."""

    def __init__(self, path: Path) -> None:
        self.fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            os.fchmod(self.fd, 0o600)
            self.size = os.fstat(self.fd).st_size
            if self.size and os.pread(self.fd, 1, self.size - 1) != b"\n":
                self.append(b"\n")  # ends a line that a crash had torn
        except BaseException:
            os.close(self.fd)
            raise

    def append(self, lines: bytes) -> int:
        """Where they begin. Raises `OSError`, and leaves no half of them, if the disk is full."""
        begin = self.size
        if os.write(self.fd, lines) < len(lines):
            os.ftruncate(self.fd, begin)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.size += len(lines)
        return begin

    def read(self) -> bytes:
        with open(self.fd, "rb", closefd=False) as file:
            file.seek(0)
            return file.read()

    def close(self) -> None:
        """Later appends raise; the number of a closed descriptor may soon be another file's."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)


class _RecentDecisions:
    """The latest decisions: lines in two files, the older dropped when the newer is full."""

    def __init__(self, file: Path, max_bytes: int) -> None:
        self._newer_path = file.with_name(f"{file.name}.recent")
        self._older_path = file.with_name(f"{file.name}.recent.1")
        self._max_bytes = max_bytes // 2
        self._lock = threading.Lock()
        self._is_failing = False
        self._older, self._newer = _Segment(self._older_path), _Segment(self._newer_path)

    def add(self, decision_id: str, line: bytes) -> None:
        try:
            with self._lock:
                if self._newer.file.size + len(line) > self._max_bytes:
                    self._turn()
                self._newer.add(decision_id, line)
            self._is_failing = False
        except OSError as error:
            if not self._is_failing:
                _LOG.warning("decisions cannot be remembered for feedback: %s", error)
            self._is_failing = True

    def find(self, decision_id: str) -> bytes:
        with self._lock:
            line = self._newer.find(decision_id) or self._older.find(decision_id)
        if line is None:
            raise UnknownDecision
        return line

    def close(self) -> None:
        with self._lock:
            self._newer.file.close()
            self._older.file.close()

    def _turn(self) -> None:
        with suppress(FileNotFoundError):  # moved by an earlier turn, which failed below
            os.replace(self._newer_path, self._older_path)
        fresh = _Segment(self._newer_path)
        self._older.file.close()
        self._older, self._newer = self._newer, fresh


class _Segment:
    """One file of decisions, and where in it each of them is."""

    def __init__(self, path: Path) -> None:
        self.file = _AppendedFile(path)
        self._places: dict[str, tuple[int, int]] = {}
        begin = 0
        for line in self.file.read().splitlines(keepends=True):
            if (event := event_of(line)) is not None and event["event"] == "decision":
                self._places[event["id"]] = (begin, len(line))
            begin += len(line)

    def add(self, decision_id: str, line: bytes) -> None:
        self._places[decision_id] = (self.file.append(line), len(line))

    def find(self, decision_id: str) -> bytes | None:
        place = self._places.get(decision_id)
        return place and os.pread(self.file.fd, place[1], place[0])


def _rated_in(content: bytes) -> dict[str, _Rated]:
    rated: dict[str, _Rated] = {}
    for event in events_in(content)[0]:
        if event["event"] == "decision":
            rated.setdefault(event["id"], _Rated(tuple(event["answered"])))
        elif event["id"] in rated:
            rated[event["id"]].scores.setdefault(event["expert"], []).append(event["score"])
    return rated


def _the_expert(experts: Sequence[str], given: str | None) -> str:
    if given is None and len(experts) == 1:
        return experts[0]
    if given is None or given not in experts:
        raise UnclearExpert(experts, given)
    return given


def _lock_file(fd: int, file: Path) -> None:
    import fcntl

    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        problem = "another gateway writes this file; give each one its own"
        raise ConfigError(problem, file=str(file), key="router.feedback") from None
