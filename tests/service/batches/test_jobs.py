"""A gateway's batches from their creation to their end, also across restarts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2 as httpx
import orjson
import pytest

from coe.composition import Composition, Conduct
from coe.engines.scripted import ScriptedEngine
from coe.errors import QueueFull, StoreError
from coe.experts import Expert, ExpertPool, Price, ScriptedSpec
from coe.routers.baselines import RandomScorer
from coe.routers.policies import TopK
from coe.routing import Router
from coe.scheduling import Effects, Site, SwapScheduler, Tenant
from coe.scheduling.dispatcher import Dispatcher
from coe.scheduling.hosted import HostedEngine
from coe.service.app import gateway_app
from coe.service.batches.jobs import BatchJobs
from coe.service.batches.objects import BatchCall
from coe.service.batches.pausing import MOST_PAUSES
from coe.service.batches.settings import BatchSettings
from coe.service.gateway import Gateway
from coe.service.settings import ServiceSettings
from coe.service.workers.seat import Seat
from coe.store import (
    Batches,
    BatchState,
    KeyLimits,
    Store,
    StoredBatch,
    StoreSettings,
    UnknownBatch,
    UnknownFile,
    held_store,
    open_store,
)
from coe.types import Delta, GenerationRequest, Message

CHAT = "/v1/chat/completions"
NOON = 1_772_539_200.0


class Gated(ScriptedEngine):
    """Answers what says "hold" once the gate is open, and first refuses as often as it is told."""

    def __init__(self, expert_id: str, text: str = "") -> None:
        spec = ScriptedSpec(default=text or f"{expert_id} says", fail_after_tokens=None)
        super().__init__(Expert(expert_id, spec, price=Price(0.0, 1e6)))
        self.gate = asyncio.Event()
        self.refusals: list[Exception] = []

    async def stream(self, request: GenerationRequest) -> AsyncIterator[Delta]:
        if self.refusals:
            raise self.refusals.pop()
        text = request.messages[-1].content
        if "hold" in text:
            self.requests.append(request)
            await self.gate.wait()
            self.requests.pop()
        async for delta in super().stream(request):
            yield delta


class Broken(Gated):
    """Answers nobody."""

    def stream(self, request: GenerationRequest) -> AsyncIterator[Delta]:
        raise LookupError("a defect")


@dataclass
class Desk:
    """A gateway with a store, and what is under it."""

    folder: Path
    engines: dict[str, Gated] = field(default_factory=dict)
    settings: ServiceSettings = field(default_factory=ServiceSettings)
    now_s: float = NOON
    is_hosted: bool = False
    worker: int | None = None
    """Its place among several processes; None: it is the only one."""
    store: Store = field(init=False)
    jobs: BatchJobs = field(init=False)

    def __post_init__(self) -> None:
        self.engines = self.engines or {"a": Gated("a"), "b": Gated("b")}

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Desk]:
        settings = StoreSettings(self.folder / "store", worker=self.worker)
        self.store = open_store(settings, lambda: self.now_s)
        gateway = Gateway(self.composition(), self.settings, store=self.store)
        if self.worker is not None:
            gateway.seat = Seat(self.worker, 2, self.folder / "metrics")
        self.jobs = BatchJobs(gateway, self.store, self.settings.batches, lambda: self.now_s)
        try:
            await self.jobs.start()
            yield self
            await self.jobs.stop()
        finally:
            await self.store.close()

    def composition(self) -> Composition:
        experts = tuple(Expert(id_, ScriptedSpec(), price=Price(0.0, 1e6)) for id_ in self.engines)
        pool = ExpertPool(experts)
        router = Router(RandomScorer(pool.ids), TopK(1), pool)
        engines: Mapping[str, Any] = self.engines
        if self.is_hosted:
            site = Site(
                {"gpu": 1.0}, tuple(Tenant(id_, gib=1.0, max_in_flight=1) for id_ in pool.ids)
            )

            def make(effects: Effects) -> SwapScheduler:
                return SwapScheduler(site, effects)

            dispatcher = Dispatcher(self.engines, make)
            engines = {id_: HostedEngine(one, dispatcher) for id_, one in self.engines.items()}
        return Composition(router, engines, conduct=Conduct(failovers=0))

    async def submit(self, lines: Sequence[object], tenant: str = "", **told: Any) -> StoredBatch:
        file_id = await self.upload(lines, tenant)
        key = told.pop("key", None)
        endpoint, lifetime_s = told.get("endpoint", CHAT), told.get("lifetime_s")
        call = BatchCall(file_id, endpoint, "24h", {}, lifetime_s)
        return await self.jobs.submit(tenant, key, call)

    async def upload(self, lines: Sequence[object], tenant: str = "") -> str:
        async def content() -> AsyncIterator[bytes]:
            yield b"\n".join(x if isinstance(x, bytes) else orjson.dumps(x) for x in lines)

        file = await self.store.files.create(
            tenant, "in.jsonl", "batch", content(), max_bytes=2**20
        )
        return file.id

    async def until(self, batch: StoredBatch, *states: BatchState) -> StoredBatch:
        async with asyncio.timeout(20):
            while True:
                found = await self.store.batches.get(batch.tenant, batch.id)
                if found.state in states:
                    return found

    async def until_counted(self, batch: StoredBatch, n_completed: int) -> None:
        async with asyncio.timeout(20):
            while True:
                found = await self.store.batches.get(batch.tenant, batch.id)
                if found.n_completed >= n_completed:
                    return

    async def lines(self, file_id: str | None, tenant: str = "") -> list[dict[str, Any]]:
        if file_id is None:
            return []
        path = await self.store.files.path(tenant, file_id)
        return [orjson.loads(line) for line in path.read_bytes().splitlines()]

    @property
    def n_asked(self) -> int:
        return sum(len(engine.requests) for engine in self.engines.values())


def _line(custom_id: str, text: str = "hi", model: str = "coe", **more: Any) -> dict[str, Any]:
    body = {"model": model, "messages": [{"role": "user", "content": text}]} | more
    return {"custom_id": custom_id, "method": "POST", "url": CHAT, "body": body}


async def test_batch_is_answered_in_order_also_without_its_input_file(tmp_path: Path) -> None:
    async with Desk(tmp_path).open() as desk:
        lines = [_line(f"r{i}", model="ab"[i % 2] if i < 10 else "coe") for i in range(30)]
        batch = await desk.submit(lines)
        await desk.store.files.delete("", batch.input_file_id)
        assert batch.state == "validating"
        over = await desk.until(batch, "completed", "failed")
        assert (over.state, over.errors, over.error_file_id) == ("completed", (), None)
        assert (over.n_total, over.n_completed, over.n_failed) == (30, 30, 0)
        assert list(over.times) == ["validating", "in_progress", "finalizing", "completed"]
        answers = await desk.lines(over.output_file_id)
        assert [answer["custom_id"] for answer in answers] == [f"r{i}" for i in range(30)]
        experts = [answer["response"]["body"]["coe"]["experts"] for answer in answers]
        assert experts[:10] == [["a"], ["b"]] * 5
        async with asyncio.timeout(20):
            while list((desk.store.folder / "batches").iterdir()):
                await asyncio.sleep(0)


async def test_failures_of_a_batch_are_a_file_of_their_own(tmp_path: Path) -> None:
    async with Desk(tmp_path, {"a": Gated("a"), "b": Broken("b")}).open() as desk:
        batch = await desk.submit([_line(f"r{i}", model="ab"[i % 2]) for i in range(4)])
        over = await desk.until(batch, "completed", "failed")
        assert (over.state, over.n_completed, over.n_failed) == ("completed", 2, 2)
        answered = await desk.lines(over.output_file_id)
        failed = await desk.lines(over.error_file_id)
        assert [line["custom_id"] for line in answered] == ["r0", "r2"]
        assert [line["custom_id"] for line in failed] == ["r1", "r3"]
        assert {line["response"]["status_code"] for line in failed} == {500}


async def test_wrong_lines_fail_a_batch_by_number_and_nobody_is_asked(tmp_path: Path) -> None:
    tool = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}
    wrong: list[tuple[object, str, str | None]] = [
        (b"{", "invalid_json_line", None),
        (_line("x", model="c"), "model_not_found", "body.model"),
        (_line("r0"), "duplicate_custom_id", "custom_id"),
        (_line("y") | {"url": "/v1/completions"}, "mismatched_endpoint", "url"),
        (_line("z", tools=[tool]), "unsupported_parameter", "body.tools"),
        (_line("w", stream=True), "invalid_value", "body.stream"),
        (_line("v", base_url="http://other"), "unsupported_parameter", "body.base_url"),
    ]
    async with Desk(tmp_path).open() as desk:
        batch = await desk.submit([_line("r0"), *(line for line, _, _ in wrong)])
        over = await desk.until(batch, "completed", "failed")
        assert (over.state, over.output_file_id, desk.n_asked) == ("failed", None, 0)
        told = [(one["line"], one["code"], one["param"]) for one in over.errors]
        expected = [(i, code, param) for i, (_, code, param) in enumerate(wrong, start=2)]
        assert [one[0] for one in told] == [one[0] for one in expected]
        assert told == expected


async def test_empty_and_too_long_batches_fail(tmp_path: Path) -> None:
    settings = ServiceSettings(batches=BatchSettings(max_requests=2))
    async with Desk(tmp_path, settings=settings).open() as desk:
        empty = await desk.until(await desk.submit([b" "]), "failed", "completed")
        assert [one["code"] for one in empty.errors] == ["empty_file"]
        lines = [_line(f"r{i}") for i in range(5)]
        long = await desk.until(await desk.submit(lines), "failed", "completed")
        assert [(one["code"], one["line"]) for one in long.errors] == [("too_many_requests", 3)]


async def test_cancelled_batch_keeps_what_was_answered(tmp_path: Path) -> None:
    async with Desk(tmp_path).open() as desk:
        lines = [_line("r0"), _line("r1", "hold it"), _line("r2")]
        batch = await desk.submit(lines)
        await desk.until_counted(batch, 2)
        assert (await desk.jobs.cancel("", batch.id)).state == "cancelling"
        over = await desk.until(batch, "cancelled", "completed")
        assert over.state == "cancelled"
        answers = await desk.lines(over.output_file_id)
        assert [answer["custom_id"] for answer in answers] == ["r0", "r2"]
        assert (over.n_total, over.n_completed, over.n_failed) == (3, 2, 0)


async def test_batch_that_waits_for_its_turn_can_be_cancelled(tmp_path: Path) -> None:
    settings = ServiceSettings(batches=BatchSettings(max_running=1, max_unfinished=2))
    async with Desk(tmp_path, settings=settings).open() as desk:
        first = await desk.submit([_line("r0", "hold it")])
        await desk.until(first, "in_progress")
        second = await desk.submit([_line("r0")])
        with pytest.raises(QueueFull):
            await desk.submit([_line("r0")])
        await desk.jobs.cancel("", second.id)
        over = await desk.until(second, "cancelled")
        assert (over.output_file_id, over.n_completed) == (None, 0)
        for engine in desk.engines.values():
            engine.gate.set()
        assert (await desk.until(first, "completed")).n_completed == 1


async def test_batch_goes_on_after_a_restart_and_asks_nothing_twice(tmp_path: Path) -> None:
    lines = [_line(f"r{i}", "hold it" if i % 3 == 0 else "hi") for i in range(9)]
    async with Desk(tmp_path).open() as desk:
        batch = await desk.submit(lines)
        await desk.until_counted(batch, 6)
    again = Desk(tmp_path, {"a": Gated("a", "later"), "b": Gated("b", "later")})
    for engine in again.engines.values():
        engine.gate.set()
    async with again.open():
        over = await again.until(batch, "completed", "failed")
        assert (over.state, over.n_completed) == ("completed", 9)
        answers = await again.lines(over.output_file_id)
        texts = [a["response"]["body"]["choices"][0]["message"]["content"] for a in answers]
        assert [i for i, text in enumerate(texts) if text == "later"] == [0, 3, 6]
        assert again.n_asked == 3


async def test_batch_whose_experts_have_gone_tells_it_line_by_line(tmp_path: Path) -> None:
    async with Desk(tmp_path).open() as desk:
        batch = await desk.submit([_line("r0", model="a"), _line("r1", "hold it", model="b")])
        await desk.until_counted(batch, 1)
    async with Desk(tmp_path, {"a": Gated("a")}).open() as again:
        over = await again.until(batch, "completed", "failed")
        assert (over.state, over.n_completed, over.n_failed) == ("completed", 1, 1)
        (failed,) = await again.lines(over.error_file_id)
        assert (failed["custom_id"], failed["response"]["status_code"]) == ("r1", 404)


async def test_late_batch_expires_with_what_was_answered(tmp_path: Path) -> None:
    async with Desk(tmp_path).open() as desk:
        batch = await desk.submit([_line("r0"), _line("r1", "hold it")])
        await desk.until_counted(batch, 1)
    async with Desk(tmp_path, now_s=NOON + 25 * 3600).open() as again:
        over = await again.until(batch, "expired", "completed", "failed")
        assert (over.state, over.n_completed, over.n_failed) == ("expired", 1, 1)
        assert [line["custom_id"] for line in await again.lines(over.output_file_id)] == ["r0"]
        (late,) = await again.lines(over.error_file_id)
        assert (late["custom_id"], late["response"]) == ("r1", None)
        assert late["error"]["code"] == "batch_expired"
        assert again.n_asked == 0


class Forgetful(Batches):
    """Cannot write that a batch is completed."""

    async def move(self, batch_id: str, state: BatchState, **told: Any) -> StoredBatch:
        if state == "completed":
            raise StoreError("no room")
        return await super().move(batch_id, state, **told)


async def test_output_is_published_once_though_the_end_is_tried_twice(tmp_path: Path) -> None:
    async with Desk(tmp_path).open() as desk:
        forgetful = Forgetful(desk.store.batches._database)
        object.__setattr__(desk.store, "batches", forgetful)
        batch = await desk.submit([_line("r0")])
        await desk.until(batch, "finalizing")
        async with asyncio.timeout(20):
            while len(await desk.store.files.all("")) < 2:
                pass
    async with Desk(tmp_path).open() as again:
        over = await again.until(batch, "completed")
        written = [file for file in await again.store.files.all("") if file.purpose != "batch"]
        assert [file.id for file in written] == [over.output_file_id]
        assert again.n_asked == 0


async def test_refusals_of_the_moment_are_waited_out(tmp_path: Path) -> None:
    async with Desk(tmp_path, {"a": Gated("a")}).open() as desk:
        desk.engines["a"].refusals = [QueueFull("full", 0.01) for _ in range(MOST_PAUSES + 1)]
        over = await desk.until(await desk.submit([_line("r0")]), "completed")
        assert (over.n_completed, desk.engines["a"].refusals) == (1, [])


async def test_online_requests_go_before_those_of_a_batch(tmp_path: Path) -> None:
    async with Desk(tmp_path, {"a": Gated("a")}, is_hosted=True).open() as desk:
        batch = await desk.submit([_line(f"r{i}", "hold it") for i in range(20)])
        engine = desk.engines["a"]
        async with asyncio.timeout(20):
            while not engine.requests:
                await asyncio.sleep(0)
        composition = desk.jobs._gateway.composition
        online = GenerationRequest((Message("user", "hello"),), priority=-10)
        decision = composition.decide(online, "a")
        asked = asyncio.create_task(composition.complete(online, decision))
        await asyncio.sleep(0)
        engine.gate.set()
        await asked
        texts = [request.messages[-1].content for request in engine.requests]
        assert texts.index("hello") <= 1
        assert (await desk.until(batch, "completed")).n_completed == 20


async def test_batch_takes_a_bounded_number_of_places(tmp_path: Path) -> None:
    settings = ServiceSettings(batches=BatchSettings(in_flight=3))
    async with Desk(tmp_path, settings=settings).open() as desk:
        lines = [_line(f"r{i}", "hold it", model="ab"[i % 2]) for i in range(20)]
        for engine in desk.engines.values():
            await engine.ensure_ready(1.0)
        batch = await desk.submit(lines)
        async with asyncio.timeout(20):
            while desk.n_asked < 6:
                await asyncio.sleep(0)
        for _ in range(50):
            await asyncio.sleep(0)
        assert [len(engine.requests) for engine in desk.engines.values()] == [3, 3]
        for engine in desk.engines.values():
            engine.gate.set()
        await desk.until(batch, "completed")


async def test_batch_stays_within_the_limits_of_its_key(tmp_path: Path) -> None:
    settings = ServiceSettings(batches=BatchSettings(in_flight=1))
    async with Desk(tmp_path, settings=settings).open() as desk:
        limits = KeyLimits(experts=("a",), budget_usd=5.0)
        _, key = await desk.store.keys.create("acme", limits)
        wrong = await desk.submit([_line("r0", model="b")], "acme", key=key)
        assert (await desk.until(wrong, "failed", "completed")).errors[0]["param"] == "body.model"
        lines = [_line(f"r{i}", max_tokens=2) for i in range(6)]
        over = await desk.until(await desk.submit(lines, "acme", key=key), "completed")
        # Two dollars an answer.
        assert (over.n_completed, over.n_failed) == (2, 4)
        failed = await desk.lines(over.error_file_id, "acme")
        assert {line["response"]["status_code"] for line in failed} == {402}
        answers = await desk.lines(over.output_file_id, "acme")
        assert {a["response"]["body"]["coe"]["experts"][0] for a in answers} == {"a"}


async def test_batch_of_a_key_that_was_revoked_is_not_gone_on_with(tmp_path: Path) -> None:
    async with Desk(tmp_path).open() as desk:
        _, key = await desk.store.keys.create("acme", KeyLimits())
        batch = await desk.submit([_line("r0"), _line("r1", "hold it")], "acme", key=key)
        await desk.until_counted(batch, 1)
        await desk.store.keys.revoke(key.id)
    async with Desk(tmp_path).open() as again:
        over = await again.until(batch, "failed", "completed")
        assert (over.state, over.errors[0]["code"]) == ("failed", "invalid_api_key")
        assert len(await again.lines(over.output_file_id, "acme")) == 1


async def test_batches_of_others_are_not_there(tmp_path: Path) -> None:
    async with Desk(tmp_path).open() as desk:
        batch = await desk.submit([_line("r0")], "acme")
        with pytest.raises(UnknownBatch):
            await desk.jobs.cancel("other", batch.id)
        await desk.until(batch, "completed")


async def test_completions_are_a_batch_too(tmp_path: Path) -> None:
    async with Desk(tmp_path).open() as desk:
        url = "/v1/completions"
        body = {"model": "a", "prompt": "hi"}
        line = {"custom_id": "r0", "method": "POST", "url": url, "body": body}
        over = await desk.until(await desk.submit([line], endpoint=url), "completed", "failed")
        (answer,) = await desk.lines(over.output_file_id)
        told = answer["response"]["body"]
        assert (told["object"], told["choices"][0]["text"]) == ("text_completion", "a says")


async def test_a_gateway_serves_batches_from_start_to_stop(tmp_path: Path) -> None:
    """By way of its routes, and of the life of its app."""
    desk = Desk(tmp_path)
    store = open_store(StoreSettings(tmp_path / "store"))
    app = gateway_app(Gateway(desk.composition(), store=store))
    async with app.router.lifespan_context(app):
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://coe") as client:
            content = orjson.dumps(_line("r0"))
            form, fields = {"file": ("in.jsonl", content)}, {"purpose": "batch"}
            file = (await client.post("/v1/files", files=form, data=fields)).json()
            told = {"input_file_id": file["id"], "endpoint": CHAT, "completion_window": "24h"}
            batch = (await client.post("/v1/batches", json=told)).json()
            async with asyncio.timeout(20):
                while batch["status"] != "completed":
                    batch = (await client.get(f"/v1/batches/{batch['id']}")).json()
            output = await client.get(f"/v1/files/{batch['output_file_id']}/content")
            assert orjson.loads(output.content)["custom_id"] == "r0"
            assert (await client.post(f"/v1/batches/{batch['id']}/cancel")).status_code == 409


async def test_responses_are_a_batch_too(tmp_path: Path) -> None:
    url = "/v1/responses"

    def line(custom_id: str, **more: Any) -> dict[str, Any]:
        body = {"model": "a", "input": "hi"} | more
        return {"custom_id": custom_id, "method": "POST", "url": url, "body": body}

    async with Desk(tmp_path).open() as desk:
        batch = await desk.submit([line("r0", instructions="be brief")], endpoint=url)
        over = await desk.until(batch, "completed", "failed")
        (answer,) = await desk.lines(over.output_file_id)
        told = answer["response"]["body"]
        assert (told["object"], told["status"], told["store"]) == ("response", "completed", False)
        assert told["output"][-1]["content"][0]["text"] == "a says"
        assert told["coe"]["experts"] == ["a"]
        for wrong in ({"store": True}, {"previous_response_id": "resp_1"}):
            over = await desk.until(
                await desk.submit([line("r0", **wrong)], endpoint=url), "failed"
            )
            assert over.errors[0]["param"] == f"body.{next(iter(wrong))}"


async def test_output_is_kept_for_as_long_as_was_said(tmp_path: Path) -> None:
    settings = ServiceSettings(batches=BatchSettings(output_lifetime_s=7200.0))
    async with Desk(tmp_path, settings=settings).open() as desk:
        usual = await desk.until(await desk.submit([_line("r0")]), "completed")
        said = await desk.until(await desk.submit([_line("r0")], lifetime_s=3600.0), "completed")
        ids = [usual.output_file_id or "", said.output_file_id or ""]
        lifetimes = [(await desk.store.files.get("", id_)).expires_s for id_ in ids]
        assert lifetimes == [NOON + 7200.0, NOON + 3600.0]
        desk.now_s += 3601.0
        with pytest.raises(UnknownFile):
            await desk.store.files.get("", ids[1])
    paths = [tmp_path / "store" / "files" / id_ for id_ in ids]
    assert [path.exists() for path in paths] == [True, True]
    async with Desk(tmp_path, now_s=desk.now_s).open() as desk:
        async with asyncio.timeout(20):
            while paths[1].exists():  # swept at the start
                await asyncio.sleep(0)
        assert paths[0].exists()


async def test_lines_of_a_batch_are_no_more_urgent_than_its_key_may_be(tmp_path: Path) -> None:
    async with Desk(tmp_path, {"a": Gated("a")}).open() as desk:
        _, key = await desk.store.keys.create("acme", KeyLimits(max_priority=2))
        lines = [_line("r0", coe={"priority": 9}), _line("r1", coe={"priority": -9})]
        await desk.until(await desk.submit(lines, "acme", key=key), "completed")
        priorities = sorted(request.priority for request in desk.engines["a"].requests)
        assert priorities == [-30, -19], "21 below what a client would have"


@asynccontextmanager
async def _two_workers(folder: Path) -> AsyncIterator[tuple[Desk, Desk]]:
    """The first leads."""
    async with AsyncExitStack() as stack:
        stack.enter_context(held_store(folder / "store"))
        first = await stack.enter_async_context(Desk(folder, worker=0).open())
        batch = await first.submit([_line("r0")])
        await first.until(batch, "completed")
        second = await stack.enter_async_context(Desk(folder, worker=1).open())
        yield first, second


async def test_batch_that_one_worker_takes_on_is_answered_by_the_one_that_leads(
    tmp_path: Path,
) -> None:
    async with _two_workers(tmp_path) as (leader, other):
        n_before = leader.n_asked
        batch = await other.submit([_line(f"r{i}") for i in range(5)])
        over = await other.until(batch, "completed", "failed")
        assert (over.state, over.n_completed) == ("completed", 5)
        assert len(await other.lines(over.output_file_id)) == 5
        assert (leader.n_asked - n_before, other.n_asked) == (5, 0)


async def test_batch_is_cancelled_by_way_of_any_worker(tmp_path: Path) -> None:
    async with _two_workers(tmp_path) as (leader, other):
        batch = await other.submit([_line("r0"), _line("r1", "hold it")])
        await other.until_counted(batch, 1)
        await other.jobs.cancel("", batch.id)
        over = await other.until(batch, "cancelled")
        assert [line["custom_id"] for line in await leader.lines(over.output_file_id)] == ["r0"]


async def test_another_worker_goes_on_where_the_one_that_led_has_ended(tmp_path: Path) -> None:
    async with _two_workers(tmp_path) as (leader, other):
        lines = [_line("r0", model="a"), _line("r1", "hold it", model="b")]
        batch = await leader.submit(lines)
        await leader.until_counted(batch, 1)
        await leader.jobs.stop()
        other.engines["b"].gate.set()
        over = await other.until(batch, "completed", "failed")
        assert (over.state, over.n_completed) == ("completed", 2)
        assert (len(other.engines["a"].requests), other.n_asked) == (0, 1), "nothing is asked twice"


async def test_tenant_is_held_to_its_batches_whichever_worker_it_comes_to(tmp_path: Path) -> None:
    async with _two_workers(tmp_path) as (leader, other):
        for desk in (leader, other):
            desk.jobs.settings = BatchSettings(max_unfinished=1)
        await leader.submit([_line("r0", "hold it")])
        with pytest.raises(QueueFull):
            await other.submit([_line("r0")])
