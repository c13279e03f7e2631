"""Answers handed on byte by byte: what goes through, and what is not taken for whole."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import orjson
import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from coe.engines.openai import OpenAIEngine
from coe.engines.raw_answer import RawStream, raw_stream, whole_answer
from coe.errors import RequestError, UpstreamError
from coe.experts import Expert, OpenAISpec
from coe.types import Delta, GenerationRequest, RawRequest, Usage

_TEXT = b'data: {"choices":[{"index":0,"delta":{"content":"hi"},"finish_reason":null}]}\n\n'
_LAST = b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"tool_calls"}]}\n\n'
_USAGE = b'data: {"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":2}}\n\n'
_DONE = b"data: [DONE]\n\n"
_STREAM = _TEXT + _LAST + _USAGE + _DONE


class _Pieces:
    def __init__(self, *chunks: bytes) -> None:
        self._chunks = list(chunks)

    async def readany(self) -> bytes:
        return self._chunks.pop(0) if self._chunks else b""


async def _read(*chunks: bytes) -> list[Delta]:
    return [delta async for delta in raw_stream("e", _Pieces(*chunks))]


async def test_raw_stream_hands_every_chunk_on_as_it_came() -> None:
    chunks = (_TEXT[:30], _TEXT[30:] + _LAST, _USAGE + _DONE)
    *pieces, end = await _read(*chunks)
    assert tuple(piece.raw for piece in pieces) == chunks
    assert end == Delta(finish_reason="tool_calls", usage=Usage(7, 2))


@given(st.lists(st.integers(0, len(_STREAM))))
def test_raw_stream_is_blind_to_chunking(cuts: Sequence[int]) -> None:
    stream = RawStream("e")
    bounds = [0, *sorted(cuts), len(_STREAM)]
    passed = b"".join(stream.read(_STREAM[a:b]).raw for a, b in pairwise(bounds))
    assert passed == _STREAM
    assert stream.end() == Delta(finish_reason="tool_calls", usage=Usage(7, 2))


async def test_raw_stream_ends_with_the_end_mark_though_the_server_goes_on() -> None:
    pieces = await _read(_STREAM, b"data: more\n\n")
    assert pieces[0].raw == _STREAM
    assert len(pieces) == 2


@pytest.mark.parametrize(
    "stream",
    [b"", _TEXT, _TEXT + _LAST + _USAGE, _TEXT + b'data: {"choices":[{"delta":"data: [DONE]'],
)
async def test_raw_stream_without_its_end_mark_is_not_whole(stream: bytes) -> None:
    with pytest.raises(UpstreamError, match="end mark"):
        await _read(stream)


def test_raw_stream_remembers_no_more_than_the_end_of_a_long_answer() -> None:
    stream = RawStream("e")
    for _ in range(1000):
        stream.read(_TEXT)
    stream.read(_LAST + _USAGE + _DONE)
    assert stream.end() == Delta(finish_reason="tool_calls", usage=Usage(7, 2))
    assert len(stream._tail) < 20_000


@pytest.mark.parametrize(
    "beginning",
    [b'{"detail":"no such route"}', b"<html>", b'data: {"error":{"message":"out of memory"}}\n\n'],
)
async def test_raw_stream_that_begins_with_a_failure_raises_it(beginning: bytes) -> None:
    with pytest.raises(UpstreamError):
        await _read(beginning, _DONE)


async def test_raw_stream_leaves_a_later_failure_to_the_client() -> None:
    error = b'data: {"error":{"message":"out of memory"}}\n\n'
    pieces = await _read(_TEXT, error, _DONE)
    assert b"".join(piece.raw for piece in pieces) == _TEXT + error + _DONE


async def test_raw_answer_comes_whole_and_is_counted() -> None:
    body = orjson.dumps(
        {
            "choices": [{"finish_reason": "length", "logprobs": {"content": []}}],
            "usage": {"prompt_tokens": 3, "completion_tokens": 4},
        }
    )
    pieces = await whole_answer("e", _Pieces(body[:20], body[20:]))
    assert pieces == (Delta(raw=body), Delta(finish_reason="length", usage=Usage(3, 4)))


@pytest.mark.parametrize("body", [b"", b"<html>", b"[1]", b'{"error":{"message":"no"}}', b"{"])
async def test_raw_answer_that_is_none_is_the_experts_failure(body: bytes) -> None:
    with pytest.raises(UpstreamError, match="no answer"):
        await whole_answer("e", _Pieces(body))


async def test_openai_engine_posts_a_raw_request_as_it_is_but_for_the_model(
    unused_tcp_port: int,
) -> None:
    seen: list[tuple[str, object]] = []

    async def answer(request: web.Request) -> web.Response:
        seen.append((request.path, orjson.loads(await request.read())))
        return web.json_response({"choices": [{"finish_reason": "stop"}], "odd": [1, {"x": None}]})

    async def refuse(request: web.Request) -> web.Response:
        return web.json_response({"error": {"message": "tools need a parser"}}, status=400)

    app = web.Application()
    app.router.add_post("/v1/chat/completions", answer)
    app.router.add_post("/v1/embeddings", refuse)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", unused_tcp_port).start()
    spec = OpenAISpec(base_url=f"http://127.0.0.1:{unused_tcp_port}/v1", model="upstream-name")
    engine = OpenAIEngine(Expert("e", engine=spec))
    fields = {"model": "coe", "messages": [{"role": "user", "content": []}], "tools": [{"a": 1}]}
    try:
        raw = RawRequest(fields)
        deltas = [d async for d in engine.stream(GenerationRequest((), raw=raw))]
        assert orjson.loads(deltas[0].raw)["odd"] == [1, {"x": None}]
        assert seen == [("/v1/chat/completions", {**fields, "model": "upstream-name"})]
        with pytest.raises(RequestError, match="tools need a parser"):
            async for _ in engine.stream(
                GenerationRequest((), raw=RawRequest({"input": "x"}, route="embeddings"))
            ):
                pass
    finally:
        await engine.stop(1.0)
        await runner.cleanup()
