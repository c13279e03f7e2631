"""One scrape of several processes."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable
from pathlib import Path

from prometheus_client.core import Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from coe.service.instruments import Counted, Histograms
from coe.service.worker_metrics import WorkerMetrics


class Own:
    """What one process counts."""

    def __init__(self, n: float) -> None:
        self._counted = Counted("coe_answers", 'Whole ones,\nof "all".', ("expert",))
        self._counted.add('a"\\\n', by=n)
        self._histograms = Histograms("coe_routing_seconds", "Deciding.", (0.1, 1.0))
        self._histograms.observe(n)

    def collect(self) -> Iterable[Metric]:
        yield self._counted.family()
        yield self._histograms.family()


def _told(workers: WorkerMetrics) -> dict[tuple[str, str, str], float]:
    families = text_string_to_metric_families(generate_latest(workers).decode())
    return {
        (sample.name, sample.labels["worker"], sample.labels.get("expert", "")): sample.value
        for family in families
        for sample in family.samples
        if "le" not in sample.labels
    }


def test_scrape_of_one_worker_tells_of_all(tmp_path: Path) -> None:
    workers = [WorkerMetrics(Own(n), tmp_path / "metrics", i) for i, n in enumerate((1.0, 5.0))]
    for worker in workers:
        worker.publish()
    wanted = {
        ("coe_answers_total", "0", 'a"\\\n'): 1.0,
        ("coe_answers_total", "1", 'a"\\\n'): 5.0,
        ("coe_routing_seconds_count", "0", ""): 1.0,
        ("coe_routing_seconds_count", "1", ""): 1.0,
        ("coe_routing_seconds_sum", "0", ""): 1.0,
        ("coe_routing_seconds_sum", "1", ""): 5.0,
    }
    assert _told(workers[0]) == _told(workers[1]) == wanted
    text = generate_latest(workers[0]).decode()
    assert text.count("# TYPE coe_answers_total counter") == 1


def test_worker_that_no_longer_writes_is_left_out(tmp_path: Path) -> None:
    workers = [WorkerMetrics(Own(1.0), tmp_path, i, lambda: 1000.0) for i in range(2)]
    workers[1].publish()
    os.utime(tmp_path / "1.prom", (991.0, 991.0))
    assert {worker for _, worker, _ in _told(workers[0])} == {"0", "1"}
    os.utime(tmp_path / "1.prom", (989.0, 989.0))
    assert {worker for _, worker, _ in _told(workers[0])} == {"0"}


async def test_worker_takes_its_numbers_away_at_its_end(tmp_path: Path) -> None:
    worker = WorkerMetrics(Own(1.0), tmp_path, 0)
    publishing = asyncio.create_task(worker.publishing(3600.0))
    while not (tmp_path / "0.prom").exists():
        await asyncio.sleep(0)
    publishing.cancel()
    await asyncio.gather(publishing, return_exceptions=True)
    assert list(tmp_path.iterdir()) == []


async def test_worker_whose_disk_was_full_tells_its_numbers_later(tmp_path: Path) -> None:
    folder = tmp_path / "metrics"
    folder.write_text("in the way")
    publishing = asyncio.create_task(WorkerMetrics(Own(1.0), folder, 0).publishing(0.0))
    await asyncio.sleep(0)
    folder.unlink()
    while not (folder / "0.prom").exists():
        await asyncio.sleep(0)
    publishing.cancel()
    await asyncio.gather(publishing, return_exceptions=True)
