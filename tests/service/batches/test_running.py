"""A batch is answered once, whatever happens in the middle."""

from __future__ import annotations

import asyncio
import errno
import logging
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import numpy as np
import orjson
import pytest

from coe.aggregation import First
from coe.composition import Composition, Conduct
from coe.engines.base import Engine, collect
from coe.engines.scripted import ScriptedEngine
from coe.experts import Expert, ExpertPool, ScriptedSpec
from coe.routers.policies import TopK
from coe.routing import FloatArray, Router
from coe.scheduling import Effects, Site, Tenant
from coe.scheduling.dispatcher import Dispatcher
from coe.scheduling.hosted import HostedEngine
from coe.scheduling.planned import PlannedScheduler
from coe.scheduling.planned_pool import PlannedPool
from coe.service.batches import running
from coe.service.batches.journal import Journal
from coe.service.batches.lines import URL, read_requests
from coe.service.batches.running import BatchRun, BatchSummary
from coe.types import Completion, Delta, GenerationRequest, Query


class ByLength:
    """Routes by the length of the question, over and over through the pool."""

    name = "by-length"

    def __init__(self, expert_ids: Sequence[str]) -> None:
        self.expert_ids = tuple(expert_ids)

    def score(self, queries: Sequence[Query]) -> FloatArray:
        n = len(self.expert_ids)
        return np.array([np.eye(n)[len(query.text) % n] for query in queries])


class Counting(ScriptedEngine):
    """Counts how often it was started."""

    starts = 0

    async def _start(self) -> None:
        self.starts += 1


class Gathering(First):
    """Asks an expert to sum up what several have said."""

    def __init__(self, engine: Engine) -> None:
        super().__init__()
        self._engine = engine

    async def aggregate(
        self, request: GenerationRequest, completions: Sequence[tuple[str, Completion]]
    ) -> str:
        written = await collect("w", self._engine.stream(request))
        return " ".join(completion.text for _, completion in completions) + f": {written.text}"


class Pool:
    """Three experts and room for one; `k` answer a query, and then a fourth sums up."""

    def __init__(self, k: int = 1, **specs: ScriptedSpec) -> None:
        experts = tuple(
            Expert(id_, specs.get(id_, ScriptedSpec(default=f"{id_} says")))
            for id_ in ("abc" if k == 1 else "abcw")
        )
        pool = ExpertPool(experts)
        self.inner = {expert.id: Counting(expert) for expert in experts}
        site = Site({"gpu": 1.0}, tuple(Tenant(id_, gib=1.0) for id_ in pool.ids))
        schedulers: list[PlannedScheduler] = []

        def make(effects: Effects) -> PlannedScheduler:
            schedulers.append(PlannedScheduler(site, effects))
            return schedulers[-1]

        dispatcher = Dispatcher(self.inner, make)
        self.planned = PlannedPool(dispatcher, schedulers[-1])
        engines = {id_: HostedEngine(engine, dispatcher) for id_, engine in self.inner.items()}
        self.planned.writer = None if k == 1 else "w"
        self.composition = Composition(
            Router(ByLength(pool.ids), TopK(k), pool),
            engines,
            None if k == 1 else Gathering(engines["w"]),
            conduct=Conduct(failovers=0),
        )

    def run(self) -> BatchRun:
        return BatchRun(self.composition, "coe", self.planned)

    @property
    def starts(self) -> int:
        return sum(engine.starts for engine in self.inner.values())

    @property
    def n_asked(self) -> int:
        return sum(len(engine.requests) for engine in self.inner.values())


def _write(folder: Path, n: int) -> Path:
    file = folder / "in.jsonl"
    lines = []
    for i in range(n):
        model = "c" if i % 7 == 0 else "coe"
        body = {"model": model, "messages": [{"role": "user", "content": "x" * (i + 1)}]}
        lines.append({"custom_id": f"r{i}", "method": "POST", "url": URL, "body": body})
    file.write_bytes(b"\n".join(orjson.dumps(line) for line in lines))
    return file


async def _run(pool: Pool, folder: Path, file: Path, *, retry_failed: bool = False) -> BatchSummary:
    requests = read_requests(file, ("coe", "a", "b", "c"))
    request_ids = requests.request_ids if retry_failed else None
    with Journal(folder / "out.jsonl", file, request_ids) as journal:
        return await pool.run().answer(requests, journal, retry_failed)


async def test_each_expert_is_loaded_once_and_answers_come_in_order(tmp_path: Path) -> None:
    pool = Pool()
    summary = await _run(pool, tmp_path, _write(tmp_path, 60))
    answers = [orjson.loads(line) for line in (tmp_path / "out.jsonl").read_bytes().splitlines()]
    assert [answer["custom_id"] for answer in answers] == [f"r{i}" for i in range(60)]
    experts = ["c" if i % 7 == 0 else "abc"[(i + 1) % 3] for i in range(60)]
    assert [answer["response"]["body"]["coe"]["experts"] for answer in answers] == [
        [id_] for id_ in experts
    ]
    assert (summary.n_requests, summary.n_failed, summary.n_tokens) == (60, 0, 60 * 3)
    assert pool.starts == 3


