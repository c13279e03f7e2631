"""`coe batch`: a file of requests in OpenAI's batch format, answered with few swaps."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from coe.cli.options import DEFAULT_CONFIG, ConfigOption

if TYPE_CHECKING:
    from coe.cli.progress import Moment
    from coe.composition import Composition
    from coe.service.batches.journal import Journal
    from coe.service.batches.lines import BatchFile
    from coe.service.batches.running import BatchRun, BatchSummary

_STOP_S = 10.0
_INTERRUPTED = 130


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
    from coe.assembly import load_planned
    from coe.config import ROUTED_MODEL, load_config
    from coe.service.batches.journal import Journal
    from coe.service.batches.lines import read_requests
    from coe.service.batches.running import BatchRun

    composition, pool = load_planned(load_config(config))
    models = (ROUTED_MODEL, *composition.pool.ids)
    read = read_requests(requests, models, composition.passing)
    run = BatchRun(composition, ROUTED_MODEL, pool)
    with Journal(out, requests, read.request_ids if retry_failed else None) as journal:
        try:
            summary = asyncio.run(_run(composition, run, read, journal, retry_failed))
        except KeyboardInterrupt:
            print(
                f"coe: stopped; {len(journal.done)} of {len(read)} requests are done and kept. Run "
                "the same command again to go on",
                file=sys.stderr,
            )
            raise typer.Exit(_INTERRUPTED) from None
    resumed = f", {summary.n_resumed} of them by an earlier run" if summary.n_resumed else ""
    print(f"{summary.n_requests} requests{resumed}, {summary.n_failed} failed: {out}")
    if summary.n_failed:
        raise typer.Exit(1)


async def _run(
    composition: Composition,
    run: BatchRun,
    requests: BatchFile,
    journal: Journal,
    retry_failed: bool,
) -> BatchSummary:
    from coe.cli.progress import watched

    try:
        async with watched(lambda: _moment(run)):
            return await run.answer(requests, journal, retry_failed)
    finally:
        await composition.stop(_STOP_S)


def _moment(run: BatchRun) -> Moment:
    from coe.cli.progress import Moment

    now = run.progress
    is_routing = now.n_routed < now.n_requests - now.n_done
    done = f"{now.n_done} of {now.n_requests} answered"
    if is_routing:
        done = f"{now.n_routed} of {now.n_requests - now.n_done} routed"
    return Moment(done, now.share, now.n_tokens, now.standing)
