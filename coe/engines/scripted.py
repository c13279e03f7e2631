"""The shipped fake: an expert that answers from a table of regular expressions."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace

from coe.engines.base import closing_stream
from coe.engines.playback import count_pieces, pieces, play
from coe.engines.room import answer_room
from coe.engines.starting import SelfStarting
from coe.errors import ConfigError, UpstreamError
from coe.experts import Expert, ScriptedSpec
from coe.types import Delta, GenerationRequest, Query

Sleep = Callable[[float], Awaitable[None]]


class ScriptedEngine(SelfStarting):
    """Answers what its spec says, at the pace its spec says. Tokens are words.

    `requests` and `cancelled` record what it was asked and how many streams were closed
    before their end, for tests to look at. `sleep` is its only clock.
    """

    def __init__(
        self,
        expert: Expert,
        sleep: Sleep = asyncio.sleep,
        startup_timeout_s: float | None = None,
    ) -> None:
        """`startup_timeout_s` bounds how long a stream waits for the start; None is for ever."""
        if not isinstance(expert.engine, ScriptedSpec):
            raise ConfigError(f"expert {expert.id!r} is not of kind 'scripted'")
        super().__init__(expert)
        self._spec = expert.engine
        self._sleep = sleep
        self._startup_timeout_s = startup_timeout_s
        self._answers = [
            (_compiled(expert.id, pattern, answer), answer)
            for pattern, answer in self._spec.answers.items()
        ]
        self.requests: list[GenerationRequest] = []
        self.cancelled = 0

    async def stream(self, request: GenerationRequest) -> AsyncIterator[Delta]:
        self.requests.append(request)
        await self._lifecycle.ensure(self._startup_timeout_s)
        prompt_tokens = count_pieces(request.messages)
        room = answer_room(self._expert, prompt_tokens, request.params)
        params = replace(request.params, max_tokens=room)
        deltas = play(pieces(self.answer(request)), params, prompt_tokens, self._before_token)
        ended = False
        try:
            async with closing_stream(deltas):
                async for delta in deltas:
                    ended = delta.finish_reason is not None
                    yield delta
        except UpstreamError:
            ended = True
            raise
        finally:
            self.cancelled += not ended

    def answer(self, request: GenerationRequest) -> str:
        """The whole answer, before limits and stop strings."""
        asked = Query.of_messages(request.messages).text
        for pattern, answer in self._answers:
            if found := pattern.search(asked):
                return found.expand(answer)
        return self._spec.default

    async def _start(self) -> None:
        await self._sleep(self._spec.load_s)

    async def _before_token(self, index: int) -> None:
        if index == self._spec.fail_after_tokens:
            raise UpstreamError(self.expert_id, f"scripted to fail after {index} tokens")
        await self._sleep(1 / self._spec.tokens_per_s if self._spec.tokens_per_s else 0.0)


def _compiled(expert_id: str, pattern: str, answer: str) -> re.Pattern[str]:
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise ConfigError(
            f"expert {expert_id!r}: answer pattern {pattern!r} is no regular expression: {error}"
        ) from None
    try:
        # Reads the whole answer for its references, although there is nothing to replace.
        compiled.sub(answer, "")
    except (re.error, IndexError) as error:
        raise ConfigError(
            f"expert {expert_id!r}: the answer {answer!r} to pattern {pattern!r} cannot be "
            f"filled in: {error}; write a backslash that means itself twice"
        ) from None
    return compiled
