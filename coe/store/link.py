"""The way to Redis: short waits, and none at all while it is away.

Nothing here fails a request. `ask` says that Redis is away, and the caller does what it can alone.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar, cast

from coe.errors import ConfigError, install_hint

if TYPE_CHECKING:
    from redis.asyncio import Redis
    from redis.commands.core import AsyncScript

_LOG = logging.getLogger(__name__)
_CONNECTIONS = 64

T = TypeVar("T")


class RedisAway(Exception):
    """Redis did not answer in time, or lately did not."""


class RedisLink:
    """One Redis, asked by all requests. After a failure it is left alone for `retry_s`."""

    def __init__(
        self,
        url: str,
        timeout_s: float = 0.05,
        retry_s: float = 1.0,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Connects with the first question. Raises `ConfigError` for an address that is none."""
        self._client, self._failures = _client(url, timeout_s)
        self._timeout_s = timeout_s
        self._retry_s = retry_s
        self._monotonic = monotonic
        self._away_until = 0.0
        self._trouble: str | None = None
        self._scripts: dict[str, AsyncScript] = {}

    @property
    def trouble(self) -> str | None:
        """Why Redis is taken to be away; None if it is not."""
        return self._trouble

    async def ask(self, question: Callable[[Redis], Awaitable[T]]) -> T:
        """The answer. Raises `RedisAway` after `timeout_s` at the latest, and at once while away.

        When it is time to try again, one caller does and the others are told that it is away.
        """
        if self._trouble is not None:
            if self._monotonic() < self._away_until:
                raise RedisAway(self._trouble)
            self._away_until = self._monotonic() + self._retry_s
        try:
            async with asyncio.timeout(self._timeout_s):
                answer = await question(self._client)
        except self._failures as error:
            self._lost(error)
            raise RedisAway(str(self._trouble)) from None
        if self._trouble is not None:
            _LOG.warning("Redis answers again")
            self._trouble = None
        return answer

    async def run(self, lua: str, keys: Sequence[str], arguments: Sequence[str | int]) -> Any:
        """What the script returns, which runs as one step for all replicas. Raises `RedisAway`."""
        script = self._scripts.get(lua)
        if script is None:
            script = self._scripts[lua] = self._client.register_script(lua)
        return await self.ask(lambda redis: script(keys=keys, args=arguments))

    async def is_up(self) -> bool:
        """Asks, unless it was away a moment ago."""
        try:
            await self.ask(lambda redis: cast("Awaitable[object]", redis.ping()))
        except RedisAway:
            return False
        return True

    async def close(self) -> None:
        await self._client.aclose()

    def _lost(self, error: BaseException) -> None:
        trouble = str(error) or f"no answer within {self._timeout_s:g} s"
        if self._trouble is None:
            _LOG.warning("Redis is away, this process goes on alone: %s", trouble)
        self._trouble = trouble
        self._away_until = self._monotonic() + self._retry_s


def _client(url: str, timeout_s: float) -> tuple[Redis, tuple[type[Exception], ...]]:
    """And all that it raises when Redis is away, or is not well."""
    try:
        from redis.asyncio import BlockingConnectionPool, Redis
        from redis.asyncio.retry import Retry
        from redis.backoff import NoBackoff
        from redis.exceptions import RedisError
    except ImportError:
        problem = f"needs the client of Redis: {install_hint('redis')}"
        raise ConfigError(problem, key="redis_url") from None
    try:
        pool = BlockingConnectionPool.from_url(
            url,
            max_connections=_CONNECTIONS,
            timeout=timeout_s,
            socket_timeout=timeout_s,
            socket_connect_timeout=timeout_s,
            retry=Retry(NoBackoff(), 0),
            protocol=2,
        )
    except ValueError as error:
        # Not the address itself: it may have a password in it.
        raise ConfigError(f"is no address of a Redis: {error}", key="redis_url") from None
    return Redis.from_pool(pool), (RedisError, OSError, TimeoutError)
