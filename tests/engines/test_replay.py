"""Recorded answers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from coe.engines.base import collect
from coe.engines.replay import ReplayEngine
from coe.errors import ConfigError, StartupError, UpstreamError
from coe.experts import Expert, ReplaySpec
from coe.types import GenerationRequest, Usage

Ask = Callable[..., GenerationRequest]


def _engine(folder: Path, *records: object) -> ReplayEngine:
    path = folder / "answers.jsonl"
    lines = [record if isinstance(record, str) else json.dumps(record) for record in records]
    path.write_text("\n".join(lines) + "\n")
    return ReplayEngine(Expert("e", ReplaySpec(str(path))))


async def test_replay_prefers_the_id_and_falls_back_to_the_prompt(tmp_path: Path, ask: Ask) -> None:
    engine = _engine(
        tmp_path, {"id": "q1", "completion": "by id"}, {"prompt": "hi", "completion": "by prompt"}
    )
    assert (await collect("e", engine.stream(ask("hi", id="q1")))).text == "by id"
    assert (await collect("e", engine.stream(ask("hi", id="q2")))).text == "by prompt"
    assert (await collect("e", engine.stream(ask("hi")))).text == "by prompt"


async def test_replay_keeps_ids_and_prompts_apart(tmp_path: Path, ask: Ask) -> None:
    engine = _engine(tmp_path, {"id": "hi", "completion": "by id"})
    with pytest.raises(UpstreamError):
        await collect("e", engine.stream(ask("hi")))


async def test_replay_gives_recorded_counts_and_reason(tmp_path: Path, ask: Ask) -> None:
    engine = _engine(
        tmp_path,
        {"id": "q", "completion": "two words", "prompt_tokens": 50, "completion_tokens": 60,
         "finish_reason": "length"},
    )  # fmt: skip
    completion = await collect("e", engine.stream(ask(id="q")))
    assert completion.usage == Usage(50, 60)
    assert completion.finish_reason == "length"
    cut = await collect("e", engine.stream(ask(id="q", max_tokens=1)))
    assert (cut.text, cut.usage) == ("two", Usage(50, 1))


async def test_replay_plays_an_empty_answer(tmp_path: Path, ask: Ask) -> None:
    engine = _engine(tmp_path, {"id": "q", "completion": ""})
    completion = await collect("e", engine.stream(ask(id="q")))
    assert (completion.text, completion.finish_reason) == ("", "stop")


async def test_replay_without_a_record_says_what_is_missing(tmp_path: Path, ask: Ask) -> None:
    engine = _engine(tmp_path, {"id": "q", "completion": "x"})
    with pytest.raises(UpstreamError, match=r"answers\.jsonl holds no answer for id 'other'"):
        await collect("e", engine.stream(ask("hi", id="other")))


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("{", "line 2"),
        ("[]", "JSON object"),
        ('{"completion": "x"}', "`id` or `prompt`"),
        ('{"id": "q"}', "`completion`"),
        ('{"id": "q", "completion": "x", "tokens": 3}', "unknown key 'tokens'"),
        ('{"id": "q", "completion": "x", "finish_reason": "eos"}', "'eos'"),
        ('{"id": "q", "completion": "x", "prompt_tokens": -1}', "prompt_tokens"),
        ('{"id": "q", "completion": "x", "completion_tokens": true}', "completion_tokens"),
    ],
)
async def test_replay_names_file_and_line_of_a_malformed_record(
    tmp_path: Path, line: str, complaint: str
) -> None:
    engine = _engine(tmp_path, {"id": "q", "completion": "x"}, line)
    with pytest.raises(ConfigError, match=complaint) as caught:
        await engine.ensure_ready(5)
    assert caught.value.key == "line 2"
    assert caught.value.file is not None
    assert caught.value.file.endswith("answers.jsonl")


@pytest.mark.parametrize("name", ["id", "prompt"])
async def test_replay_names_both_lines_of_records_that_cannot_be_told_apart(
    tmp_path: Path, name: str
) -> None:
    record = {name: "q", "completion": "x"}
    engine = _engine(tmp_path, record, {name: "other", "completion": "x"}, record)
    with pytest.raises(ConfigError, match=f"line 3: has the same {name} as line 1"):
        await engine.ensure_ready(5)


async def test_replay_takes_ids_that_share_a_prompt(tmp_path: Path, ask: Ask) -> None:
    records = [{"id": id_, "prompt": "hi", "completion": id_} for id_ in ("a", "b")]
    engine = _engine(tmp_path, *records)
    assert [(await collect("e", engine.stream(ask("hi", id=id_)))).text for id_ in "ab"] == [
        "a",
        "b",
    ]


async def test_replay_reports_a_file_that_is_gone(tmp_path: Path) -> None:
    engine = ReplayEngine(Expert("e", ReplaySpec(str(tmp_path / "none.jsonl"))))
    with pytest.raises(ConfigError, match="No such file"):
        await engine.ensure_ready(5)


async def test_replay_stream_waits_no_longer_than_it_may(tmp_path: Path, ask: Ask) -> None:
    path = tmp_path / "answers.jsonl"
    path.write_text('{"prompt": "hi", "completion": "x"}')
    engine = ReplayEngine(Expert("e", ReplaySpec(str(path))), startup_timeout_s=0.0)
    with pytest.raises(StartupError, match="startup_timeout_s"):
        await collect("e", engine.stream(ask("hi")))
    await engine.ensure_ready(30)
    assert (await collect("e", engine.stream(ask("hi")))).text == "x"
