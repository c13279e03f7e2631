"""Text that is already known, streamed as if it were being generated."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

from coe.engines.stopping import StopScanner
from coe.types import Delta, FinishReason, Message, SamplingParams, Usage

_PIECE = re.compile(r"\s*\S+|\s+")


def pieces(text: str) -> list[str]:
    """Splits into words that keep the white space before them; joined they are the text again."""
    return _PIECE.findall(text)


def count_pieces(messages: Sequence[Message]) -> int:
    return sum(len(pieces(message.content)) for message in messages)


async def play(
    tokens: Sequence[str],
    params: SamplingParams,
    prompt_tokens: int,
    before_token: Callable[[int], Awaitable[None]],
) -> AsyncIterator[Delta]:
    """Streams `tokens` under the caller's limits; `before_token` paces them, or raises."""
    scanner = StopScanner(params.stop)
    reason: FinishReason = "stop"
    played = 0
    for token in tokens:
        if played == params.max_tokens:
            reason = "length"
            break
        await before_token(played)
        played += 1
        text = scanner.push(token)
        if text:
            yield Delta(text=text)
        if scanner.stopped:
            break
    rest = scanner.flush()
    if rest:
        yield Delta(text=rest)
    yield Delta(finish_reason=reason, usage=Usage(prompt_tokens, played))