async def test_a_run_that_is_cut_goes_on_where_it_was(tmp_path: Path) -> None:
    file = _write(tmp_path, 40)
    pool = Pool(b=ScriptedSpec(default="b says", tokens_per_s=1e-3))
    running = asyncio.ensure_future(_run(pool, tmp_path, file))
    journal = tmp_path / ".out.jsonl.journal"
    n_quick = sum(1 for i in range(40) if i % 7 == 0 or "abc"[(i + 1) % 3] == "a")
    while not journal.exists() or journal.read_bytes().count(b"\n") <= n_quick // 2:
        await asyncio.sleep(0)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    n_kept = journal.read_bytes().count(b"\n") - 1
    assert not (tmp_path / "out.jsonl").exists()
    again = Pool()
    summary = await _run(again, tmp_path, file)
    assert summary.n_resumed == n_kept
    assert again.n_asked == 40 - n_kept
    assert len((tmp_path / "out.jsonl").read_bytes().splitlines()) == 40


async def test_a_failure_is_a_line_of_its_own(tmp_path: Path) -> None:
    file = _write(tmp_path, 12)
    dead = ScriptedSpec(default="b says", fail_after_tokens=0)
    requests = read_requests(file, ("coe", "a", "b", "c"))
    with Journal(tmp_path / "out.jsonl", file) as journal:
        summary = await Pool(b=dead).run().answer(requests, journal)
    failed = [
        line
        for line in map(orjson.loads, (tmp_path / "out.jsonl").read_bytes().splitlines())
        if line["response"]["status_code"] != 200
    ]
    assert len(failed) == summary.n_failed > 0
    assert {line["response"]["status_code"] for line in failed} == {502}
    assert all(line["response"]["body"]["error"]["code"] for line in failed)


async def test_only_what_failed_is_asked_again(tmp_path: Path) -> None:
    file = _write(tmp_path, 12)
    requests = read_requests(file, ("coe", "a", "b", "c"))
    with Journal(tmp_path / "out.jsonl", file) as journal:
        for custom_id in requests.request_ids:
            status = 502 if custom_id in ("r3", "r4") else 200
            line = {"custom_id": custom_id, "response": {"status_code": status}}
            journal.add(custom_id, orjson.dumps(line))
    pool = Pool()
    summary = await _run(pool, tmp_path, file, retry_failed=True)
    assert (summary.n_resumed, summary.n_failed, pool.n_asked) == (10, 0, 2)


async def test_what_failed_in_a_run_that_finished_is_asked_again(tmp_path: Path) -> None:
    file = _write(tmp_path, 12)
    first = await _run(Pool(b=ScriptedSpec(default="b says", fail_after_tokens=0)), tmp_path, file)
    assert first.n_failed > 0
    again = Pool()
    summary = await _run(again, tmp_path, file, retry_failed=True)
    assert (summary.n_resumed, summary.n_failed) == (12 - first.n_failed, 0)
    assert again.n_asked == first.n_failed
    answers = [orjson.loads(line) for line in (tmp_path / "out.jsonl").read_bytes().splitlines()]
    assert [answer["custom_id"] for answer in answers] == [f"r{i}" for i in range(12)]
    assert {answer["response"]["status_code"] for answer in answers} == {200}


class Defective(ScriptedEngine):
    """Fails in a way that nobody thought of."""

    def stream(self, request: GenerationRequest) -> AsyncIterator[Delta]:
        raise LookupError("a defect")


