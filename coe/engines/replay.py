"""Recorded answers: an expert that repeats what it answered before."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast, get_args

import orjson

from coe.engines.base import closing_stream
from coe.engines.playback import count_pieces, pieces, play
from coe.engines.starting import SelfStarting
from coe.errors import ConfigError, UpstreamError
from coe.experts import Expert, ReplaySpec
from coe.types import Delta, FinishReason, GenerationRequest, Query, Usage

_KEYS = frozenset(
    {"id", "prompt", "completion", "prompt_tokens", "completion_tokens", "finish_reason"}
)


@dataclass(frozen=True, slots=True)
class Recording:
    """One recorded answer. None means that the file does not say."""

    completion: str
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    finish_reason: FinishReason = "stop"


class ReplayEngine(SelfStarting):
    """Answers by the request's id, else by the exact text of its last user message.

    The caller's `max_tokens` and stop strings still hold, with words for tokens, because a
    recording does not say where its tokens end. An answer played whole carries the recorded
    counts and finish reason.
    """

    def __init__(self, expert: Expert, startup_timeout_s: float | None = None) -> None:
        """`startup_timeout_s` bounds how long a stream waits for the file; None is for ever."""
        if not isinstance(expert.engine, ReplaySpec):
            raise ConfigError(f"expert {expert.id!r} is not of kind 'replay'")
        super().__init__(expert)
        self._path = Path(expert.engine.path)
        self._startup_timeout_s = startup_timeout_s
        self._recordings: Mapping[str, Recording] = {}

    async def stop(self, timeout_s: float) -> None:
        await super().stop(timeout_s)
        self._recordings = {}

    async def stream(self, request: GenerationRequest) -> AsyncIterator[Delta]:
        await self._lifecycle.ensure(self._startup_timeout_s)
        recording = self._recording(request)
        prompt_tokens = recording.prompt_tokens
        if prompt_tokens is None:
            prompt_tokens = count_pieces(request.messages)
        tokens = pieces(recording.completion)
        deltas = play(tokens, request.params, prompt_tokens, _no_pause)
        played: list[str] = []
        async with closing_stream(deltas):
            async for delta in deltas:
                played.append(delta.text)
                if delta.finish_reason is None:
                    yield delta
                elif "".join(played) == recording.completion:
                    yield _as_recorded(delta, recording)
                else:
                    yield delta

    def _recording(self, request: GenerationRequest) -> Recording:
        asked = Query.of_messages(request.messages).text
        found = self._recordings.get("id:" + request.id) if request.id else None
        found = found or self._recordings.get("prompt:" + asked)
        if found is None:
            shown = asked if len(asked) <= 60 else asked[:60] + "…"
            raise UpstreamError(
                self.expert_id,
                f"{self._path} holds no answer for id {request.id!r} or prompt {shown!r}; "
                "record one, or give this expert another engine",
            )
        return found

    async def _start(self) -> None:
        """Raises `ConfigError` naming file and line where the file is wrong."""
        self._recordings = await asyncio.to_thread(read_recordings, self._path)


def read_recordings(path: Path) -> dict[str, Recording]:
    """Recorded answers under `id:…` and `prompt:…`.

    Raises `ConfigError` naming file and line; both lines where two have the same id, or the
    same prompt and no id. Ids that share a prompt are fine: the later one answers it bare.
    """
    recordings: dict[str, Recording] = {}
    lines_by_key: dict[str, int] = {}
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror}", file=str(path)) from None
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            keys, recording = _parsed(line)
            if (first := lines_by_key.setdefault(keys[0], number)) != number:
                raise ValueError(
                    f"has the same {keys[0].partition(':')[0]} as line {first}; delete one of them"
                )
        except ValueError as error:
            raise ConfigError(f"{error}", file=str(path), key=f"line {number}") from None
        recordings.update(dict.fromkeys(keys, recording))
    return recordings


def _parsed(line: bytes) -> tuple[list[str], Recording]:
    record: Any = orjson.loads(line)
    if not isinstance(record, dict):
        raise ValueError("must be a JSON object")
    unknown = sorted(record.keys() - _KEYS)
    if unknown:
        raise ValueError(f"unknown key {unknown[0]!r}; known are {', '.join(sorted(_KEYS))}")
    # The first key is what tells records apart: the id where there is one.
    keys = [f"{name}:{record[name]}" for name in ("id", "prompt") if name in record]
    if not keys:
        raise ValueError("needs `id` or `prompt` to be found by")
    if not isinstance(record.get("completion"), str):
        raise ValueError("needs `completion`, the answer as text")
    reason = record.get("finish_reason") or "stop"
    if reason not in get_args(FinishReason):
        raise ValueError(f"finish_reason {reason!r} is none of {', '.join(get_args(FinishReason))}")
    return keys, Recording(
        record["completion"],
        _count(record, "prompt_tokens"),
        _count(record, "completion_tokens"),
        cast(FinishReason, reason),
    )


def _count(record: Mapping[str, Any], name: str) -> int | None:
    count: int | None = record.get(name)
    if count is not None and (type(count) is not int or count < 0):
        raise ValueError(f"{name} must be a whole number, not {count!r}")
    return count


def _as_recorded(delta: Delta, recording: Recording) -> Delta:
    usage = delta.usage or Usage()
    if recording.completion_tokens is not None:
        usage = replace(usage, completion_tokens=recording.completion_tokens)
    return Delta(finish_reason=recording.finish_reason, usage=usage)


async def _no_pause(_: int) -> None:
    # Gives way, so that several answers interleave as generated ones would.
    await asyncio.sleep(0)
