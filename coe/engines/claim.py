"""The right to run one expert from one state folder, and what a crash of ours left behind.

A lock that the kernel drops when we die tells a living owner from a dead one. The record beside
it holds the token of the last start, written before the start, so that whoever gets the lock
next finds exactly the processes that the dead owner left. Those of other experts are ended with
them: they may hold the device that this one is to go to, and nobody may ever ask for them again.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import logging
import os
import re
from pathlib import Path

from coe.engines.family import kill_family, new_token
from coe.errors import StartupError

_LOG = logging.getLogger(__name__)
_REAP_S = 10.0


def file_stem(expert_id: str) -> str:
    """A file name of its own for every expert id, readable as far as it can be."""
    readable = re.sub(r"[^A-Za-z0-9._-]", "_", expert_id)[:40]
    return f"{readable}-{hashlib.sha256(expert_id.encode()).hexdigest()[:8]}"


class Claim:
    """Held from `take` to `release`. Raises `StartupError` only."""

    def __init__(self, expert_id: str, folder: Path) -> None:
        self._expert_id = expert_id
        self._folder = folder
        self._record = folder / f"{file_stem(expert_id)}.json"
        self._lock: int | None = None

    async def take(self) -> str:
        """The token for a new start; whatever an earlier owner left running is gone by then."""
        if self._lock is None:
            self._lock = self._locked()
            await _end_left_behind(self._folder)
        orphan = _recorded_token(self._record)
        if orphan is not None and not await kill_family(orphan, _REAP_S):
            raise StartupError(
                self._expert_id,
                f"processes of an earlier run do not die; see {self._record} and kill them",
            )
        token = new_token()
        self._record.write_text(json.dumps({"expert": self._expert_id, "token": token}))
        return token

    def release(self) -> None:
        """Nothing of ours runs any more. Idempotent."""
        if self._lock is None:
            return
        self._record.unlink(missing_ok=True)
        os.close(self._lock)
        self._lock = None

    def _locked(self) -> int:
        try:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            descriptor = os.open(self._record.with_suffix(".lock"), os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise StartupError(
                self._expert_id,
                f"cannot write in the state folder {self._folder}: {error.strerror}; make it "
                "writable, or name another one",
            ) from None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(descriptor)
            raise StartupError(
                self._expert_id,
                f"another CoE already runs it from the state folder {self._folder}; stop that "
                "one, or give this one a state folder of its own",
            ) from None
        return descriptor


async def _end_left_behind(folder: Path) -> None:
    """Ends what dead owners left of experts that nobody has claimed since."""
    for record in folder.glob("*.json"):
        token = _orphaned_token(record)
        if token is None:
            continue
        if not await kill_family(token, _REAP_S):
            _LOG.warning("processes of an earlier run do not die; see %s and kill them", record)
        elif _orphaned_token(record) == token:
            record.unlink(missing_ok=True)


def _orphaned_token(record: Path) -> str | None:
    """The token of a record without an owner. Nobody is kept from becoming one."""
    try:
        descriptor = os.open(record.with_suffix(".lock"), os.O_RDWR)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return _recorded_token(record)
    except OSError:
        return None
    finally:
        os.close(descriptor)


def _recorded_token(record: Path) -> str | None:
    with contextlib.suppress(OSError, ValueError):
        told = json.loads(record.read_text())
        token = told.get("token") if isinstance(told, dict) else None
        if isinstance(token, str) and token:
            return token
    return None