@pytest.mark.parametrize("where", ["engine", "router"])
async def test_a_defect_is_a_line_of_its_request_and_costs_no_other(
    tmp_path: Path, where: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = Pool()
    if where == "engine":
        broken = Defective(pool.composition.router.pool.expert("b"))
        pool.composition.engines = {**pool.composition.engines, "b": broken}
    else:
        score = ByLength.score

        def broken_score(self: ByLength, queries: Sequence[Query]) -> FloatArray:
            if len(queries[0].text) % 3 == 1:
                raise LookupError("a defect")
            return score(self, queries)

        monkeypatch.setattr(ByLength, "score", broken_score)
    with caplog.at_level(logging.ERROR):
        summary = await _run(pool, tmp_path, _write(tmp_path, 6))
    answers = [orjson.loads(line) for line in (tmp_path / "out.jsonl").read_bytes().splitlines()]
    # r0 is pinned to c; of the others, r3 has four characters.
    assert [a["response"]["status_code"] for a in answers] == [200, 200, 200, 500, 200, 200]
    assert summary.n_failed == 1
    assert "a defect" in caplog.text


class FullDisk(Journal):
    """Takes some lines."""

    def add(self, custom_id: str, line: bytes) -> None:
        if len(self.done) == 3:
            raise OSError(errno.ENOSPC, "no room")
        super().add(custom_id, line)


async def test_a_full_disk_is_told_as_itself_and_keeps_what_was_written(tmp_path: Path) -> None:
    file = _write(tmp_path, 12)
    requests = read_requests(file, ("coe", "a", "b", "c"))
    with (
        pytest.raises(OSError, match="no room"),
        FullDisk(tmp_path / "out.jsonl", file) as journal,
    ):
        await Pool().run().answer(requests, journal)
    assert (await _run(Pool(), tmp_path, file)).n_resumed == 3


class BadDisk(Journal):
    """Takes lines and does not keep them."""

    def sync(self) -> None:
        raise OSError(errno.EIO, "bad disk")


@pytest.mark.parametrize("sync_every_s", [0.0, 3600.0])
async def test_lines_that_do_not_reach_the_disk_end_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sync_every_s: float
) -> None:
    """At once where an expert still answers; at the latest before the output is written."""
    monkeypatch.setattr(running, "SYNC_EVERY_S", sync_every_s)
    slow = {"b": ScriptedSpec(default="b says", tokens_per_s=1e-3)} if not sync_every_s else {}
    file = _write(tmp_path, 12)
    requests = read_requests(file, ("coe", "a", "b", "c"))
    with (
        pytest.raises(OSError, match="bad disk"),
        BadDisk(tmp_path / "out.jsonl", file) as journal,
    ):
        await Pool(1, **slow).run().answer(requests, journal)
    assert not (tmp_path / "out.jsonl").exists()


async def test_a_file_larger_than_the_window_is_answered_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running, "WINDOW", 5)
    summary = await _run(Pool(), tmp_path, _write(tmp_path, 12))
    assert (summary.n_requests, summary.n_failed) == (12, 0)
    assert len((tmp_path / "out.jsonl").read_bytes().splitlines()) == 12


def _answered(folder: Path) -> list[str]:
    lines = map(orjson.loads, (folder / "out.jsonl").read_bytes().splitlines())
    return [line["response"]["body"]["choices"][0]["message"]["content"] for line in lines]


async def test_planned_batch_of_several_stages_loads_each_expert_once(tmp_path: Path) -> None:
    pool = Pool(k=2)
    summary = await _run(pool, tmp_path, _write(tmp_path, 60))
    assert summary.n_failed == 0
    assert pool.starts == 4
    recruited = [text for text in _answered(tmp_path) if text != "c says"]
    assert all(text.endswith(": w says") for text in recruited)


async def test_batch_that_is_cut_between_stages_asks_nobody_twice(tmp_path: Path) -> None:
    file = _write(tmp_path, 40)
    pool = Pool(k=2, w=ScriptedSpec(default="w says", tokens_per_s=1e-3))
    running = asyncio.ensure_future(_run(pool, tmp_path, file))
    others = [pool.inner[id_] for id_ in "abc"]
    while not pool.inner["w"].requests:
        await asyncio.sleep(0)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    n_asked = sum(len(engine.requests) for engine in others)
    again = Pool(k=2)
    await _run(again, tmp_path, file)
    n_asked_again = sum(len(again.inner[id_].requests) for id_ in "abc")
    whole = Pool(k=2)
    (tmp_path / "whole").mkdir()
    await _run(whole, tmp_path / "whole", file)
    assert n_asked + n_asked_again == sum(len(whole.inner[id_].requests) for id_ in "abc")
    assert n_asked > 0
    assert _answered(tmp_path) == _answered(tmp_path / "whole")


async def test_batch_in_windows_keeps_an_expert_from_one_to_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running, "WINDOW", 7)
    monkeypatch.setattr(running, "CHUNK", 4)
    pool = Pool()
    assert (await _run(pool, tmp_path, _write(tmp_path, 60))).n_failed == 0
    assert pool.starts == 3


async def test_batch_progress_counts_calls_swaps_and_residents(tmp_path: Path) -> None:
    pool = Pool()
    run = pool.run()
    file = _write(tmp_path, 12)
    before = run.progress
    assert (before.share, before.standing.n_swaps_planned, before.n_done) == (0.0, 0, 0)
    with Journal(tmp_path / "out.jsonl", file) as journal:
        await run.answer(read_requests(file, ("coe", "a", "b", "c")), journal)
    after = run.progress
    assert (after.share, after.n_done, after.n_routed, after.n_tokens) == (1.0, 12, 12, 36)
    assert (after.standing.n_swaps, after.standing.n_swaps_planned) == (3, 3)
    assert len(after.standing.residents) == 1
