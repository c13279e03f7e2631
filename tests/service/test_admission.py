"""What the gateway takes on: how many at once, and what it does when it cannot keep up."""

from __future__ import annotations

import asyncio
import json

import pytest
from starlette.types import Message, Receive, Scope, Send

from coe.service.admission import Admission, AdmissionRules, Lag


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


async def _post(app: Admission, method: str = "POST") -> list[Message]:
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    await app({"type": "http", "method": method, "headers": []}, _unread, send)
    return sent


async def test_admission_refuses_unread_what_is_one_too_many() -> None:
    held = Held()
    app = Admission(held, AdmissionRules(max_in_flight=2, longest_lag_s=10.0))
    running = [asyncio.create_task(_post(app)) for _ in range(2)]
    await asyncio.sleep(0)
    start, body = await _post(app)
    assert start["status"] == 503
    assert (b"retry-after", b"1") in start["headers"]
    assert json.loads(body["body"])["error"]["code"] == "overloaded"
    assert app.n_refused == 1
    looking = asyncio.create_task(_post(app, "GET"))
    held.gate.set()
    for task in (*running, looking):
        assert (await task)[0]["status"] == 200
    assert app.n_in_flight == 0
    assert (await _post(app))[0]["status"] == 200


async def test_admission_gives_the_place_back_of_who_leaves() -> None:
    app = Admission(Held(), AdmissionRules(max_in_flight=1, longest_lag_s=10.0))
    for _ in range(3):
        running = asyncio.create_task(_post(app))
        await asyncio.sleep(0)
        assert app.n_in_flight == 1
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert app.n_in_flight == 0


def _looked(lag: Lag, from_s: float, until_s: float, late_s: float) -> None:
    steps = round((until_s - from_s) / 0.02)
    for step in range(steps + 1):
        lag.on_look(from_s + step * 0.02, late_s)


def test_lag_is_borne_while_many_come_at_once() -> None:
    lag = Lag(0.05)
    lag.on_look(0.0, 0.0)
    _looked(lag, 0.02, 0.9, 0.2)
    assert not lag.is_too_long


def test_lag_that_lasts_is_too_long_whenever_it_is_there() -> None:
    lag = Lag(0.05)
    lag.on_look(0.0, 0.0)
    _looked(lag, 0.02, 1.1, 0.2)
    verdicts = [lag.is_too_long]
    for now, late_s in ((1.2, 0.01), (1.3, 0.06)):
        lag.on_look(now, late_s)
        verdicts.append(lag.is_too_long)
    assert verdicts == [True, False, True]


def test_lag_is_borne_again_after_a_calm() -> None:
    lag = Lag(0.05)
    lag.on_look(0.0, 0.0)
    _looked(lag, 0.02, 1.1, 0.2)
    _looked(lag, 1.2, 6.5, 0.0)
    lag.on_look(6.6, 0.2)
    assert not lag.is_too_long


async def test_admission_refuses_while_the_loop_cannot_keep_up() -> None:
    held = Held()
    app = Admission(held, AdmissionRules(max_in_flight=1000, longest_lag_s=0.05))
    first = asyncio.create_task(_post(app))
    await asyncio.sleep(0)
    held.gate.set()
    # From here on nothing waits for the loop, which therefore is not asked how late it is.
    _looked(app._lag, 1e9, 1e9 + 1.1, 0.2)
    statuses = [(await _post(app))[0]["status"] for _ in range(20)]
    # Not the first few: it is not they who make it late.
    assert statuses == [200] * 14 + [503] * 6
    _looked(app._lag, 1e9 + 2.0, 1e9 + 2.1, 0.0)
    assert (await _post(app))[0]["status"] == 200
    await first
