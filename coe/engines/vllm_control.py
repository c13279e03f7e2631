"""What can be asked of a running vLLM server apart from completions, and how it answers.

Nothing is believed here that cannot be checked: `coe.engines.vllm_sleep` does the checking.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import aiohttp
import orjson

from coe.engines.endpoint import problem_of
from coe.errors import UpstreamError, UpstreamTimeout

_HEALTH_S = 5.0
_MAX_SHOWN = 300
_SAMPLE = re.compile(rb"^([a-zA-Z_:][\w:]*)(?:\{[^}]*\})?[ \t]+(\S+)", re.MULTILINE)


class Control(Protocol):
    """The controls of one server. Every method may raise `UpstreamError` or `UpstreamTimeout`."""

    async def is_healthy(self) -> bool:
        """Raises nothing."""
        ...

    async def sleep(self, level: int, timeout_s: float) -> None:
        """Requests under way are finished first. Returns once the server says that it sleeps."""
        ...

    async def wake_up(self, tags: Sequence[str], timeout_s: float) -> bool:
        """Whether the server says that it is wholly awake."""
        ...

    async def is_sleeping(self) -> bool: ...

    async def reload_weights(self, timeout_s: float) -> None:
        """Reads the weights anew, into memory that is already awake."""
        ...

    async def reset_prefix_cache(self) -> bool:
        """Whether the server says that it did."""
        ...

    async def generate(self, prompt: str, max_tokens: int, timeout_s: float) -> str:
        """The greedy continuation of a bare text."""
        ...

    async def metrics(self) -> Mapping[str, float]:
        """Every metric's name and value, summed over its labels. Empty if it has none."""
        ...

    async def load_adapter(self, name: str, path: str, timeout_s: float) -> None: ...

    async def unload_adapter(self, name: str, timeout_s: float) -> None: ...


class HttpControl:
    """The controls over HTTP."""

    def __init__(self, expert_id: str, session: aiohttp.ClientSession, url: str) -> None:
        """`url` without `/v1`. The session stays the caller's to close."""
        self._expert_id = expert_id
        self._session = session
        self._url = url

    async def is_healthy(self) -> bool:
        try:
            await self._ask("GET", "/health", _HEALTH_S)
        except (UpstreamError, UpstreamTimeout):
            return False
        return True

    async def is_up(self) -> bool:
        """Whether it is healthy and ours: a stranger may have taken a port before our server."""
        if not await self.is_healthy():
            return False
        try:
            models = (await self._ask("GET", "/v1/models", _HEALTH_S)).get("data")
        except (UpstreamError, UpstreamTimeout):
            return False
        names = [one.get("id") for one in models or () if isinstance(one, dict)]
        return self._expert_id in names

    async def sleep(self, level: int, timeout_s: float) -> None:
        await self._ask("POST", f"/sleep?level={level}&mode=wait", timeout_s)

    async def wake_up(self, tags: Sequence[str], timeout_s: float) -> bool:
        query = "&".join(f"tags={tag}" for tag in tags)
        answer = await self._ask("POST", f"/wake_up?{query}", timeout_s)
        return answer.get("status") == "awake"

    async def is_sleeping(self) -> bool:
        return (await self._ask("GET", "/is_sleeping", _HEALTH_S)).get("is_sleeping") is True

    async def reload_weights(self, timeout_s: float) -> None:
        await self._ask("POST", "/collective_rpc", timeout_s, {"method": "reload_weights"})

    async def reset_prefix_cache(self) -> bool:
        answer = await self._ask("POST", "/reset_prefix_cache", _HEALTH_S)
        # Builds before the answer had a body say nothing, and did it.
        return answer.get("success", True) is True

    async def generate(self, prompt: str, max_tokens: int, timeout_s: float) -> str:
        body = {
            "model": self._expert_id,
            "prompt": prompt,
            "max_tokens": max_tokens,
            "temperature": 0.0,
        }
        answer = await self._ask("POST", "/v1/completions", timeout_s, body)
        choices = answer.get("choices")
        if isinstance(choices, list) and choices and isinstance(choices[0], dict):
            text = choices[0].get("text")
            if isinstance(text, str):
                return text
        raise UpstreamError(self._expert_id, "its warm-up was answered with something else")

    async def chat(self, body: Mapping[str, object], timeout_s: float) -> dict[str, Any]:
        """A chat completion that is not streamed, as the server sends it."""
        return await self._ask("POST", "/v1/chat/completions", timeout_s, body)

    async def metrics(self) -> Mapping[str, float]:
        totals: dict[str, float] = {}
        for name, value in _SAMPLE.findall(await self._bytes("GET", "/metrics", _HEALTH_S, None)):
            key = name.decode()
            totals[key] = totals.get(key, 0.0) + float(value)
        return totals

    async def load_adapter(self, name: str, path: str, timeout_s: float) -> None:
        body = {"lora_name": name, "lora_path": path}
        await self._bytes("POST", "/v1/load_lora_adapter", timeout_s, body)

    async def unload_adapter(self, name: str, timeout_s: float) -> None:
        await self._bytes("POST", "/v1/unload_lora_adapter", timeout_s, {"lora_name": name})

    async def _ask(
        self, method: str, path: str, timeout_s: float, body: object = None
    ) -> dict[str, Any]:
        """The answer's object; an empty one if it has none."""
        raw = await self._bytes(method, path, timeout_s, body)
        try:
            answer = orjson.loads(raw)
        except orjson.JSONDecodeError:
            return {}
        return answer if isinstance(answer, dict) else {}

    async def _bytes(self, method: str, path: str, timeout_s: float, body: object) -> bytes:
        shown = path.partition("?")[0]
        try:
            async with (
                asyncio.timeout(timeout_s),
                self._session.request(
                    method,
                    self._url + path,
                    data=None if body is None else orjson.dumps(body),
                    headers={"Content-Type": "application/json"},
                    allow_redirects=False,
                ) as response,
            ):
                raw = await response.read()
        except TimeoutError:
            raise UpstreamTimeout(self._expert_id, timeout_s, f"answer to {shown}") from None
        except (aiohttp.ClientError, OSError) as error:
            raise UpstreamError(
                self._expert_id, f"its server did not answer {shown}: {problem_of(error)}"
            ) from None
        if response.status != 200:
            said = raw[:_MAX_SHOWN].decode("utf-8", "replace")
            raise UpstreamError(
                self._expert_id,
                f"its server answered {shown} with status {response.status}: {said}",
                response.status,
            )
        return raw
