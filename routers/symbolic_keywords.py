"""The keyword annotator in use: an expert of the pool names the skills, no text's twice.

`SymbolicScorer` records the annotator's name, and the name the expert, so that an artifact says
whom to ask when it is served: `keyword_expert`.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from threading import Lock

from coe.errors import CoeError, ConfigError
from coe.routers.annotators import (
    ROUNDS,
    Annotator,
    KeywordAnnotator,
    OpenExpert,
    Skills,
    generate_with,
)
from coe.routers.artifacts import Manifest
from coe.types import Query

PREFIX = "keywords/"
MOST = 100_000
"""Texts whose skills are remembered; beyond, those not asked for longest are forgotten."""
AT_A_TIME = 64
"""Queries annotated before their skills are kept: what an interruption can lose."""
TIMEOUT_S = 10.0
"""Longest wait of one served query for its keywords."""

_LOG = logging.getLogger(__name__)


def keyword_expert(manifest: Manifest) -> str | None:
    """The expert that a symbolic scorer was fitted with and needs; None if it asks nobody."""
    name = str(manifest.settings.get("annotator", ""))
    return name.removeprefix(PREFIX) if name.startswith(PREFIX) else None


def fitting_annotator(
    expert_id: str, open_expert: OpenExpert, file: Path | None = None, seed: int = 0
) -> RememberedSkills:
    """For `SymbolicScorer.fit`: a failure ends it, and `file` keeps what was named until then."""
    return RememberedSkills(_asking(expert_id, open_expert, seed, None), file=file)


def serving_annotator(
    expert_id: str, open_expert: OpenExpert, timeout_s: float = TIMEOUT_S, seed: int = 0
) -> RememberedSkills:
    """For a restored `SymbolicScorer`: where the expert fails or is slow, no skill is known."""
    return RememberedSkills(_asking(expert_id, open_expert, seed, timeout_s), forgives=True)


def _asking(
    expert_id: str, open_expert: OpenExpert, seed: int, timeout_s: float | None
) -> KeywordAnnotator:
    generate = generate_with(open_expert, seed=seed, timeout_s=timeout_s)
    return KeywordAnnotator(generate, ROUNDS, f"{PREFIX}{expert_id}")


class RememberedSkills:
    """An annotator that is asked about each text once. Safe to share between threads.

    Two threads that ask about one text at the same time may both pass it on.
    """

    def __init__(
        self,
        annotator: Annotator,
        most: int = MOST,
        file: Path | None = None,
        forgives: bool = False,
    ) -> None:
        """`file` outlives the process: JSON lines of annotator, digest of the text, skills.

        `forgives`: a failure is logged, and the texts it befell have no skills this time.
        """
        self._annotator = annotator
        self._most = most
        self._file = file
        self._forgives = forgives
        self._lock = Lock()
        self._known: OrderedDict[str, Skills] = OrderedDict()
        if file is not None and file.exists():
            self._known.update(_kept(file, annotator.name))

    @property
    def name(self) -> str:
        return self._annotator.name

    @property
    def is_open(self) -> bool:
        return self._annotator.is_open

    def annotate(self, queries: Sequence[Query]) -> tuple[Skills, ...]:
        keys = [_key(query) for query in queries]
        found = self._recalled(keys)
        unknown = {key: q for key, q in zip(keys, queries, strict=True) if key not in found}
        pairs = list(unknown.items())
        for start in range(0, len(pairs), AT_A_TIME):
            found |= self._asked(dict(pairs[start : start + AT_A_TIME]))
        return tuple(found.get(key, {}) for key in keys)

    def _recalled(self, keys: Sequence[str]) -> dict[str, Skills]:
        with self._lock:
            for key in keys:
                if key in self._known:
                    self._known.move_to_end(key)
            return {key: self._known[key] for key in keys if key in self._known}

    def _asked(self, queries: dict[str, Query]) -> dict[str, Skills]:
        try:
            named = self._annotator.annotate(list(queries.values()))
        except CoeError as error:
            if not self._forgives:
                raise
            _LOG.warning("%s named no skills of %d queries: %s", self.name, len(queries), error)
            return {}
        found = dict(zip(queries, named, strict=True))
        with self._lock:
            self._known.update(found)
            while len(self._known) > self._most:
                self._known.popitem(last=False)
            if self._file is not None:
                _keep(self._file, self.name, found)
        return found


def _key(query: Query) -> str:
    """Of the category too: other annotators than keywords read it."""
    return hashlib.sha256(f"{query.category}\x1f{query.text}".encode()).hexdigest()[:32]


def _keep(file: Path, name: str, found: dict[str, Skills]) -> None:
    rows = [{"annotator": name, "text": key, "skills": dict(s)} for key, s in found.items()]
    try:
        with file.open("a", encoding="utf-8") as stream:
            # A line begins with its break: one that was cut off must not spoil the next.
            stream.writelines(f"\n{json.dumps(row, ensure_ascii=False)}" for row in rows)
    except OSError as error:
        raise ConfigError(f"cannot be written: {error.strerror}", file=str(file)) from None


def _kept(file: Path, name: str) -> dict[str, Skills]:
    """What this annotator named before; lines that were cut off are passed over."""
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot be read: {error}", file=str(file)) from None
    found: dict[str, Skills] = {}
    n_read = 0
    # Not `splitlines`: a skill may hold one of the many other characters that it breaks at.
    lines = [line for line in text.split("\n") if line]
    for line in lines:
        try:
            row = json.loads(line)
            skills = {str(skill): int(count) for skill, count in row["skills"].items()}
            if row["annotator"] == name:
                found[row["text"]] = skills
            n_read += 1
        except (ValueError, KeyError, TypeError, AttributeError):
            continue
    if lines and not n_read:
        raise ConfigError("holds no annotations; name another file", file=str(file))
    return found
