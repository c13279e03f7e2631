"""What is recorded is what can be played again."""

from __future__ import annotations

import logging
import os
import resource
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import cast

import orjson
import pytest

from coe.engines.base import collect
from coe.engines.recording_engine import RecordingEngine
from coe.engines.replay import ReplayEngine
from coe.engines.scripted import ScriptedEngine
from coe.errors import ConfigError, UpstreamError
from coe.experts import Expert, ReplaySpec, ScriptedSpec
from coe.types import Delta, GenerationRequest, SamplingParams

Ask = Callable[..., GenerationRequest]
ANSWERS = {r"question (\d+)": 'ünï "quoted"\n\\1 \u2028 end'}


def scripted(**spec: object) -> ScriptedEngine:
    return ScriptedEngine(Expert("e", ScriptedSpec(**spec)))  # type: ignore[arg-type]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "answers.jsonl"


def records(path: Path) -> list[dict[str, object]]:
    return [orjson.loads(line) for line in path.read_bytes().split(b"\n") if line]


async def test_recorded_answers_play_again_as_they_were(path: Path, ask: Ask) -> None:
    engine = RecordingEngine(scripted(answers=ANSWERS), path)
    asked = [ask("question 1"), ask("question 2", id="q2"), ask("question 3", max_tokens=2)]
    given = [await collect("e", engine.stream(request)) for request in asked]
    await engine.stop(1)
    replay = ReplayEngine(Expert("e", ReplaySpec(str(path))))
    for request, completion in zip(asked, given, strict=True):
        bare = GenerationRequest(request.messages, SamplingParams(), request.id)
        played = await collect("e", replay.stream(bare))
        assert played.text == completion.text
        assert played.finish_reason == completion.finish_reason
        assert played.usage == completion.usage
    assert given[2].finish_reason == "length"


async def test_recording_file_is_private_and_has_one_line_for_each_answer(
    path: Path, ask: Ask
) -> None:
    path.touch(0o644)
    engine = RecordingEngine(scripted(default="a b"), path)
    await collect("e", engine.stream(ask("question 1", id="q1")))
    assert path.stat().st_mode & 0o777 == 0o600
    assert records(path) == [
        {
            "id": "q1",
            "prompt": "question 1",
            "completion": "a b",
            "prompt_tokens": 2,
            "completion_tokens": 2,
            "finish_reason": "stop",
        }
    ]
    await engine.stop(1)


async def test_recording_keeps_the_first_of_several_answers_also_after_a_restart(
    path: Path, ask: Ask
) -> None:
    path.write_bytes(b'{"prompt": "old", "completion": "kept"}')  # and no line end
    for _ in range(2):
        engine = RecordingEngine(scripted(default="new"), path)
        for request in (ask("old"), ask("old", id="q"), ask("fresh"), ask("fresh")):
            assert (await collect("e", engine.stream(request))).text == "new"
        await engine.stop(1)
    found = [(record.get("id"), record["prompt"], record["completion"]) for record in records(path)]
    assert found == [(None, "old", "kept"), ("q", "old", "new"), (None, "fresh", "new")]


async def test_recording_leaves_out_what_failed_or_was_left(path: Path, ask: Ask) -> None:
    failing = RecordingEngine(scripted(default="a b c", fail_after_tokens=1), path)
    with pytest.raises(UpstreamError):
        await collect("e", failing.stream(ask()))
    await failing.stop(1)
    inner = scripted(default="a b c")
    engine = RecordingEngine(inner, path)
    stream = cast(AsyncGenerator[Delta, None], engine.stream(ask()))
    await anext(stream)
    await stream.aclose()
    await engine.stop(1)
    assert inner.cancelled == 1
    assert records(path) == []


async def test_recording_opens_its_file_again_after_a_stop(path: Path, ask: Ask) -> None:
    engine = RecordingEngine(scripted(default="a"), path)
    await engine.stop(1)
    await collect("e", engine.stream(ask()))
    await engine.stop(1)
    assert len(records(path)) == 1


async def test_recording_hands_an_answer_on_although_the_disk_is_full(
    path: Path, ask: Ask, caplog: pytest.LogCaptureFixture
) -> None:
    engine = RecordingEngine(scripted(default="long " * 400), path)
    await collect("e", engine.stream(ask("question 1")))
    whole = path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    # A file that may not grow is short of room in the same way as a full disk: half a line fits.
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(whole) + 100, limits[1]))
    try:
        with caplog.at_level(logging.ERROR):
            completion = await collect("e", engine.stream(ask("question 2")))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert completion.finish_reason == "stop"
    assert "an answer of expert 'e' is not recorded" in caplog.text
    assert path.read_bytes() == whole
    await collect("e", engine.stream(ask("question 2")))
    assert len(records(path)) == 2
    await engine.stop(1)


async def test_recording_refuses_a_file_that_another_records_into(path: Path) -> None:
    engine = RecordingEngine(scripted(), path)
    with pytest.raises(ConfigError, match="another engine records into this file"):
        RecordingEngine(scripted(), path)
    await engine.stop(1)
    await RecordingEngine(scripted(), path).stop(1)


@pytest.mark.parametrize("content", [b"not json\n", b'{"prompt": "p"}\n'])
def test_recording_refuses_a_file_of_something_else(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(ConfigError, match="line 1"):
        RecordingEngine(scripted(), path)
    assert path.read_bytes() == content


def test_recording_names_a_file_that_cannot_be_written(tmp_path: Path) -> None:
    n_open = len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").is_dir() else 0
    with pytest.raises(ConfigError, match=r"missing/a\.jsonl: cannot be written"):
        RecordingEngine(scripted(), tmp_path / "missing" / "a.jsonl")
    if n_open:
        assert len(os.listdir("/proc/self/fd")) == n_open
