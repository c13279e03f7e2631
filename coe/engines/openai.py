"""Experts behind any OpenAI-compatible endpoint: vLLM, a hosted provider, another CoE."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import aiohttp
import orjson

from coe.engines.base import EngineState
from coe.engines.completion_stream import CompletionReader, error_message, refusal
from coe.engines.endpoint import Endpoint, Sleep, problem_of
from coe.engines.raw_answer import RAW_ROUTES, raw_deltas
from coe.engines.sse import EventTooLong, SSEParser
from coe.engines.starting import SelfStarting
from coe.engines.upstream_busy import UpstreamBusy, busy_until
from coe.errors import (
    CoeError,
    ConfigError,
    ContextOverflow,
    StartupError,
    UpstreamError,
    UpstreamTimeout,
)
from coe.experts import Expert, OpenAISpec
from coe.types import Delta, GenerationRequest, RawRequest

SessionFactory = Callable[[OpenAISpec], aiohttp.ClientSession]

_DRAIN_S = 0.5
_MAX_ERROR_BYTES = 64 * 1024


def open_session(spec: OpenAISpec) -> aiohttp.ClientSession:
    """A session that never waits for a free connection: admission is decided elsewhere."""
    timeout = aiohttp.ClientTimeout(
        # `connect` bounds the look-up of the name too, which `sock_connect` does not.
        total=None,
        connect=spec.connect_timeout_s,
        sock_connect=spec.connect_timeout_s,
        sock_read=spec.timeout_s,
    )
    return aiohttp.ClientSession(
        timeout=timeout,
        connector=aiohttp.TCPConnector(limit=0),
        cookie_jar=aiohttp.DummyCookieJar(),
    )


class OpenAIEngine(SelfStarting):
    """Streams from `{base_url}/chat/completions`, and meets `PassesBytes`.

    A server that reports no usage leaves the last delta's `usage` None: counting its chunks
    would pass a guess off as a count. A stream does not wait for the server to come up, it
    fails if the server is not there; `ensure_ready` waits as long as `Endpoint.wait` has patience.
    """

    def __init__(
        self,
        expert: Expert,
        session_factory: SessionFactory = open_session,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        if not isinstance(expert.engine, OpenAISpec):
            raise ConfigError(f"expert {expert.id!r} is not of kind 'openai'")
        super().__init__(expert)
        self._spec = expert.engine
        self._endpoint = Endpoint(expert.id, self._spec)
        self._session_factory = session_factory
        self._sleep = sleep
        self._session: aiohttp.ClientSession | None = None

    @property
    def raw_routes(self) -> frozenset[str]:
        return RAW_ROUTES

    async def stop(self, timeout_s: float) -> None:
        """Closes the connections; streams under way end with an `UpstreamError`."""
        # First, so that whoever starts anew while this waits does not get a session that closes.
        session, self._session = self._session, None
        await super().stop(timeout_s)
        if session is not None:
            await session.close()

    async def stream(self, request: GenerationRequest) -> AsyncIterator[Delta]:
        """A raw request is posted as it is, and its answer handed on as it comes."""
        body = self._body(request) if request.raw is None else self._raw_body(request.raw)
        raw, timeout_s = request.raw, self._spec.timeout_s
        read = self._deltas if raw is None else raw_deltas(self.expert_id, raw, timeout_s)
        # One session from first to last: a stream that `stop` ends must not open another.
        session = self._opened()
        async with (
            self._translated_errors(session),
            self._open_answer(session, request, body) as response,
        ):
            async for delta in read(response.content):
                yield delta
            await _drain(response)

    async def _deltas(self, content: aiohttp.StreamReader) -> AsyncIterator[Delta]:
        reader = CompletionReader(self.expert_id)
        parser = SSEParser()
        async for chunk in content.iter_any():
            for event in parser.feed(chunk):
                for delta in reader.read(event):
                    yield delta
            if reader.is_done:
                break
        yield reader.end()

    @asynccontextmanager
    async def _open_answer(
        self,
        session: aiohttp.ClientSession,
        request: GenerationRequest,
        body: dict[str, object],
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """The server's accepted answer; closing its connection is what cancels the work."""
        response = await self._posted(session, request, body)
        try:
            error = await self._refusal(response)
            is_our_limit = request.raw is None and request.params.max_tokens is None
            if isinstance(error, ContextOverflow) and is_our_limit:
                # The expert's own limit did not fit after this prompt; what is left does.
                response.close()
                del body["max_tokens"]
                response = await self._posted(session, request, body)
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
        status, body = response.status, self._without_key(await _error_body(response))
        wait_s = busy_until(status, response.headers)
        if wait_s is not None:
            words = f"answered with status {status}: {error_message(body)}"
            return UpstreamBusy(self.expert_id, words, status, wait_s)
        return refusal(self._expert, status, body)

    async def _posted(
        self, session: aiohttp.ClientSession, request: GenerationRequest, body: dict[str, object]
    ) -> aiohttp.ClientResponse:
        """The head of its answer, all of it in time: one that drips would never be silent."""
        async with asyncio.timeout(self._spec.connect_timeout_s + self._spec.timeout_s):
            return await self._post(session, request, body)

    async def _post(
        self, session: aiohttp.ClientSession, request: GenerationRequest, body: dict[str, object]
    ) -> aiohttp.ClientResponse:
        route = "chat/completions" if request.raw is None else request.raw.route
        return await session.post(
            f"{self._endpoint.base_url}/{route}",
            data=orjson.dumps(body),
            headers={
                **dict(request.trace),
                "Content-Type": "application/json",
                **self._authorization(),
            },
            # A redirect would carry the key to a place the configuration does not name.
            allow_redirects=False,
        )

    @asynccontextmanager
    async def _translated_errors(self, session: aiohttp.ClientSession) -> AsyncIterator[None]:
        """Turns what aiohttp and the parser raise into what an engine may raise."""
        url = self._endpoint.shown_url
        try:
            yield
        except aiohttp.ConnectionTimeoutError:
            self._settle(session, EngineState.FAILED)
            raise UpstreamTimeout(
                self.expert_id, self._spec.connect_timeout_s, "connection to its server"
            ) from None
        except TimeoutError:
            raise UpstreamTimeout(self.expert_id, self._spec.timeout_s) from None
        except EventTooLong as error:
            raise UpstreamError(self.expert_id, f"{url} sent too much: {error}") from None
        except aiohttp.ClientConnectorError as error:
            # So that the next `ensure_ready` looks again whether the server is there.
            self._settle(session, EngineState.FAILED)
            raise UpstreamError(
                self.expert_id,
                f"cannot reach {url}: {problem_of(error)}; start that server, or correct base_url",
            ) from None
        except RuntimeError:
            # What aiohttp raises to a reader whose session was closed.
            if not session.closed:
                raise
            raise UpstreamError(self.expert_id, "was stopped while it answered") from None
        except aiohttp.InvalidURL as error:
            raise UpstreamError(
                self.expert_id, f"{url} cannot be used: {problem_of(error)}; correct base_url"
            ) from None
        except (aiohttp.ClientError, OSError) as error:
            self._settle(session, EngineState.FAILED)
            # aiohttp tells of a body without its end in terms of transfer encodings.
            is_body_cut = isinstance(error, aiohttp.ClientPayloadError)
            detail = "" if is_body_cut else f" ({problem_of(error)})"
            raise UpstreamError(
                self.expert_id,
                f"its server at {url} cut the connection before the answer was whole{detail}; "
                "see whether that server still runs and what its log says, then ask again",
            ) from None

    @property
    def _model(self) -> str:
        return self._spec.model or self._expert.id

    def _raw_body(self, raw: RawRequest) -> dict[str, object]:
        return {**raw.fields, "model": self._model}

    def _body(self, request: GenerationRequest) -> dict[str, object]:
        params = request.params
        body: dict[str, object] = {
            "model": self._model,
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

    def _without_key(self, body: bytes) -> bytes:
        """Some servers repeat a key that they refuse, and their words are logged or told on."""
        key = os.environ.get(self._spec.api_key_env or "", "")
        return body.replace(key.encode(), b"[the API key]") if key else body

    async def _start(self) -> None:
        headers = self._authorization()
        session = self._opened()
        await self._endpoint.wait(session, headers, self._sleep, self._lifecycle.meet)


async def _error_body(response: aiohttp.ClientResponse) -> bytes:
    return await response.content.read(_MAX_ERROR_BYTES)


async def _drain(response: aiohttp.ClientResponse) -> None:
    """Reads past the end of the answer, so that the connection can serve the next one."""
    if response.content.at_eof():
        return
    try:
        async with asyncio.timeout(_DRAIN_S):
            while await response.content.readany():
                pass
    except (TimeoutError, aiohttp.ClientError):
        # The answer was whole; a server that does not end its stream costs a connection.
        return
