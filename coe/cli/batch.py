"""`coe batch`: a file of requests in OpenAI's batch format, answered with few swaps."""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from coe.cli.options import DEFAULT_CONFIG, ConfigOption

if TYPE_CHECKING:
    from coe.composition import Composition
    from coe.service.batches.journal import Journal
    from coe.service.batches.lines import BatchFile
    from coe.service.batches.running import BatchSummary

_STOP_S = 10.0
_TOLD_EVERY_S = 10.0


def batch(
    requests: Annotated[Path, typer.Argument(help="Requests, one JSON object a line.")],
    out: Annotated[Path, typer.Argument(help="Where the answers go, in the requests' order.")],
    config: ConfigOption = DEFAULT_CONFIG,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Ask again what failed in an earlier run.")
    ] = False,
) -> None:
    """Answer a file of requests. Run it again after a crash: what is done is not asked again.

    Exits with 1 if some failed; their lines say why.
    """
    from coe.assembly import load_composition
    from coe.config import ROUTED_MODEL, load_config
    from coe.service.batches.journal import Journal
    from coe.service.batches.lines import read_requests

    loaded = load_config(config)
    read = read_requests(requests, (ROUTED_MODEL, *loaded.pool.ids))
    composition = load_composition(loaded)
    with Journal(out, requests, read.request_ids if retry_failed else None) as journal:
        summary = asyncio.run(_run(composition, read, journal, retry_failed))
    resumed = f", {summary.n_resumed} of them by an earlier run" if summary.n_resumed else ""
    print(f"{summary.n_requests} requests{resumed}, {summary.n_failed} failed: {out}")
    if summary.n_failed:
        raise typer.Exit(1)


async def _run(
    composition: Composition,
    requests: BatchFile,
    journal: Journal,
    retry_failed: bool,
) -> BatchSummary:
    from coe.config import ROUTED_MODEL
    from coe.service.batches.running import run_batch

    teller = _Teller(len(requests))
    try:
        return await run_batch(
            composition, requests, journal, ROUTED_MODEL, teller.told, retry_failed
        )
    finally:
        teller.close()
        await composition.stop(_STOP_S)


class _Teller:
    """How far it is: a bar on a terminal, else a line now and then."""

    def __init__(self, n_requests: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
        from rich.progress import TimeRemainingColumn as Remaining

        console = Console(stderr=True)
        self._is_drawn = console.is_terminal
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), Remaining())
        self._bar = Progress(*columns, console=console, disable=not self._is_drawn)
        self._task = self._bar.add_task("answering", total=n_requests)
        self._n_requests = n_requests
        self._n_done = 0
        self._n_tokens = 0
        self._began_s = time.monotonic()
        self._told_s = self._began_s
        self._bar.start()

    def told(self, n_done: int, n_tokens: int) -> None:
        self._n_done += n_done
        self._n_tokens += n_tokens
        now = time.monotonic()
        rate = f"{self._n_tokens / max(now - self._began_s, 1e-9):.0f} tokens/s"
        self._bar.update(self._task, completed=self._n_done, description=rate)
        if not self._is_drawn and now - self._told_s >= _TOLD_EVERY_S:
            self._told_s = now
            print(f"coe: {self._n_done} of {self._n_requests}, {rate}", file=sys.stderr, flush=True)

    def close(self) -> None:
        self._bar.stop()
