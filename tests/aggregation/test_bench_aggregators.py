"""The benchmark's part that asks: against the shipped fake, since no expert is at hand here."""

from __future__ import annotations

import asyncio
import importlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from coe.engines.fake_openai import serve
from coe.engines.scripted import ScriptedEngine
from coe.experts import Expert, ScriptedSpec

OPTIONS = ["one", "two", "three", "four"]
# Expert → the letters it gives on the six training questions, whose answer is A each time, and on
# the four test questions, whose answer is B.
LETTERS = {
    "best": ("AAAAAC", "BCCC"),
    "middling": ("AAAACD", "BBCC"),
    "worst": ("AADCCD", "DBCA"),
}
Main = Callable[[Sequence[str]], None]


@pytest.fixture
def main(monkeypatch: pytest.MonkeyPatch, repository: Path) -> Main:
    monkeypatch.syspath_prepend(str(repository))
    found: Main = importlib.import_module("bench.aggregators").main
    return found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    questions: list[dict[str, Any]] = []
    texts: list[dict[str, Any]] = []
    for split, n, answer, which in (("train", 6, "A", 0), ("test", 4, "B", 1)):
        for i in range(n):
            id_ = 100 * which + i
            shared = {"question_id": id_, "split": split}
            asked = {"category": "math", "question": f"{split} {i}?", "options": OPTIONS}
            questions.append({**shared, **asked, "answer": answer})
            for model, letters in LETTERS.items():
                letter = letters[which][i]
                output = f"We count.\nThe answer is ({letter})."
                texts.append({**shared, "model": model, "output": output, "pred": letter})
    pq.write_table(pa.Table.from_pylist(questions), tmp_path / "questions.parquet")
    pq.write_table(pa.Table.from_pylist(texts), tmp_path / "transcripts.parquet")
    return tmp_path


def _engine(fail_after_tokens: int | None = None) -> ScriptedEngine:
    """Solves what it is shown as candidates and as responses, and spoils a draft."""
    answers = {
        "<candidate": "The answer is (B).",
        "<draft": "The answer is (C).",
        "### Response": "The answer is (A).",
    }
    spec = ScriptedSpec(answers, fail_after_tokens=fail_after_tokens)
    return ScriptedEngine(Expert("reader", spec))


async def _report(main: Main, folder: Path, *more: str) -> dict[str, Any]:
    out = folder / "out.json"
    await asyncio.to_thread(main, ["--data", str(folder), "--out", str(out), *more])
    report: dict[str, Any] = json.loads(out.read_text("utf-8"))
    return report


async def test_recorded_part_judges_votes_on_the_texts(main: Main, folder: Path) -> None:
    report = await _report(main, folder)
    votes = report["votes"]["top 3"]
    assert report["ranked_in_training"] == ["best", "middling", "worst"]
    assert votes["first"]["accuracy"][0] == 25.0
    assert votes["majority"]["accuracy"][0] == 50.0
    assert votes["majority"]["over_first"][0] == 25.0
    assert report["reading"]["test"]["all"]["agree"] == 12
    assert report["early_stopping"]["top 3"]["same_answers"] == 4
    # The first two agree on the first question and on the last two: the third need not answer.
    assert report["early_stopping"]["top 3"]["calls_saved_in_turn_percent"] == 25.0
    assert report["delimiters"]["test"] == {"tried": 48, "left_their_element": 0}
    assert "not measured" in report["llm"]


async def test_named_expert_is_asked_and_judged(main: Main, folder: Path) -> None:
    async with serve(_engine()) as url:
        asking = ("--aggregator-url", url, "--aggregator-model", "reader")
        report = await _report(main, folder, *asking)
    live = report["llm"]["top 3"]
    assert live["llm"]["accuracy"][0] == 100.0
    assert live["llm"]["over_first"][0] == 75.0
    assert live["chain"]["accuracy"][0] == 0.0
    assert live["failed_calls"] == 0
    # Somebody solved five of six training questions.
    assert report["llm"]["selection"]["n_tasks"] == 5
    assert report["llm"]["selection"]["scores"][0]["accuracy"] == 1.0


async def test_failed_calls_are_counted_and_wrong(main: Main, folder: Path) -> None:
    async with serve(_engine(fail_after_tokens=1)) as url:
        asking = ("--aggregator-url", url, "--aggregator-model", "reader", "--limit", "2")
        with pytest.raises(SystemExit, match="none of reader gave any completion"):
            await _report(main, folder, *asking)
    module = importlib.import_module("bench.aggregators_live")
    texts = importlib.import_module("bench.transcripts").Texts.load(folder, "test")
    async with serve(_engine(fail_after_tokens=1)) as url:
        reader = module.Reader(url, "reader")
        asked = await asyncio.to_thread(
            module.asked_aggregators, reader, texts, ["best", "worst"], 2
        )
    assert asked.n_failed == 4
    assert asked.grades["llm"].tolist() == [0.0, 0.0]
