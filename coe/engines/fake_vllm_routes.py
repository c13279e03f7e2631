"""The HTTP face of a fake vLLM: the routes, bodies and metric names of the real one."""

from __future__ import annotations

import base64
import io
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import orjson
from aiohttp import web

from coe.engines.base import EngineState, collect
from coe.engines.fake_device import OutOfDeviceMemory
from coe.engines.fake_faults import Fault
from coe.engines.fake_openai import FakeOpenAI
from coe.engines.fake_vllm_core import FakeVllm
from coe.engines.vllm_memory import DEVICE_METRIC
from coe.errors import CoeError, RequestError, UpstreamError
from coe.types import Delta, GenerationRequest, Message, SamplingParams

VERSION = "0.33.0+fake"
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class FakeRoutes:
    """Which of them there are depends on how the server was started, as with the real one."""

    def __init__(
        self,
        core: FakeVllm,
        *,
        can_sleep: bool,
        has_adapters: bool,
        tells_experts: bool = False,
    ) -> None:
        """`tells_experts`: which sparse experts fired, in answers that are not streamed."""
        self._core = core
        self._tells_experts = tells_experts
        self._can_sleep = can_sleep
        self._has_adapters = has_adapters
        self._durations_s: dict[str, tuple[int, float]] = {}

    def app(self) -> web.Application:
        app = web.Application(middlewares=[_failures])
        get, post = app.router.add_get, app.router.add_post
        get("/health", self.health)
        get("/version", self.version)
        get("/metrics", self.metrics)
        get("/v1/models", self.models)
        post("/v1/chat/completions", self.chat)
        post("/v1/completions", self.completions)
        post("/fake/faults", self.faults)
        if self._can_sleep:
            post("/sleep", self.sleep)
            post("/wake_up", self.wake_up)
            get("/is_sleeping", self.is_sleeping)
            post("/collective_rpc", self.collective_rpc)
            post("/reset_prefix_cache", self.reset_prefix_cache)
            post("/pause", self.pause)
            post("/resume", self.resume)
            get("/is_paused", self.is_paused)
        if self._has_adapters:
            post("/v1/load_lora_adapter", self.load_adapter)
            post("/v1/unload_lora_adapter", self.unload_adapter)
        return app

    async def health(self, _: web.Request) -> web.Response:
        await self._core.health()
        return web.Response()

    async def version(self, _: web.Request) -> web.Response:
        return _json({"version": VERSION})

    async def models(self, _: web.Request) -> web.Response:
        names = [self._core.expert.id, *self._core.adapters]
        return _json({"object": "list", "data": [{"id": name} for name in names]})

    async def chat(self, request: web.Request) -> web.StreamResponse:
        body: dict[str, Any] = orjson.loads(await request.read())
        if self._core.faults.take(Fault.OVERLOAD):
            return _error("too many requests are queued", 503)
        name = body.get("model")
        if name != self._core.expert.id and name not in self._core.adapters:
            return _error(f"The model `{name}` does not exist.", 404)
        adapter = name if name in self._core.adapters else ""
        answer = await FakeOpenAI(_Named(self._core, adapter)).chat(request)
        if self._tells_experts and isinstance(answer, web.Response) and answer.status == 200:
            return _with_experts(answer)
        return answer

    async def completions(self, request: web.Request) -> web.Response:
        body: dict[str, Any] = orjson.loads(await request.read())
        params = SamplingParams(max_tokens=body.get("max_tokens", 16))
        asked = GenerationRequest((Message("user", body["prompt"]),), params)
        completion = await collect(self._core.expert.id, self._core.stream(asked))
        choice = {"index": 0, "text": completion.text, "finish_reason": completion.finish_reason}
        return _json({"object": "text_completion", "choices": [choice]})

    async def sleep(self, request: web.Request) -> web.Response:
        level = int(request.query.get("level", "1"))
        mode = request.query.get("mode", "abort")
        await self._timed("sleep", self._core.sleep(level, mode))
        return _json({"status": "sleeping", "level": level})

    async def wake_up(self, request: web.Request) -> web.Response:
        tags = request.query.getall("tags", [])
        is_awake = await self._timed("wake", self._core.wake_up(tags))
        return _json({"status": "awake" if is_awake else "sleeping", "tags": tags or None})

    async def is_sleeping(self, _: web.Request) -> web.Response:
        return _json({"is_sleeping": self._core.is_sleeping})

    async def collective_rpc(self, request: web.Request) -> web.Response:
        method = orjson.loads(await request.read()).get("method")
        if method != "reload_weights":
            return _error(f"no method {method!r}", 400)
        await self._core.reload_weights()
        return _json({"results": [None]})

    async def reset_prefix_cache(self, _: web.Request) -> web.Response:
        return _json({"success": self._core.reset_prefix_cache()})

    async def pause(self, _: web.Request) -> web.Response:
        self._core.hold_back(True)
        return _json({"status": "paused"})

    async def resume(self, _: web.Request) -> web.Response:
        self._core.hold_back(False)
        return _json({"status": "resumed"})

    async def is_paused(self, _: web.Request) -> web.Response:
        return _json({"is_paused": self._core.is_paused})

    async def load_adapter(self, request: web.Request) -> web.Response:
        body = orjson.loads(await request.read())
        name, path = body["lora_name"], body["lora_path"]
        if name in self._core.adapters and not body.get("load_inplace"):
            return _error(f"The lora adapter '{name}' has already been loaded.", 400)
        if not Path(path).is_dir():
            return _error(f"Loading lora {name} failed: No adapter found for {path}", 404)
        self._core.adapters[name] = path
        return web.Response(text=f"Success: LoRA adapter '{name}' added successfully.")

    async def unload_adapter(self, request: web.Request) -> web.Response:
        name = orjson.loads(await request.read())["lora_name"]
        if self._core.adapters.pop(name, None) is None:
            return _error(f"The lora adapter '{name}' cannot be found.", 404)
        return web.Response(text=f"Success: LoRA adapter '{name}' removed successfully.")

    async def faults(self, request: web.Request) -> web.Response:
        """The fake's own: `{"fault": name, "times": n}` from now on."""
        body = orjson.loads(await request.read())
        self._core.faults.set(Fault(body["fault"]), body.get("times", 1))
        return _json({})

    async def metrics(self, _: web.Request) -> web.Response:
        core = self._core
        model = f'model_name="{core.expert.id}"'
        states = {
            "awake": core.level is None,
            "weights_offloaded": core.level == 1,
            "discard_all": core.level == 2,
        }
        lines = [
            f"vllm:num_requests_running{{{model}}} {core.n_running}",
            f"vllm:num_requests_waiting{{{model}}} 0",
            f"vllm:kv_cache_usage_perc{{{model}}} {min(1.0, core.n_running / 256)}",
            f"vllm:prefix_cache_hits_total{{{model}}} {core.n_prefix_hits}",
            f"vllm:num_preemptions_total{{{model}}} 0",
            f"vllm:request_success_total{{{model}}} {core.n_answered}",
            f"{DEVICE_METRIC}{{{model}}} {core.device_gib}",
        ]
        for state, is_in_it in states.items():
            labels = f'{model},sleep_state="{state}"'
            lines.append(f"vllm:engine_sleep_state{{{labels}}} {int(is_in_it)}")
        for operation, (count, total_s) in self._durations_s.items():
            name = "vllm:sleep_mode_operation_duration_seconds"
            lines.append(f'{name}_count{{operation="{operation}"}} {count}')
            lines.append(f'{name}_sum{{operation="{operation}"}} {total_s}')
        return web.Response(text="\n".join(lines) + "\n")

    async def _timed(self, operation: str, work: Awaitable[Any]) -> Any:
        started = time.perf_counter()
        try:
            return await work
        finally:
            count, total_s = self._durations_s.get(operation, (0, 0.0))
            self._durations_s[operation] = (count + 1, total_s + time.perf_counter() - started)


