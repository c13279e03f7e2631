"""How far work is that takes longer than a glance: a bar on a terminal, else a line now and then.

Everything goes to stderr.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

    from coe.scheduling.planned_pool import Standing

LINE_EVERY_S = 10.0
_DRAWN_EVERY_S = 0.25
_LEAST_SHARE = 0.02
"""Of less than this no time left is foretold."""


class Bar:
    """One line of progress: told how much is done, never asked."""

    def __init__(self, progress: RichProgress, task: TaskID) -> None:
        self._progress = progress
        self._task = task

    def advance(self, n: int = 1) -> None:
        self._progress.advance(self._task, n)


@contextmanager
def progress_bar(what: str, total: int) -> Iterator[Bar]:
    """A bar that is gone when the work is done. One at a time: they would write over each other."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
    from rich.progress import TimeRemainingColumn as Remaining

    console = _stderr()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), Remaining())
    # Even a bar that is never drawn ends with a line break, which a log has no use for.
    hidden = not console.is_terminal
    with Progress(*columns, console=console, transient=True, disable=hidden) as progress:
        yield Bar(progress, progress.add_task(what, total=total))


@dataclass(frozen=True, slots=True)
class Moment:
    """What there is to tell of a planned run."""

    done: str
    """In words."""
    share: float
    """Of the work, 0 to 1."""
    n_tokens: int | None
    """None: nobody counts them."""
    standing: Standing

    def words(self, elapsed_s: float) -> str:
        """One line: what is done, swaps of those planned, speed, time left, who is resident."""
        parts = [self.done]
        if self.standing.n_swaps_planned:
            parts.append(f"{self.standing.n_swaps} of {self.standing.n_swaps_planned} swaps")
        if self.n_tokens is not None:
            parts.append(f"{self.n_tokens / max(elapsed_s, 1e-9):.0f} tokens/s")
        if _LEAST_SHARE <= self.share < 1.0:
            parts.append(f"{_span(elapsed_s * (1.0 - self.share) / self.share)} left")
        if self.standing.residents:
            parts.append(f"on {', '.join(self.standing.residents)}")
        return ", ".join(parts)


@asynccontextmanager
async def watched(moment: Callable[[], Moment]) -> AsyncIterator[None]:
    """Tells how far it is while the block runs on the event loop."""
    console = _stderr()
    began_s = time.monotonic()
    draw = _drawn if console.is_terminal else _written
    task = asyncio.create_task(draw(moment, began_s, console))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _written(moment: Callable[[], Moment], began_s: float, _: Console) -> None:
    while True:
        await asyncio.sleep(LINE_EVERY_S)
        words = moment().words(time.monotonic() - began_s)
        print(f"coe: {words}", file=sys.stderr, flush=True)


async def _drawn(moment: Callable[[], Moment], began_s: float, console: Console) -> None:
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

    columns = (BarColumn(20), TaskProgressColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=console, transient=True, auto_refresh=False) as progress:
        task = progress.add_task("", total=1.0)
        while True:
            now = moment()
            words = now.words(time.monotonic() - began_s)
            progress.update(task, completed=now.share, description=words, refresh=True)
            await asyncio.sleep(_DRAWN_EVERY_S)


def _stderr() -> Console:
    from rich.console import Console

    return Console(stderr=True)


def _span(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
