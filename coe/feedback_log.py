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
from collections.abc import Callable, Mapping, Sequence
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
    scores: dict[str, float] = field(default_factory=dict)


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
            raise ConfigError(
                f"cannot be used for feedback: {error}", file=str(file), key="router.feedback"
            ) from None

    def remember(
        self, decision_id: str, text: str, decision: RoutingDecision, answered: Sequence[str]
    ) -> None:
        """Makes feedback on the experts that `answered` possible.

        Never raises: a decision that cannot be written is forgotten, which is logged.
        """
        event = {
            "event": "decision",
            "id": decision_id,
            "time_s": round(self._clock(), 3),
            "text": text[:MAX_TEXT_CHARS],
            "asked": decision.experts,
            "answered": tuple(answered),
            "router": decision.router,
            "scores": {id_: round(score, 4) for id_, score in decision.scores.items()},
        }
        self._recent.add(decision_id, _line(event))

    def record(self, decision_id: str, score: float, expert_id: str | None = None) -> Recorded:
        """Appends feedback and waits for the disk. `expert_id` may be None where one answered.

        Raises `UnknownDecision`, `UnclearExpert`, `FeedbackFull`, or `OSError` where the disk
        fails. The last score given to an expert's answer is the one that counts.
        """
        with self._lock:
            line = b""
            rated = self._rated.get(decision_id)
            if rated is None:
                line = self._recent.find(decision_id)
                rated = _Rated(tuple(json.loads(line)["answered"]))
            expert_id = _the_expert(rated.experts, expert_id)
            event = {
                "event": "feedback",
                "id": decision_id,
                "time_s": round(self._clock(), 3),
                "expert": expert_id,
                "score": score,
            }
            lines = line + _line(event)
            if self._file.size + len(lines) > self._max_bytes:
                raise FeedbackFull(self._max_bytes)
            self._file.append(lines)
            os.fsync(self._file.fd)
            recorded = Recorded(expert_id, expert_id in rated.scores)
            rated.scores[expert_id] = score
            self._rated[decision_id] = rated
            return recorded

    def close(self) -> None:
        """Waits for feedback that is being written. Nothing is remembered afterwards."""
        with self._lock:
            self._recent.close()
            self._file.close()


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
        self._older = _Segment(self._older_path)
        self._newer = _Segment(self._newer_path)

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
        os.replace(self._newer_path, self._older_path)
        self._older.file.close()
        self._older = self._newer
        self._newer = _Segment(self._newer_path)


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


def _line(event: Mapping[str, object]) -> bytes:
    """A lone surrogate, which no UTF-8 can carry, becomes `?`."""
    return _to_json(event).encode("utf-8", "replace") + b"\n"


def _rated_in(content: bytes) -> dict[str, _Rated]:
    rated: dict[str, _Rated] = {}
    for event in events_in(content)[0]:
        if event["event"] == "decision":
            rated.setdefault(event["id"], _Rated(tuple(event["answered"])))
        elif event["id"] in rated:
            rated[event["id"]].scores[event["expert"]] = event["score"]
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
        raise ConfigError(
            "another gateway writes this file; give each one its own",
            file=str(file),
            key="router.feedback",
        ) from None
