"""What came of reading the configuration again: in one process, and in several as one answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from coe.assembly.reloading import Reloaded, Reloader
from coe.errors import CoeError

RELOAD = "reload"
"""Asked of a worker: to read it again itself."""
RELOAD_ALL = "reload all"
"""Asked by a worker: that all of them do."""


@dataclass(frozen=True, slots=True)
class Reply:
    """Either what has changed, or why nothing has."""

    reloaded: Reloaded | None = None
    problem: str | None = None

    @property
    def told(self) -> str:
        """For the operator, on one line."""
        if self.reloaded is None:
            return f"not reloaded, everything is as it was: {self.problem}"
        done = self.reloaded
        told = (("added", done.added), ("changed", done.changed), ("removed", done.removed))
        parts = [f"{what} {', '.join(ids)}" for what, ids in told if ids]
        said = f"reloaded: {done.router}; {'; '.join(parts) or 'the same experts'}"
        return said if self.problem is None else f"{said}; but {self.problem}"

    def as_json(self) -> dict[str, Any]:
        done = None if self.reloaded is None else asdict(self.reloaded)
        return {"reloaded": done, "problem": self.problem}

    @classmethod
    def of_json(cls, raw: Mapping[str, Any]) -> Reply:
        done = raw.get("reloaded")
        if done is None:
            return cls(None, str(raw.get("problem")))
        ids = {name: tuple(value) for name, value in done.items() if name != "router"}
        return cls(Reloaded(done["router"], **ids), raw.get("problem"))


async def reload_here(reloader: Reloader) -> Reply:
    """Raises nothing that is wrong with the file."""
    try:
        return Reply(await reloader.reload())
    except CoeError as error:
        return Reply(problem=str(error))


def merged(replies: Mapping[int, Reply]) -> Reply:
    """One answer for those of several workers, by their places."""
    problems = {index: one.problem for index, one in replies.items() if one.problem is not None}
    done = [one.reloaded for one in replies.values() if one.reloaded is not None]
    if not problems and done:
        # One that was started since the file was written has nothing left to change.
        return Reply(max(done, key=lambda one: len(one.added + one.changed + one.removed)))
    if len(set(problems.values())) == 1 and not done:
        return Reply(problem=next(iter(problems.values())))
    told = "; ".join(f"worker {index}: {problem}" for index, problem in problems.items())
    return Reply(done[0] if done else None, told or "no worker is there")
