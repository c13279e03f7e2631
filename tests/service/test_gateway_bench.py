"""The benchmark of gateways: what its two ends count, and what it makes of the figures."""

from __future__ import annotations

import asyncio
import importlib
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch, repository: Path) -> Callable[[str], Any]:
    """A module of `bench.gateway`, which is not installed."""
    monkeypatch.syspath_prepend(str(repository))
    return lambda name: importlib.import_module(f"bench.gateway.{name}")


@asynccontextmanager
async def _served(protocol: Callable[[], asyncio.Protocol]) -> AsyncIterator[str]:
    server = await asyncio.get_running_loop().create_server(protocol, "127.0.0.1", 0)
    try:
        host, port = server.sockets[0].getsockname()
        yield f"http://{host}:{port}"
    finally:
        server.close()


async def _asked(bench: Callable[[str], Any], url: str, task: Any, is_streamed: bool) -> Any:
    client = bench("client").Client(url)
    target = bench("scenes").Target(url, "m", None, url)
    try:
        return await client.ask(target.requests(client, task, is_streamed)[0])
    finally:
        client.close()


async def test_mock_expert_answers_whole_when_it_has_thought(bench: Callable[[str], Any]) -> None:
    mock = bench("mock")
    counts = mock.Counts()
    async with _served(lambda: mock.MockExpert(counts)) as url:
        heard = await _asked(bench, url, mock.Task(think_ms=30), is_streamed=False)
    assert heard.problem is None
    assert heard.latency_s >= 0.03
    assert (counts.requests, counts.chunks) == (1, 0)


async def test_mock_expert_sends_every_chunk_by_itself(bench: Callable[[str], Any]) -> None:
    mock, loads = bench("mock"), bench("loads")
    counts = mock.Counts()
    async with _served(lambda: mock.MockExpert(counts)) as url:
        heard = await _asked(bench, url, mock.Task(n_chunks=5, rate=500), is_streamed=True)
    figures = loads.stream_figures([heard], 5)
    assert counts.chunks == figures["chunks"] == 5
    assert (figures["requests"], figures["merged"]) == (1, 0)
    assert 0 <= figures["delay_p50_ms"] < 1000


class _Says(asyncio.Protocol):
    """Says the same to everybody, then hangs up."""

    def __init__(self, *pieces: bytes) -> None:
        self._answer = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
        self._answer += b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._transport.write(self._answer)
        self._transport.close()


async def test_client_counts_chunks_that_share_a_piece(bench: Callable[[str], Any]) -> None:
    pieces = (b"tok|1| tok|2|", b"tok|3|", b"data: [DONE]\n\n", b"")
    async with _served(lambda: _Says(*pieces)) as url:
        heard = await _asked(bench, url, bench("mock").Task(n_chunks=3), is_streamed=True)
    assert heard.sent_us == [1, 2, 3]
    assert heard.n_merged == 1


async def test_client_finds_a_chunk_that_comes_in_two_pieces(bench: Callable[[str], Any]) -> None:
    async with _served(lambda: _Says(b"to", b"k|12", b"3|", b"data: [DONE]\n\n", b"")) as url:
        heard = await _asked(bench, url, bench("mock").Task(n_chunks=1), is_streamed=True)
    assert heard.sent_us == [123]
    assert heard.is_done


async def test_client_tells_a_stream_that_was_cut_off(bench: Callable[[str], Any]) -> None:
    async with _served(lambda: _Says(b"tok|1|tok|2|", b"")) as url:
        ended = await _asked(bench, url, bench("mock").Task(n_chunks=2), is_streamed=True)
    assert (ended.problem, ended.is_done) == (None, False)
    async with _served(lambda: _Says(b"tok|1|")) as url:
        heard = await _asked(bench, url, bench("mock").Task(n_chunks=2), is_streamed=True)
    assert heard.problem == "ConnectionResetError"
    figures = bench("loads").stream_figures([heard], 2)
    assert (figures["requests"], figures["errors"], figures["chunks"]) == (0, 1, 1)


def test_gateway_bench_counts_a_stream_without_its_end_as_an_error(
    bench: Callable[[str], Any],
) -> None:
    heard = bench("client").Heard(0.0, ended_s=1.0, sent_us=[1, 2], came_s=[0.5, 0.6])
    assert bench("loads").stream_figures([heard], 2)["errors"] == 1
    heard.is_done = True
    assert bench("loads").stream_figures([heard], 2)["errors"] == 0
    assert bench("loads").stream_figures([heard], 3)["errors"] == 1


async def test_gateway_bench_open_loop_counts_latency_from_the_schedule(
    bench: Callable[[str], Any],
) -> None:
    mock, client_module = bench("mock"), bench("client")
    async with _served(lambda: mock.MockExpert(mock.Counts())) as url:
        client = client_module.Client(url)
        target = bench("scenes").Target(url, "m", None, url)
        requests = target.requests(client, mock.Task(think_ms=20))
        heard = await bench("loads").open_loop(client, requests, 200, 20)
        client.close()
    dues = [one.due_s for one in heard]
    assert len(set(dues)) == len(heard) == 20
    assert max(dues) - min(dues) < 20 / 200
    assert min(one.latency_s for one in heard) >= 0.02


def _round(coe_ms: float, litellm_ms: float) -> dict[str, Any]:
    def scenes(p50_ms: float, cpu_ms: float) -> dict[str, Any]:
        return {"open_100": {"p50_ms": p50_ms}, "closed_64": {"cpu_ms": cpu_ms}}

    return {
        "direct": {"open_100": {"p50_ms": 20.0}},
        "floor": scenes(20.2, 0.2),
        "coe": scenes(coe_ms, 0.5),
        "litellm": scenes(litellm_ms, 5.0),
    }


def test_gateway_bench_judges_the_median_of_ratios(bench: Callable[[str], Any]) -> None:
    report = bench("report")
    rounds = [_round(21.0, 30.0), _round(22.0, 24.0), _round(21.0, 25.0)]
    judged = {goal.name: goal.judged(rounds) for goal in report.goals((100,), 64)}
    cpu = judged["CPU per request / floor's"]
    assert (cpu["median"], cpu["is_met"]) == (2.5, False)
    added = judged["added p50 at 100/s / LiteLLM's"]
    assert added["rounds"] == [0.1, 0.5, 0.2]
    assert (added["median"], added["is_met"]) == (0.2, True)
    assert judged["requests/s / smg's"]["is_met"] is None, "nobody measured it"


def test_gateway_bench_tells_what_a_gateway_adds(bench: Callable[[str], Any]) -> None:
    found = bench("report").medians([_round(21.0, 30.0), _round(23.0, 30.0)])
    assert found["coe"]["open_100"] == {"p50_ms": 22.0, "added_p50_ms": 2.0}
    assert "added_p50_ms" not in found["direct"]["open_100"]


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_gateway_bench_runs_in_front_of_the_mock(repository: Path, tmp_path: Path) -> None:
    out = tmp_path / "gateway.json"
    command = [sys.executable, "-m", "bench.gateway", "--quick", "--seconds", "0.5"]
    subprocess.run(
        [*command, "--out", str(out)], cwd=repository, check=True, capture_output=True, timeout=240
    )
    result = json.loads(out.read_text())
    assert result["is_quick"] is True
    assert result["skipped"] == {}
    for name in ("floor", "coe", "coe-routed"):
        streams = result["medians"][name]["streams"]
        assert streams["chunks"] == streams["chunks_sent"] == 50 * 50
        assert result["medians"][name]["start"]["rss_mib"] > 10