class _Named:
    """The core under one of its names, as the engine that a fake OpenAI server serves."""

    def __init__(self, core: FakeVllm, adapter: str) -> None:
        self._core = core
        self._adapter = adapter

    @property
    def expert_id(self) -> str:
        return self._core.expert.id

    @property
    def state(self) -> EngineState:
        return EngineState.READY

    async def ensure_ready(self, timeout_s: float) -> None:
        """It was loaded before the first request came."""

    def stream(self, request: GenerationRequest) -> AsyncIterator[Delta]:
        return self._core.stream(request, self._adapter)

    async def stop(self, timeout_s: float) -> None:
        """The process ends by a signal."""


@web.middleware
async def _failures(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except OutOfDeviceMemory as error:
        return _error(str(error), 500)
    except RequestError as error:
        return _error(str(error), 400)
    except UpstreamError as error:
        return _error(str(error), error.status or 500)
    except CoeError as error:
        return _error(str(error), 500)


def _with_experts(answer: web.Response) -> web.Response:
    """Pretends that every token went to experts 0 and 1 of two layers."""
    import numpy as np  # The fake starts quicker without it.

    assert isinstance(answer.body, bytes)
    whole = orjson.loads(answer.body)
    n_tokens = whole["usage"]["completion_tokens"]
    buffer = io.BytesIO()
    np.save(buffer, np.tile(np.array([0, 1], dtype=np.int16), (n_tokens, 2, 1)))
    whole["choices"][0]["routed_experts"] = base64.b64encode(buffer.getvalue()).decode()
    return _json(whole)


def _json(payload: dict[str, Any], status: int = 200) -> web.Response:
    return web.Response(body=orjson.dumps(payload), status=status, content_type="application/json")


def _error(message: str, status: int) -> web.Response:
    return _json({"error": {"message": message, "type": "error", "code": status}}, status)
