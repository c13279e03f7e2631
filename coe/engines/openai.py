"""Experts behind any OpenAI-compatible endpoint: vLLM, a hosted provider, another CoE."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Sequence

import aiohttp
import orjson

from coe.engines.base import EngineState, listed
from coe.engines.chat_fields import api_key, chat_fields
from coe.engines.completion_stream import CompletionReader, error_message, refusal
from coe.engines.endpoint import Endpoint, Sleep, problem_of
from coe.engines.raw_answer import RAW_ROUTES, raw_stream, whole_answer
from coe.engines.sse import EventTooLong, SSEParser
from coe.engines.starting import SelfStarting
from coe.engines.upstream_busy import UpstreamBusy, busy_until
from coe.errors import (
    CoeError,
    ConfigError,
    ContextOverflow,
    UpstreamError,
    UpstreamTimeout,
)
from coe.experts import Expert, OpenAISpec
from coe.types import Delta, GenerationRequest, RawRequest

SessionFactory = Callable[[OpenAISpec], aiohttp.ClientSession]

_DRAIN_S = 0.5
_MAX_ERROR_BYTES = 64 * 1024
_TROUBLES = (TimeoutError, EventTooLong, RuntimeError, aiohttp.ClientError, OSError)


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
        if request.raw is not None and not request.raw.is_streamed:
            for delta in await self.whole(request):
                yield delta
            return
        # One session from first to last: a stream that `stop` ends must not open another.
        session = self._opened()
        read = self._deltas if request.raw is None else self._passed
        try:
            async with self._head_in_time():
                response = await self._answer(session, request)
            try:
                self._settle(session, EngineState.READY)
                async for delta in read(response.content):
                    yield delta
                await _drain(response)
            finally:
                response.close()  # which is what cancels the work
        except _TROUBLES as error:
            raise self._translated(error, session) from None

    async def whole(self, request: GenerationRequest) -> Sequence[Delta]:
        """An answer that is not streamed comes when it is whole, so that one that is not can still
        be asked for elsewhere; and in time, however often a byte of it comes.
        """
        if request.raw is None or request.raw.is_streamed:
            return await listed(self.stream(request))
        session = self._opened()
        try:
            async with self._head_in_time() as limit:
                response = await self._answer(session, request)
                limit.reschedule(asyncio.get_running_loop().time() + self._spec.timeout_s)
                try:
                    self._settle(session, EngineState.READY)
                    return await whole_answer(self.expert_id, response.content)
                finally:
                    response.close()
        except _TROUBLES as error:
            raise self._translated(error, session) from None

    def _head_in_time(self) -> asyncio.Timeout:
        """For the head of an answer, all of it: one that drips would never be silent."""
        return asyncio.timeout(self._spec.connect_timeout_s + self._spec.timeout_s)

    def _passed(self, content: aiohttp.StreamReader) -> AsyncIterator[Delta]:
        return raw_stream(self.expert_id, content)

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

    async def _answer(
        self, session: aiohttp.ClientSession, request: GenerationRequest
    ) -> aiohttp.ClientResponse:
        """The server's accepted answer. Raises what it says in place of one."""
        body = self._body(request) if request.raw is None else self._raw_body(request.raw)
        try:
            return await self._accepted(session, request, body)
        except ContextOverflow:
            if request.raw is not None or request.params.max_tokens is not None:
                raise
        # The expert's own limit did not fit after this prompt; what is left does.
        del body["max_tokens"]
        return await self._accepted(session, request, body)

    async def _accepted(
        self, session: aiohttp.ClientSession, request: GenerationRequest, body: dict[str, object]
    ) -> aiohttp.ClientResponse:
        response = await self._post(session, request, body)
        if response.status == 200:
            return response
        try:
            raise await self._refusal(response)
        finally:
            response.close()

    async def _refusal(self, response: aiohttp.ClientResponse) -> CoeError:
        status, body = response.status, self._without_key(await _error_body(response))
        wait_s = busy_until(status, response.headers)
        if wait_s is not None:
            words = f"answered with status {status}: {error_message(body)}"
            return UpstreamBusy(self.expert_id, words, status, wait_s)
        return refusal(self._expert, status, body)

    async def _post(
        self, session: aiohttp.ClientSession, request: GenerationRequest, body: dict[str, object]
    ) -> aiohttp.ClientResponse:
        route = "chat/completions" if request.raw is None else request.raw.route
        headers = {**dict(request.trace), "Content-Type": "application/json"}
        return await session.post(
            f"{self._endpoint.base_url}/{route}",
            data=orjson.dumps(body),
            headers={**headers, **self._authorization()},
            # A redirect would carry the key to a place the configuration does not name.
            allow_redirects=False,
        )

    def _translated(self, error: Exception, session: aiohttp.ClientSession) -> Exception:
        """What aiohttp and the parser raise, as what an engine may raise."""
        url = self._endpoint.shown_url
        if isinstance(error, EventTooLong):
            return UpstreamError(self.expert_id, f"{url} sent too much: {error}")
        if isinstance(error, aiohttp.ConnectionTimeoutError):
            self._settle(session, EngineState.FAILED)
            connect_s = self._spec.connect_timeout_s
            return UpstreamTimeout(self.expert_id, connect_s, "connection to its server")
        if isinstance(error, TimeoutError):
            return UpstreamTimeout(self.expert_id, self._spec.timeout_s)
        if isinstance(error, RuntimeError):
            # What aiohttp raises to a reader whose session was closed.
            if not session.closed:
                return error
            return UpstreamError(self.expert_id, "was stopped while it answered")
        if isinstance(error, aiohttp.InvalidURL):
            problem = f"{url} cannot be used: {problem_of(error)}; correct base_url"
            return UpstreamError(self.expert_id, problem)
        # So that the next `ensure_ready` looks again whether the server is there.
        self._settle(session, EngineState.FAILED)
        return UpstreamError(self.expert_id, _broken(error, url))

    @property
    def _model(self) -> str:
        return self._spec.model or self._expert.id

    def _raw_body(self, raw: RawRequest) -> dict[str, object]:
        return {**raw.fields, "model": self._model}

    def _body(self, request: GenerationRequest) -> dict[str, object]:
        return {"model": self._model, **chat_fields(self._expert, request)}

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None or self._session.closed:
            self._session = self._session_factory(self._spec)
        return self._session

    def _settle(self, session: aiohttp.ClientSession, state: EngineState) -> None:
        # A stream that `stop` overtook no longer speaks for the engine.
        if session is self._session:
            self._lifecycle.state = state

    def _authorization(self) -> dict[str, str]:
        key = api_key(self.expert_id, self._spec.api_key_env)
        return {} if key is None else {"Authorization": f"Bearer {key}"}

    def _without_key(self, body: bytes) -> bytes:
        """Some servers repeat a key that they refuse, and their words are logged or told on."""
        key = os.environ.get(self._spec.api_key_env or "", "")
        return body.replace(key.encode(), b"[the API key]") if key else body

    async def _start(self) -> None:
        headers = self._authorization()
        session = self._opened()
        await self._endpoint.wait(session, headers, self._sleep, self._lifecycle.meet)


def _broken(error: Exception, url: str) -> str:
    if isinstance(error, aiohttp.ClientConnectorError):
        problem = problem_of(error)
        return f"cannot reach {url}: {problem}; start that server, or correct base_url"
    # aiohttp tells of a body without its end in terms of transfer encodings.
    is_body_cut = isinstance(error, aiohttp.ClientPayloadError)
    detail = "" if is_body_cut else f" ({problem_of(error)})"
    return (
        f"its server at {url} cut the connection before the answer was whole{detail}; "
        "see whether that server still runs and what its log says, then ask again"
    )


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
