"""What a gateway keeps of whom it asked, for `coe place` and `coe analyze`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest
from starlette.testclient import TestClient

from coe.cli import main
from coe.engines.base import Engine
from coe.errors import UpstreamError
from coe.scheduling.expert_trace import read_trace
from coe.scheduling.trace_log import TraceLog
from coe.service.app import create_app

CHAT = "/v1/chat/completions"
POOL = """
experts:
  - {id: sums, engine: {kind: scripted}, footprint: {gib: 10, load_s: 5}}
  - {id: lands/capitals, engine: {kind: scripted}, footprint: {gib: 10, load_s: 5}}
  - {id: faulty, engine: {kind: scripted}, footprint: {gib: 10, load_s: 5}}
  - {id: broken, engine: {kind: openai, base_url: "http://127.0.0.1:1/v1"}}
devices: {gpu0: 20}
router: {scorer: random}
"""


def _said(text: str, model: str = "coe") -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": text}]}


def _asked(file: Path) -> list[str]:
    trace = read_trace(file)
    return [trace.expert_ids[e] for e in trace.experts]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "asked.jsonl"


async def _answers(
    composition: Any, file: Path, *texts: str, model: str = "coe"
) -> list[httpx.Response]:
    log = TraceLog(file)
    app = create_app(composition, trace=log)
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://coe") as client:
        responses = [await client.post(CHAT, json=_said(text, model)) for text in texts]
    log.close()
    return responses


async def test_trace_has_who_was_decided_on_and_who_stepped_in(compose: Any, file: Path) -> None:
    await _answers(compose(), file, "sums", "broken", "lands/capitals")
    assert _asked(file) == ["sums", "broken", "sums", "lands/capitals"]


async def test_trace_has_recruited_experts_in_one_line(
    compose: Any, fakes: Any, whole: Any, file: Path
) -> None:
    engines: dict[str, Engine] = {id_: fakes.line(id_, whole) for id_ in "ab"}
    await _answers(compose(engines, k=2), file, "b first")
    assert read_trace(file).recruited_together() == {("b", "a"): 1}


async def test_trace_has_requests_that_failed(compose: Any, fakes: Any, file: Path) -> None:
    engines = {"a": fakes.line("a", [UpstreamError("a", "down")])}
    (response,) = await _answers(compose(engines), file, "hi", model="a")
    assert response.status_code == 502
    assert _asked(file) == ["a"]


async def test_trace_has_no_word_of_a_query(compose: Any, file: Path) -> None:
    await _answers(compose(), file, "sums of a secret")
    assert b"secret" not in file.read_bytes()


def test_trace_is_whole_once_the_gateway_has_stopped(compose: Any, file: Path) -> None:
    with TestClient(create_app(compose(), trace=TraceLog(file, every_s=3600))) as client:
        client.post(CHAT, json=_said("sums"))
        assert not file.stat().st_size
    assert _asked(file) == ["sums"]


@pytest.mark.parametrize("command", [("place", "--seconds", "0"), ("analyze",)])
async def test_trace_of_a_gateway_is_read_by_place_and_analyze(
    compose: Any,
    file: Path,
    command: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    await _answers(compose(), file, *("sums", "lands/capitals", "broken") * 3)
    pool = file.with_name("experts.yaml")
    pool.write_text(POOL)
    name, *options = command
    monkeypatch.setattr(sys, "argv", ["coe", name, str(file), "-c", str(pool), *options])
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code
    assert ("9 requests for 2 experts" if name == "analyze" else "gpu0") in capsys.readouterr().out
