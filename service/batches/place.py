"""Where a batch of a gateway is worked on: a folder of its own, named by its id."""

from __future__ import annotations

import asyncio
import os
import shutil
import time
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

from coe.service.batches.journal import Journal
from coe.service.batches.lines import BatchFile
from coe.service.batches.written import unasked_line

FOLDER = "batches"
_LOOK_S = 0.05
_EXPIRED = "the completion window was over before this request was answered"


@dataclass(frozen=True, slots=True)
class Published:
    """What a batch has come to."""

    output: Path | None
    """The answers; None: there is none."""
    errors: Path | None
    n_completed: int
    n_failed: int


class Place:
    """The files of one batch while it is not over. What is not awaited blocks."""

    def __init__(self, folder: Path, batch_id: str) -> None:
        self._folder = folder / batch_id
        self.input = self._folder / "input.jsonl"
        self._key = self._folder / "key"

    def take(self, input_file: Path, key_id: str) -> None:
        """Keeps the input, which its client may delete now, and whose key pays. Again: nothing.

        Raises `OSError`.
        """
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if self.is_taken:
            return
        self.input.unlink(missing_ok=True)
        os.link(input_file, self.input)
        # Last: with it the place is whole.
        written = self._folder / "key.new"
        written.write_text(key_id, encoding="utf-8")
        os.replace(written, self._key)

    @property
    def is_taken(self) -> bool:
        return self._key.exists()

    async def is_taken_within(self, longest_s: float) -> bool:
        """Whether the input is there, or comes in time: another process may be keeping it."""
        until_s = time.monotonic() + longest_s
        while not await asyncio.to_thread(lambda: self.is_taken):
            if time.monotonic() >= until_s:
                return False
            await asyncio.sleep(_LOOK_S)
        return True

    @property
    def key_id(self) -> str:
        """Of whose key pays; empty: nobody's."""
        return self._key.read_text("utf-8")

    def journal(self) -> Journal:
        return Journal(self._folder / "output.jsonl", self.input)

    def publish(self, requests: BatchFile, is_expired: bool) -> Published:
        """Writes what was answered and what failed, each in the order of the requests."""
        output, errors = self._folder / "answers.jsonl", self._folder / "errors.jsonl"
        order = requests.request_ids
        with self.journal() as journal:
            failed = [id_ for id_ in order if id_ in journal.failed]
            answered = [id_ for id_ in order if id_ in journal.done and id_ not in journal.failed]
            unasked = [id_ for id_ in order if id_ not in journal.done] if is_expired else []
            if answered:
                journal.write(output, answered)
            if failed or unasked:
                lines = (
                    unasked_line(id_, order[id_], "batch_expired", _EXPIRED) for id_ in unasked
                )
                journal.write(errors, failed, lines)
        return Published(
            output if answered else None,
            errors if failed or unasked else None,
            len(answered),
            len(failed) + len(unasked),
        )

    def leave(self) -> None:
        """Nothing is left of it."""
        shutil.rmtree(self._folder, ignore_errors=True)


def places_in(folder: Path) -> list[Path]:
    """Those of all batches, whether they are over or not. Raises `OSError`."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return [path for path in folder.iterdir() if path.is_dir()]


def sweep(places: Iterable[Path], batch_ids: Collection[str]) -> None:
    """Removes all but those of these batches."""
    for path in places:
        if path.name not in batch_ids:
            shutil.rmtree(path, ignore_errors=True)
