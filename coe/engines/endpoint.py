"""Finding out whether a server that somebody else runs is there, and waiting for it."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

import aiohttp

from coe.errors import StartupError
from coe.experts import OpenAISpec

Sleep = Callable[[float], Awaitable[None]]

PATIENCE_CONNECTS = 3
"""How many times its `connect_timeout_s` a server may be unreachable before it is given up."""
_FIRST_POLL_S = 0.1
_LONGEST_POLL_S = 2.0
_USERINFO = re.compile(r"(?<=://)[^/]*@")


@dataclass(frozen=True, slots=True)
class Trouble:
    """Why a server cannot be used yet."""

    words: str
    is_there: bool
    """Whether something answered at all: that is worth waiting for, as while a model loads."""


class Endpoint:
    """An OpenAI-compatible server, as seen from outside. Raises `StartupError` only."""

    def __init__(self, expert_id: str, spec: OpenAISpec) -> None:
        self.base_url = spec.base_url.rstrip("/")
        self.shown_url = without_userinfo(self.base_url)
        """The address as errors may tell it."""
        self._expert_id = expert_id
        self._spec = spec
        self._patience_s = PATIENCE_CONNECTS * spec.connect_timeout_s

    async def wait(
        self,
        session: aiohttp.ClientSession,
        headers: Mapping[str, str],
        sleep: Sleep,
        on_trouble: Callable[[str], None],
    ) -> None:
        """Polls `{base_url}/models` until the server answers, however long it says to be loading.

        We did not start it and cannot: one that is not reached for `PATIENCE_CONNECTS` connect
        timeouts raises, with the cause. `on_trouble` is told the cause after every poll.
        """
        clock = asyncio.get_running_loop().time
        last_there_s = clock()
        pause_s = _FIRST_POLL_S
        while (trouble := await self._look(session, headers)) is not None:
            on_trouble(trouble.words)
            if trouble.is_there:
                last_there_s = clock()
            elif clock() - last_there_s >= self._patience_s:
                raise StartupError(
                    self._expert_id,
                    f"not reached within {self._patience_s:g} s: {trouble.words}; start that "
                    "server, correct base_url, or raise connect_timeout_s",
                )
            await sleep(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_POLL_S)

    async def _look(
        self, session: aiohttp.ClientSession, headers: Mapping[str, str]
    ) -> Trouble | None:
        """None: the server is up. Raises `StartupError` where waiting cannot help."""
        try:
            async with session.get(
                f"{self.base_url}/models",
                headers=headers,
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(total=self._patience_s),
            ) as response:
                status = response.status
        except TimeoutError:
            return Trouble(f"{self.shown_url} is silent", is_there=False)
        except (aiohttp.InvalidURL, aiohttp.ClientSSLError) as error:
            problem = f"{self.shown_url} cannot be used: {problem_of(error)}; correct base_url"
            raise StartupError(self._expert_id, problem) from None
        except (aiohttp.ClientError, OSError) as error:
            return Trouble(
                f"{self.shown_url} cannot be reached: {problem_of(error)}", is_there=False
            )
        if status in (401, 403):
            advice = (
                f"check {self._spec.api_key_env}" if headers else "name its variable in api_key_env"
            )
            problem = f"{self.shown_url} refuses the API key (status {status}); {advice}"
            raise StartupError(self._expert_id, problem)
        # Not every server lists its models; one that says so is up all the same.
        if status < 500:
            return None
        return Trouble(f"{self.shown_url} answers with status {status}", is_there=True)


def problem_of(error: Exception) -> str:
    """What a connection says of its end, without the address, which may hold a password."""
    if isinstance(error, OSError) and error.errno is not None and error.errno > 0:
        return os.strerror(error.errno)  # asyncio's own words say that it failed and not why
    reason = error.strerror if isinstance(error, OSError) else None
    return without_userinfo(reason or str(error)) or type(error).__name__


def without_userinfo(text: str) -> str:
    """The text with `user:password@` taken out of its addresses."""
    return _USERINFO.sub("", text)
