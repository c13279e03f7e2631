"""What the gateway takes on: how many at once, and nobody whom it cannot have answered."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import httpx2 as httpx
import pytest
from starlette.types import Message, Receive, Scope, Send

from coe.composition import Composition
from coe.engines.limited import LimitedEngine
from coe.errors import QueueFull
from coe.service.admission import LET_IN, Admission, AdmissionRules, Intake
from coe.service.app import create_app
from coe.service.congestion import FEW, MANY
from coe.service.settings import ServiceSettings

CHAT = "/v1/chat/completions"
ASK = {"model": "a", "messages": [{"role": "user", "content": "hello"}]}


class Held:
    """An app whose requests end when they are let go."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.gate.wait()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})


async def _unread() -> Message:
    raise AssertionError("the body was read")


async def _asked(
    app: Admission, method: str = "POST", let_in_s: float | None = None, **more: Any
) -> list[Message]:
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    scope: Scope = {"type": "http", "method": method, "path": CHAT, "headers": [], **more}
    if let_in_s is not None:
        scope[LET_IN] = let_in_s
    await app(scope, _unread, send)
    return sent


def _intake(max_in_flight: int) -> Intake:
    return Intake(AdmissionRules(max_in_flight, longest_lag_s=0.02))


async def test_admission_refuses_unread_what_is_one_too_many() -> None:
    held, intake = Held(), _intake(2)
    app = Admission(held, intake)
    running = [asyncio.create_task(_asked(app)) for _ in range(2)]
    await asyncio.sleep(0)
    start, body = await _asked(app, headers=[(b"x-request-id", b"mine")])
    assert start["status"] == 503
    assert {(b"retry-after", b"1"), (b"x-request-id", b"mine")} <= set(start["headers"])
    assert json.loads(body["body"])["error"]["code"] == "overloaded"
    assert intake.refused == {"in_flight": 1, "congestion": 0, "lines": 0}
    looking = asyncio.create_task(_asked(app, "GET"))
    held.gate.set()
    for task in (*running, looking):
        assert (await task)[0]["status"] == 200
    assert intake.n_in_flight == 0
    assert (await _asked(app))[0]["status"] == 200


async def test_admission_gives_the_place_back_of_who_leaves() -> None:
    intake = _intake(1)
    app = Admission(Held(), intake)
    for _ in range(3):
        running = asyncio.create_task(_asked(app))
        await asyncio.sleep(0)
        assert intake.n_in_flight == 1
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert intake.n_in_flight == 0


async def test_admission_names_a_request_itself_where_the_client_does_not_sanely() -> None:
    app = Admission(Held(), _intake(0))
    ids = set()
    for given in ([], [(b"x-request-id", b"one two")], [(b"x-request-id", b"1" * 129)]):
        start, _ = await _asked(app, headers=given)
        (request_id,) = (value for name, value in start["headers"] if name == b"x-request-id")
        assert len(request_id) == 32
        ids.add(request_id)
    assert len(ids) == 3


async def _until(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(10.0):
        while not is_so():
            await asyncio.sleep(0)


async def _congested(intake: Intake) -> None:
    """As many as are borne come while the loop is late, and one more."""
    for _ in range(MANY):
        assert intake.begin(CHAT.encode()) is None
    # Nothing waits for this loop, which is therefore told of work that it has not done.
    intake._congestion.on_look(1e9, 0.1, 0.1, 0)
    refusals = [intake.begin(CHAT.encode()) for _ in range(100)]
    assert {told.status for told in refusals if told is not None} == {503}


async def test_admission_refuses_while_work_stands_in_line() -> None:
    intake = _intake(10_000)
    await _congested(intake)
    assert intake.refused["congestion"] > 90
    n_before = intake.n_in_flight
    assert (await _asked(Admission(Held(), intake)))[0]["status"] == 503
    assert intake.n_in_flight == n_before


async def test_admission_ends_unbegun_whom_a_connection_let_in_too_long_ago() -> None:
    intake = _intake(10_000)
    await _congested(intake)
    held, n_before = Held(), intake.n_in_flight
    held.gate.set()
    start, _ = await _asked(Admission(held, intake), let_in_s=-1.0)
    assert start["status"] == 503
    assert intake.n_in_flight == n_before - 1


async def test_admission_keeps_a_few_however_long_ago_they_were_let_in() -> None:
    held, intake = Held(), _intake(10_000)
    await _congested(intake)
    held.gate.set()
    while intake.n_in_flight > FEW:
        intake.end()
    assert (await _asked(Admission(held, intake), let_in_s=-1.0))[0]["status"] == 200


async def test_admission_refuses_whoever_no_expert_takes_on() -> None:
    waits_s = 2.25
    intake = Intake(AdmissionRules(10, 0.02), lambda: QueueFull("full", waits_s), (CHAT,))
    held = Held()
    held.gate.set()
    start, body = await _asked(Admission(held, intake))
    assert start["status"] == 429
    assert (b"retry-after", b"3") in start["headers"]
    assert json.loads(body["body"])["error"]["code"] == "queue_full"
    assert intake.refused["lines"] == 1
    assert (await _asked(Admission(held, intake), path="/v1/feedback"))[0]["status"] == 200


async def test_gateway_refuses_unread_while_all_lines_are_full(
    compose: Callable[..., Composition], fakes: Any
) -> None:
    bounds = {id_: LimitedEngine(fakes.hanging(id_, 1), 1, 1) for id_ in "ab"}
    app = create_app(compose(bounds))
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://coe") as client:
        asking = [asyncio.create_task(client.post(CHAT, json=ASK)) for _ in range(2)]
        await _until(lambda: bounds["a"].is_full)
        # b has places, which one that nobody can read does not take.
        assert (await client.post(CHAT, content=b"{")).status_code == 415
        other = {**ASK, "model": "b"}
        asking += [asyncio.create_task(client.post(CHAT, json=other)) for _ in range(2)]
        await _until(lambda: bounds["b"].is_full)
        refused = await client.post(CHAT, content=b"{")
        metrics = (await client.get("/metrics")).text
        for task in asking:
            task.cancel()
        await asyncio.gather(*asking, return_exceptions=True)
    assert refused.status_code == 429
    assert refused.json()["error"]["code"] == "queue_full"
    assert int(refused.headers["retry-after"]) >= 1
    assert 'coe_admission_refusals_total{reason="lines"} 1.0' in metrics
    assert 'coe_admission_refusals_total{reason="congestion"} 0.0' in metrics
    assert "coe_admission_in_flight 4.0" in metrics


async def test_gateway_lets_everybody_in_while_it_keeps_answers(
    compose: Callable[..., Composition], fakes: Any
) -> None:
    bound = LimitedEngine(fakes.hanging("a", 1), 1, 1)
    transport = httpx.ASGITransport(create_app(compose({"a": bound}), ServiceSettings(caches=True)))
    async with httpx.AsyncClient(transport=transport, base_url="http://coe") as client:
        asking = [asyncio.create_task(client.post(CHAT, json=ASK)) for _ in range(2)]
        await _until(lambda: bound.is_full)
        unread = await client.post(CHAT, content=b"{")
        for task in asking:
            task.cancel()
        await asyncio.gather(*asking, return_exceptions=True)
    assert unread.status_code == 415
