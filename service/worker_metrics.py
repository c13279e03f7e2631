"""The numbers of several processes behind one port, told by whichever of them is asked.

Each writes its own to a file every so often, and adds what the others wrote to its own when it is
scraped. Every sample says whose it is, so that Prometheus adds up what may be added up, and sees
the start of a process as one: counters that were added up here would fall when one died.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from prometheus_client.core import Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from coe.service.metrics import Collector

_LABEL = "worker"
_SUFFIX = ".prom"
EVERY_S = 1.0
_STALE_S = 10.0
_LOG = logging.getLogger(__name__)
"""Who has not written for so long is taken to be gone."""


class WorkerMetrics:
    """One process's part of it. Is scraped itself."""

    def __init__(
        self,
        own: Collector,
        folder: Path,
        worker: int,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`folder`: for the processes of one gateway alone. `worker`: its place among them, which
        the one that replaces it takes over.
        """
        self._own = own
        self._folder = folder
        self._worker = str(worker)
        self._file = folder / f"{worker}{_SUFFIX}"
        self._clock = clock

    def publish(self) -> None:
        """Whole or not at all: who reads at the same time finds the numbers of before."""
        self._folder.mkdir(parents=True, exist_ok=True)
        unfinished = self._file.with_suffix(".new")
        unfinished.write_bytes(generate_latest(self._own))
        os.replace(unfinished, self._file)

    async def publishing(self, every_s: float = EVERY_S) -> None:
        """Publishes until it is cancelled, and takes the numbers away then."""
        try:
            while True:
                try:
                    self.publish()
                except OSError as error:
                    _LOG.warning("the numbers of worker %s are not told: %s", self._worker, error)
                await asyncio.sleep(every_s)
        finally:
            self._file.unlink(missing_ok=True)

    def collect(self) -> Iterable[Metric]:
        families: dict[str, Metric] = {}
        for worker, told in ((self._worker, self._own.collect()), *self._others()):
            for family in told:
                kept = families.setdefault(
                    family.name, Metric(family.name, family.documentation, family.type)
                )
                kept.samples += [
                    sample._replace(labels={**sample.labels, _LABEL: worker})
                    for sample in family.samples
                ]
        return families.values()

    def _others(self) -> Iterator[tuple[str, Iterable[Metric]]]:
        for file in sorted(self._folder.glob(f"*{_SUFFIX}")):
            try:
                is_old = file.stat().st_mtime < self._clock() - _STALE_S
                if file == self._file or is_old:
                    continue
                text = file.read_text("utf-8")
            except FileNotFoundError:
                continue
            yield file.stem, text_string_to_metric_families(text)
