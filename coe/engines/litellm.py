"""Experts behind any hosted provider, by way of litellm.

litellm is imported when such an expert is first asked, in a thread, for it takes seconds. Retries
are not its business here: `retrying` wraps this engine as it does any other.
"""

from __future__ import annotations

import asyncio
import importlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import orjson

from coe.engines.chat_fields import api_key, chat_fields
from coe.engines.completion_stream import CompletionReader
from coe.engines.litellm_errors import failure_of
from coe.engines.sse import ServerSentEvent
from coe.engines.starting import SelfStarting
from coe.errors import ConfigError, StartupError, UpstreamError, UpstreamTimeout, install_hint
from coe.experts import Expert, LitellmSpec
from coe.types import Delta, GenerationRequest

Acompletion = Callable[..., Awaitable[Any]]
"""`litellm.acompletion`: with `stream=True` it gives chunks that have `model_dump`."""

INFECTED_VERSIONS = frozenset({"1.82.7", "1.82.8"})
"""Releases that were uploaded by an intruder and steal credentials when they are imported."""

_OURS = frozenset(
    {"api_key", "max_retries", "max_tokens", "messages", "model", "n", "num_retries", "seed"}
    | {"stop", "stream", "stream_options", "temperature", "timeout", "top_p"}
)


class LitellmEngine(SelfStarting):
    """Streams from `litellm.acompletion`.

    Nothing is asked before the first request: `ensure_ready` checks the installation and the key.
    Where a provider reports no usage, litellm's own estimate is what the last delta carries.
    """

    def __init__(
        self,
        expert: Expert,
        acompletion: Acompletion | None = None,
        startup_timeout_s: float | None = None,
    ) -> None:
        """`acompletion` None: litellm's own. `startup_timeout_s` bounds how long a stream waits
        for its import; None is for ever.
        """
        spec = expert.engine
        if not isinstance(spec, LitellmSpec):
            raise ConfigError(f"expert {expert.id!r} is not of kind 'litellm'")
        super().__init__(expert)
        self._spec = spec
        taken = sorted(_OURS & spec.params.keys())
        if taken:
            raise ConfigError(
                f"expert {expert.id!r}: params cannot hold {taken[0]!r}, which comes from the "
                "request or from the expert's other keys; leave it out"
            )
        self._acompletion = acompletion
        self._startup_timeout_s = startup_timeout_s

    async def stream(self, request: GenerationRequest) -> AsyncIterator[Delta]:
        await self._lifecycle.ensure(self._startup_timeout_s)
        reader = CompletionReader(self.expert_id)
        async with self._chunks(request) as chunks:
            while (chunk := await self._next(chunks)) is not None:
                event = ServerSentEvent(orjson.dumps(chunk.model_dump(exclude_none=True)))
                for delta in reader.read(event):
                    yield delta
            if _has_made_up_end(chunks):
                raise UpstreamError(
                    self.expert_id,
                    "its provider ended the answer without a finish reason; ask again",
                )
        yield reader.end()

    @asynccontextmanager
    async def _chunks(self, request: GenerationRequest) -> AsyncIterator[AsyncIterator[Any]]:
        """The accepted answer; closing it is what cancels the work."""
        acompletion = self._acompletion
        assert acompletion is not None  # loaded by `_start`, and kept
        arguments = self._arguments(request)
        async with self._translated_errors():
            chunks = await acompletion(**arguments)
        try:
            yield chunks
        finally:
            close = getattr(chunks, "aclose", None)
            if close is not None:
                await close()

    async def _next(self, chunks: AsyncIterator[Any]) -> Any | None:
        async with self._translated_errors():
            return await anext(chunks, None)

    @asynccontextmanager
    async def _translated_errors(self) -> AsyncIterator[None]:
        """Bounds the silence, and turns what litellm raises into what an engine may raise."""
        try:
            async with asyncio.timeout(self._spec.timeout_s):
                yield
        except TimeoutError:
            raise UpstreamTimeout(self.expert_id, self._spec.timeout_s) from None
        except Exception as error:  # noqa: BLE001 - it lets through what any provider's code raises
            key = os.environ.get(self._spec.api_key_env or "")
            raise failure_of(self._expert, error, self._spec.timeout_s, key) from None

    def _arguments(self, request: GenerationRequest) -> dict[str, object]:
        spec = self._spec
        arguments: dict[str, object] = {
            **spec.params,
            **chat_fields(self._expert, request),
            "model": spec.model,
            "timeout": spec.timeout_s,
            "num_retries": 0,
            "max_retries": 0,
        }
        if (key := self._key()) is not None:
            arguments["api_key"] = key
        return arguments

    def _key(self) -> str | None:
        return api_key(self.expert_id, self._spec.api_key_env)

    async def _start(self) -> None:
        self._key()
        if self._acompletion is None:
            self._acompletion = await asyncio.to_thread(load_acompletion, self.expert_id)


def _has_made_up_end(chunks: object) -> bool:
    """Whether the answer broke off: litellm ends it with a "stop" of its own all the same."""
    told = [
        getattr(chunks, name, "")
        for name in ("received_finish_reason", "intermittent_finish_reason")
    ]
    return told[0] is None and not told[1]


def load_acompletion(expert_id: str) -> Acompletion:
    """litellm's, made quiet. Raises `StartupError` where it is missing or not to be trusted."""
    try:
        refuse_infected(expert_id, version("litellm"))
        # Importing it would fetch a price list over the network, and read a `.env` file.
        os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
        os.environ.setdefault("LITELLM_MODE", "PRODUCTION")
        litellm: Any = importlib.import_module("litellm")
    except (PackageNotFoundError, ImportError) as error:
        raise StartupError(
            expert_id,
            f"experts of kind 'litellm' need litellm ({error}); {install_hint('litellm')}",
        ) from None
    litellm.suppress_debug_info = True  # or it prints advice to standard output on every failure
    acompletion: Acompletion = litellm.acompletion
    return acompletion


def refuse_infected(expert_id: str, installed: str) -> None:
    """Raises `StartupError` for releases that must not even be imported."""
    if installed in INFECTED_VERSIONS:
        raise StartupError(
            expert_id,
            f"litellm {installed} is installed, a release that steals credentials; uninstall it, "
            f"change every key that this machine holds, and then {install_hint('litellm')}",
        )
