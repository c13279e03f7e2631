"""Experts behind any OpenAI-compatible endpoint: vLLM, a hosted provider, another CoE."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import aiohttp
import orjson

from coe.engines.base import EngineState
from coe.engines.completion_stream import CompletionReader, refusal
from coe.engines.sse import EventTooLong, SSEParser
from coe.engines.starting import Lifecycle
from coe.errors import (
    CoeError,
    ConfigError,
    ContextOverflow,
    StartupError,
    UpstreamError,
    UpstreamTimeout,
)
from coe.experts import Expert, OpenAISpec
from coe.types import Delta, GenerationRequest

SessionFactory = Callable[[OpenAISpec], aiohttp.ClientSession]
Sleep = Callable[[float], Awaitable[None]]

_FIRST_POLL_S = 0.1
_LONGEST_POLL_S = 2.0
_DRAIN_S = 0.5
_MAX_ERROR_BYTES = 64 * 1024
_USERINFO = re.compile(r"(?<=://)[^/]*@")


def open_session(spec: OpenAISpec) -> aiohttp.ClientSession:
    """A session that never waits for a free connection: admission is decided elsewhere."""
    timeout = aiohttp.ClientTimeout(
        total=None, sock_connect=spec.connect_timeout_s, sock_read=spec.timeout_s
    )
    return aiohttp.ClientSession(
        timeout=timeout,
        connector=aiohttp.TCPConnector(limit=0),
        cookie_jar=aiohttp.DummyCookieJar(),
    )


class OpenAIEngine:
    """Streams from `{base_url}/chat/completions`.

    A server that reports no usage leaves the last delta's `usage` None: counting its chunks
    would pass a guess off as a count. A stream does not wait for the server to come up, it
    fails if the server is not there; `ensure_ready` waits.
    """

    def __init__(
        self,
        expert: Expert,
        session_factory: SessionFactory = open_session,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        if not isinstance(expert.engine, OpenAISpec):
            raise ConfigError(f"expert {expert.id!r} is not of kind 'openai'")
        self._expert = expert
        self._spec = expert.engine
        self._base_url = expert.engine.base_url.rstrip("/")
        self._shown_url = _without_userinfo(self._base_url)
        self._session_factory = session_factory
        self._sleep = sleep
        self._session: aiohttp.ClientSession | None = None
        self._lifecycle = Lifecycle(expert.id, self._await_server)

    @property
    def expert_id(self) -> str:
        return self._expert.id

    @property
    def state(self) -> EngineState:
        return self._lifecycle.state

    async def ensure_ready(self, timeout_s: float) -> None:
        """Polls `{base_url}/models` until the server answers."""
        await self._lifecycle.ensure(timeout_s)

    async def stop(self, timeout_s: float) -> None:
        """Closes the connections; streams under way end with an `UpstreamError`."""
        # First, so that whoever starts anew while this waits does not get a session that closes.
        session, self._session = self._session, None
        await self._lifecycle.end()
        if session is not None:
            await session.close()

    async def stream(self, request: GenerationRequest) -> AsyncIterator[Delta]:
        body = self._body(request)
        reader = CompletionReader(self.expert_id)
        parser = SSEParser()
        # One session from first to last: a stream that `stop` ends must not open another.
        session = self._opened()
        async with (
            self._translated_errors(session),
            self._open_answer(session, request, body) as response,
        ):
            async for chunk in response.content.iter_any():
                for event in parser.feed(chunk):
                    for delta in reader.read(event):
                        yield delta
                if reader.is_done:
                    break
            yield reader.end()
            await _drain(response)

    @asynccontextmanager
    async def _open_answer(
        self,
        session: aiohttp.ClientSession,
        request: GenerationRequest,
        body: dict[str, object],
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """The server's accepted answer; closing its connection is what cancels the work."""
        response = await self._post(session, body)
        try:
            error = await self._refusal(response)
            if isinstance(error, ContextOverflow) and request.params.max_tokens is None:
                # The expert's own limit did not fit after this prompt; what is left does.
                response.close()
                del body["max_tokens"]
                response = await self._post(session, body)
                error = await self._refusal(response)
            if error is not None:
                raise error
            self._settle(session, EngineState.READY)
            yield response
        finally:
            response.close()

    async def _refusal(self, response: aiohttp.ClientResponse) -> CoeError | None:
        if response.status == 200:
            return None
        return refusal(self._expert, response.status, await _error_body(response))

    async def _post(
        self, session: aiohttp.ClientSession, body: dict[str, object]
    ) -> aiohttp.ClientResponse:
        return await session.post(
            f"{self._base_url}/chat/completions",
            data=orjson.dumps(body),
            headers={"Content-Type": "application/json", **self._authorization()},
            # A redirect would carry the key to a place the configuration does not name.
            allow_redirects=False,
        )

    @asynccontextmanager
    async def _translated_errors(self, session: aiohttp.ClientSession) -> AsyncIterator[None]:
        """Turns what aiohttp and the parser raise into what an engine may raise."""
        try:
            yield
        except aiohttp.ConnectionTimeoutError:
            raise UpstreamTimeout(self.expert_id, self._spec.connect_timeout_s) from None
        except TimeoutError:
            raise UpstreamTimeout(self.expert_id, self._spec.timeout_s) from None
        except EventTooLong as error:
            raise UpstreamError(
                self.expert_id, f"{self._shown_url} sent too much: {error}"
            ) from None
        except aiohttp.ClientConnectorError as error:
            # So that the next `ensure_ready` looks again whether the server is there.
            self._settle(session, EngineState.FAILED)
            raise UpstreamError(
                self.expert_id, f"cannot reach {self._shown_url}: {error.strerror or error}"
            ) from None
        except RuntimeError:
            # What aiohttp raises to a reader whose session was closed.
            if not session.closed:
                raise
            raise UpstreamError(self.expert_id, "was stopped while it answered") from None
        except (aiohttp.ClientError, OSError) as error:
            problem = _without_userinfo(str(error)) or type(error).__name__
            raise UpstreamError(
                self.expert_id, f"the connection to {self._shown_url} broke: {problem}"
            ) from None

    def _body(self, request: GenerationRequest) -> dict[str, object]:
        params = request.params
        body: dict[str, object] = {
            "model": self._spec.model or self._expert.id,
            "messages": [{"role": m.role, "content": m.content} for m in request.messages],
            "max_tokens": params.max_tokens or self._expert.max_tokens,
            "temperature": params.temperature,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if params.top_p != 1.0:
            body["top_p"] = params.top_p
        if params.seed is not None:
            body["seed"] = params.seed
        if params.stop:
            body["stop"] = list(params.stop)
        return body

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None or self._session.closed:
            self._session = self._session_factory(self._spec)
        return self._session

    def _settle(self, session: aiohttp.ClientSession, state: EngineState) -> None:
        # A stream that `stop` overtook no longer speaks for the engine.
        if session is self._session:
            self._lifecycle.state = state

    def _authorization(self) -> dict[str, str]:
        name = self._spec.api_key_env
        if name is None:
            return {}
        key = os.environ.get(name)
        if not key:
            raise StartupError(
                self.expert_id, f"the environment variable {name} with its API key is not set"
            )
        return {"Authorization": f"Bearer {key}"}

    async def _await_server(self) -> None:
        headers = self._authorization()
        session = self._opened()
        pause_s = _FIRST_POLL_S
        while not await self._is_answering(session, headers):
            await self._sleep(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_POLL_S)

    async def _is_answering(self, session: aiohttp.ClientSession, headers: dict[str, str]) -> bool:
        """Whether the server is up. Raises `StartupError` where waiting cannot help."""
        try:
            async with session.get(
                f"{self._base_url}/models", headers=headers, allow_redirects=False
            ) as response:
                status = response.status
        except (aiohttp.ClientError, OSError):
            return False
        if status in (401, 403):
            raise StartupError(
                self.expert_id,
                f"{self._shown_url} refuses the API key (status {status}); "
                + (
                    f"check {self._spec.api_key_env}"
                    if headers
                    else "name its variable in api_key_env"
                ),
            )
        # Not every server lists its models; one that says so is up all the same.
        return status < 500


def _without_userinfo(text: str) -> str:
    """The text with `user:password@` taken out of its addresses."""
    return _USERINFO.sub("", text)


async def _error_body(response: aiohttp.ClientResponse) -> bytes:
    return await response.content.read(_MAX_ERROR_BYTES)


async def _drain(response: aiohttp.ClientResponse) -> None:
    """Reads past the end of the answer, so that the connection can serve the next one."""
    try:
        async with asyncio.timeout(_DRAIN_S):
            while await response.content.readany():
                pass
    except (TimeoutError, aiohttp.ClientError):
        # The answer was whole; a server that does not end its stream costs a connection.
        return
