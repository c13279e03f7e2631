"""What is seen through what is around an engine."""

from __future__ import annotations

from pathlib import Path

from coe.engines.breaking import BreakingEngine
from coe.engines.limited import LimitedEngine
from coe.engines.openai import OpenAIEngine
from coe.engines.recording_engine import RecordingEngine
from coe.engines.retrying import RetryingEngine
from coe.engines.scripted import ScriptedEngine
from coe.engines.wrapping import innermost, layers, passes_bytes
from coe.experts import Expert, OpenAISpec, ScriptedSpec

ROUTE = "chat/completions"


def test_layers_go_from_the_outside_in() -> None:
    inner = ScriptedEngine(Expert("e", ScriptedSpec()))
    outer = LimitedEngine(BreakingEngine(RetryingEngine(inner)), 1, 1)
    kinds = [type(layer) for layer in layers(outer)]
    assert kinds == [LimitedEngine, BreakingEngine, RetryingEngine, ScriptedEngine]
    assert innermost(outer) is inner
    assert innermost(inner) is inner


def test_bytes_pass_through_what_does_not_read_them(tmp_path: Path) -> None:
    far = OpenAIEngine(Expert("e", OpenAISpec("http://127.0.0.1:1/v1")))
    wrapped = LimitedEngine(BreakingEngine(RetryingEngine(far)), 1, 1)
    assert passes_bytes(wrapped, ROUTE)
    assert not passes_bytes(wrapped, "images/edits")
    assert not passes_bytes(RecordingEngine(wrapped, tmp_path / "answers.jsonl"), ROUTE)
    assert not passes_bytes(RetryingEngine(ScriptedEngine(Expert("e", ScriptedSpec()))), ROUTE)
