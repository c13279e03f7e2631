"""A small OpenAI-compatible server over any engine, for tests, demos and benchmarks.

Loopback only and without keys: the gateway in `coe.service` is the one to deploy.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import orjson
from aiohttp import web

from coe.engines.base import Engine, closing_stream, collect
from coe.engines.completion_stream import usage_body
from coe.engines.sse import encode_event
from coe.engines.upstream_busy import retry_after_of
from coe.errors import CoeError, RequestError, UpstreamError
from coe.types import Completion, Delta, GenerationRequest, Message, SamplingParams


@asynccontextmanager
async def serve(engine: Engine, port: int = 0) -> AsyncIterator[str]:
    """Serves until the block ends; gives the base URL, up to and including `/v1`."""
    fake = FakeOpenAI(engine)
    app = web.Application()
    app.router.add_get("/v1/models", fake.models)
    app.router.add_post("/v1/chat/completions", fake.chat)
    # A client that hangs up cancels its handler, and with it the engine's stream.
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=1.0)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", port)
    await site.start()
    try:
        host, bound = runner.addresses[0][:2]
        yield f"http://{host}:{bound}/v1"
    finally:
        await runner.cleanup()


class FakeOpenAI:
    """The two handlers. `bodies` records what was posted, for tests to look at."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.bodies: list[dict[str, Any]] = []

    async def models(self, _: web.Request) -> web.Response:
        return _json({"object": "list", "data": [{"id": self._engine.expert_id}]})

    async def chat(self, http_request: web.Request) -> web.StreamResponse:
        body: dict[str, Any] = orjson.loads(await http_request.read())
        self.bodies.append(body)
        request = _generation_request(body)
        if not body.get("stream"):
            try:
                completion = await collect(self._engine.expert_id, self._engine.stream(request))
            except CoeError as error:
                return _error(error)
            return _json(_whole(completion))
        deltas = self._engine.stream(request)
        async with closing_stream(deltas):
            try:
                first = await anext(deltas)
            except CoeError as error:
                return _error(error)
            return await self._stream(http_request, first, deltas)

    async def _stream(
        self, http_request: web.Request, first: Delta, rest: AsyncIterator[Delta]
    ) -> web.StreamResponse:
        answer = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await answer.prepare(http_request)
        await answer.write(_events(first))
        try:
            async for delta in rest:
                await answer.write(_events(delta))
        except CoeError as error:
            await answer.write(_event({"error": {"message": str(error), "code": 500}}))
        await answer.write(encode_event(b"[DONE]"))
        await answer.write_eof()
        return answer


def _generation_request(body: dict[str, Any]) -> GenerationRequest:
    stop = body.get("stop") or ()
    params = SamplingParams(
        max_tokens=body.get("max_tokens"),
        temperature=body.get("temperature", 0.0),
        top_p=body.get("top_p", 1.0),
        seed=body.get("seed"),
        stop=(stop,) if isinstance(stop, str) else tuple(stop),
    )
    messages = tuple(Message(turn["role"], turn["content"]) for turn in body["messages"])
    return GenerationRequest(messages, params)


def _chunk(delta: Delta) -> dict[str, Any]:
    content = {"content": delta.text} if delta.text else {}
    return {"choices": [{"index": 0, "delta": content, "finish_reason": delta.finish_reason}]}


def _whole(completion: Completion) -> dict[str, Any]:
    message = {"role": "assistant", "content": completion.text}
    choice = {"index": 0, "message": message, "finish_reason": completion.finish_reason}
    return {"choices": [choice], "usage": usage_body(completion.usage)}


def _events(delta: Delta) -> bytes:
    if delta.usage is None:
        return _event(_chunk(delta))
    return _event(_chunk(delta)) + _event({"choices": [], "usage": usage_body(delta.usage)})


def _event(payload: dict[str, Any]) -> bytes:
    return encode_event(orjson.dumps(payload))


def _json(payload: dict[str, Any], status: int = 200) -> web.Response:
    return web.Response(body=orjson.dumps(payload), status=status, content_type="application/json")


def _error(error: CoeError) -> web.Response:
    """With the status and the time to come back that the error names."""
    status = 400 if isinstance(error, RequestError) else 500
    if isinstance(error, UpstreamError):
        status = error.status or status
    answer = _json({"error": {"message": str(error), "code": status}}, status)
    wait_s = retry_after_of(error)
    if wait_s is not None:
        answer.headers["Retry-After"] = f"{wait_s:g}"
    return answer
