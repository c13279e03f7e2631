"""Symbolic-MoE with its keyword expert: fitted, written, restored and served, with a fake."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import pytest

from coe.assembly.annotating import KeptExpert, expert_opener
from coe.assembly.engines import encoder_for
from coe.cli import main
from coe.config import load_config
from coe.engines.base import Engine, collect
from coe.engines.fake_openai import serve
from coe.engines.openai import OpenAIEngine
from coe.engines.scripted import ScriptedEngine
from coe.errors import ConfigError, PoolMismatch, UpstreamError
from coe.experts import Expert, ExpertPool, OpenAISpec, ScriptedSpec
from coe.outcomes import OutcomeTable
from coe.routers import symbolic_keywords
from coe.routers.annotators import Complete, Skills
from coe.routers.artifacts import Artifact, Manifest
from coe.routers.policies import TopK
from coe.routers.symbolic import SymbolicScorer
from coe.routers.symbolic_keywords import (
    RememberedSkills,
    fitting_annotator,
    keyword_expert,
    serving_annotator,
)
from coe.routing import Encoder, Router
from coe.types import Completion, Delta, GenerationRequest, Query

KEYWORDS = {r"(?s)river|city": "Keywords: Geography, maps.", r"(?s)sum|plus": "Keywords: algebra"}
POOL = ExpertPool(tuple(Expert(id_, ScriptedSpec()) for id_ in ("a", "b", "namer")))
TABLE = OutcomeTable(
    (Query("sum of two", "q0"), Query("a river", "q1"), Query("a city", "q2")),
    POOL.ids,
    np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 1.0, 1.0]]),
)


class Namer:
    """A scripted expert that can be opened; each opening makes a new engine."""

    def __init__(self, fail_after_tokens: int | None = None) -> None:
        self.n_asked = 0
        self._spec = ScriptedSpec(KEYWORDS, "Keywords: ", fail_after_tokens=fail_after_tokens)

    @asynccontextmanager
    async def __call__(self) -> AsyncIterator[Complete]:
        engine = ScriptedEngine(Expert("namer", self._spec))

        async def complete(request: GenerationRequest) -> Completion:
            self.n_asked += 1
            return await collect("namer", engine.stream(request))

        yield complete
        await engine.stop(1.0)


class Written:
    """Names the words of a query as skills, and keeps what it was asked."""

    name = "written"
    is_open = True

    def __init__(self, fails: Callable[[], bool] = lambda: False) -> None:
        self.asked: list[list[str]] = []
        self._fails = fails

    def annotate(self, queries: Sequence[Query]) -> tuple[Skills, ...]:
        self.asked.append([query.text for query in queries])
        if self._fails():
            raise UpstreamError("namer", "gone")
        return tuple(dict.fromkeys(query.text.split(), 2) for query in queries)


def test_fitted_artifact_names_the_expert_to_ask(encoder: Encoder, tmp_path: Path) -> None:
    namer = Namer()
    scorer = SymbolicScorer.fit(TABLE, encoder, fitting_annotator("namer", namer))
    assert namer.n_asked == 5 * 3
    assert scorer.skills == ("algebra", "geography", "maps")
    assert scorer.asked_expert == "namer"
    scorer.artifact().save(tmp_path / "router")
    again = Artifact.load(tmp_path / "router")
    assert keyword_expert(again.manifest) == "namer"
    restored = SymbolicScorer(again, encoder, serving_annotator("namer", namer))
    asked = [Query("which river"), Query("plus"), Query("neither")]
    np.testing.assert_array_equal(restored.score(asked), scorer.score(asked))
    assert restored.score(asked)[0].argmax() == 1
    np.testing.assert_allclose(restored.score(asked)[2], 1 / 3)


def test_fit_without_an_expert_asks_nobody(encoder: Encoder) -> None:
    table = OutcomeTable(
        tuple(Query(q.text, q.id, "places") for q in TABLE.queries), POOL.ids, TABLE.scores
    )
    assert SymbolicScorer.fit(table, encoder).asked_expert is None
    assert keyword_expert(Manifest("knn", POOL.ids, "", 3)) is None


def test_restoring_without_the_expert_says_whom_to_ask(encoder: Encoder) -> None:
    artifact = SymbolicScorer.fit(TABLE, encoder, fitting_annotator("namer", Namer())).artifact()
    with pytest.raises(PoolMismatch, match=r"serving_annotator` that asks expert 'namer'"):
        SymbolicScorer(artifact, encoder)
    with pytest.raises(PoolMismatch, match="keywords/namer, used with keywords/other"):
        SymbolicScorer(artifact, encoder, serving_annotator("other", Namer()))


async def test_served_router_asks_over_http_from_a_thread(encoder: Encoder) -> None:
    """Each call has an event loop and connections of its own; repeated texts are not asked."""
    fitted = await asyncio.to_thread(
        SymbolicScorer.fit, TABLE, encoder, fitting_annotator("namer", Namer())
    )
    fake = ScriptedEngine(Expert("namer", ScriptedSpec(KEYWORDS)))
    async with serve(fake) as url:

        @asynccontextmanager
        async def opened() -> AsyncIterator[Complete]:
            engine = OpenAIEngine(Expert("namer", OpenAISpec(url)))
            try:
                yield lambda request: collect("namer", engine.stream(request))
            finally:
                await engine.stop(1.0)

        restored = SymbolicScorer(fitted.artifact(), encoder, serving_annotator("namer", opened))
        router = Router(restored, TopK(1), POOL)
        first = await asyncio.to_thread(router.route, "which river?")
        second = await asyncio.to_thread(router.route, "two plus two?")
    third = await asyncio.to_thread(router.route, "which river?")
    assert [d.experts for d in (first, second, third)] == [("b",), ("a",), ("b",)]
    assert "needs geography, maps" in first.reasons[0]


def test_failing_expert_ends_a_fit_and_leaves_a_served_query_without_skills(
    encoder: Encoder, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(UpstreamError):
        SymbolicScorer.fit(TABLE, encoder, fitting_annotator("namer", Namer(0)))
    artifact = SymbolicScorer.fit(TABLE, encoder, fitting_annotator("namer", Namer())).artifact()
    served = SymbolicScorer(artifact, encoder, serving_annotator("namer", Namer(0)))
    with caplog.at_level(logging.WARNING):
        np.testing.assert_allclose(served.score([Query("a river")]), 1 / 3)
    assert "keywords/namer named no skills of 1 queries" in caplog.text


def test_text_is_annotated_once_in_the_order_asked() -> None:
    written = Written()
    remembered = RememberedSkills(written)
    assert (remembered.name, remembered.is_open) == ("written", True)
    asked = [Query("x"), Query("y"), Query("x")]
    assert remembered.annotate(asked) == ({"x": 2}, {"y": 2}, {"x": 2})
    assert remembered.annotate([Query("y"), Query("z")]) == ({"y": 2}, {"z": 2})
    assert written.asked == [["x", "y"], ["z"]]


def test_skills_asked_for_longest_ago_are_forgotten_first() -> None:
    written = Written()
    remembered = RememberedSkills(written, most=2)
    for text in ("x", "y", "x", "z", "x", "y"):
        remembered.annotate([Query(text)])
    assert written.asked == [["x"], ["y"], ["z"], ["y"]]


def test_failure_is_not_remembered() -> None:
    down = [True]
    written = Written(lambda: down[0])
    remembered = RememberedSkills(written, forgives=True)
    assert remembered.annotate([Query("x")]) == ({},)
    down[0] = False
    assert remembered.annotate([Query("x")]) == ({"x": 2},)


def test_interrupted_fit_goes_on_from_its_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(symbolic_keywords, "AT_A_TIME", 2)
    file = tmp_path / "skills.jsonl"
    calls: list[int] = []

    def second_call() -> bool:
        calls.append(1)
        return len(calls) == 2

    queries = [Query(text) for text in ("v", "w", "x", "y")]
    with pytest.raises(UpstreamError):
        RememberedSkills(Written(second_call), file=file).annotate(queries)
    # The process died while it wrote a line.
    with file.open("a", encoding="utf-8") as stream:
        stream.write('\n{"annotator": "writ')
    written = Written()
    again = RememberedSkills(written, file=file)
    assert again.annotate(queries) == tuple({text: 2} for text in "vwxy")
    assert written.asked == [["x", "y"]]
    unasked = Written()
    assert len(RememberedSkills(unasked, file=file).annotate(queries)) == 4
    assert unasked.asked == []


def test_file_of_another_annotator_is_not_used_and_other_files_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "skills.jsonl"
    RememberedSkills(Written(), file=file).annotate([Query("x")])
    assert json.loads(file.read_text("utf-8"))["skills"] == {"x": 2}
    other = Written()
    other.name = "other"
    RememberedSkills(other, file=file).annotate([Query("x")])
    assert other.asked == [["x"]]
    file.write_text("question,answer\n", "utf-8")
    with pytest.raises(ConfigError, match="holds no annotations"):
        RememberedSkills(Written(), file=file)


@pytest.mark.parametrize("skill", ["a\u2028b", "a\u0085b", "a\x1cb", "a\rb", "a\nb"])
def test_skills_with_breaks_of_all_sorts_are_kept(tmp_path: Path, skill: str) -> None:
    class Breaks(Written):
        def annotate(self, queries: Sequence[Query]) -> tuple[Skills, ...]:
            super().annotate(queries)
            return tuple({skill: 2} for _ in queries)

    file = tmp_path / "skills.jsonl"
    RememberedSkills(Breaks(), file=file).annotate([Query("x"), Query("y")])
    again = Breaks()
    remembered = RememberedSkills(again, file=file)
    assert remembered.annotate([Query("x"), Query("y")]) == ({skill: 2}, {skill: 2})
    assert again.asked == []


def test_file_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        RememberedSkills(Written(), file=tmp_path)
    (tmp_path / "skills.jsonl").write_bytes(b"\xff\n")
    with pytest.raises(ConfigError, match="cannot be read"):
        RememberedSkills(Written(), file=tmp_path / "skills.jsonl")


async def test_asking_on_an_event_loop_is_a_mistake_and_not_forgiven() -> None:
    served = serving_annotator("namer", Namer())
    with pytest.raises(RuntimeError, match=r"asyncio\.to_thread"):
        served.annotate([Query("a river")])


class Counted(ScriptedEngine):
    """Knows its event loops, and how often it was stopped."""

    def __init__(self, spec: ScriptedSpec) -> None:
        super().__init__(Expert("namer", spec))
        self.loops: list[asyncio.AbstractEventLoop] = []
        self.n_stopped = 0

    async def stream(self, request: GenerationRequest) -> AsyncIterator[Delta]:
        self.loops.append(asyncio.get_running_loop())
        async for delta in super().stream(request):
            yield delta

    async def stop(self, timeout_s: float) -> None:
        self.n_stopped += 1
        await super().stop(timeout_s)


class Made:
    """The engines that were made."""

    def __init__(self, spec: ScriptedSpec) -> None:
        self.engines: list[Counted] = []
        self._spec = spec

    def __call__(self) -> Engine:
        self.engines.append(Counted(self._spec))
        return self.engines[-1]


def test_kept_expert_has_one_engine_on_one_loop_for_all_that_is_asked() -> None:
    made = Made(ScriptedSpec(KEYWORDS))
    kept = KeptExpert("namer", made)
    assert made.engines == []
    served = serving_annotator("namer", kept)
    with ThreadPoolExecutor(4) as threads:
        texts = [f"river {i}" for i in range(12)]
        named = list(threads.map(lambda text: served.annotate([Query(text)]), texts))
    assert named == [({"geography": 5, "maps": 5},)] * 12
    (engine,) = made.engines
    assert (len(engine.loops), len(set(engine.loops)), engine.n_stopped) == (60, 1, 0)
    kept.close()
    assert (engine.n_stopped, engine.loops[0].is_closed()) == (1, True)
    kept.close()
    assert served.annotate([Query("a city")]) == ({"geography": 5, "maps": 5},)
    assert len(made.engines) == 2
    kept.close()


def test_kept_expert_stops_when_nobody_holds_it() -> None:
    made = Made(ScriptedSpec(KEYWORDS))
    served = serving_annotator("namer", KeptExpert("namer", made))
    served.annotate([Query("river")])
    del served
    gc.collect()
    assert (made.engines[0].n_stopped, made.engines[0].loops[0].is_closed()) == (1, True)


def test_kept_expert_that_is_too_slow_is_given_up_and_asked_again() -> None:
    made = Made(ScriptedSpec(KEYWORDS, tokens_per_s=1e-3))
    kept = KeptExpert("namer", made)
    served = serving_annotator("namer", kept, timeout_s=0.01)
    assert served.annotate([Query("river")]) == ({},)
    assert served.annotate([Query("river")]) == ({},)
    assert len(made.engines) == 1
    kept.close()


async def test_kept_expert_that_is_closed_in_mid_answer_is_an_experts_failure() -> None:
    made = Made(ScriptedSpec(KEYWORDS, tokens_per_s=1e-3))
    kept = KeptExpert("namer", made)
    asking = asyncio.create_task(
        asyncio.to_thread(fitting_annotator("namer", kept).annotate, [Query("river")])
    )
    while not made.engines or not made.engines[0].loops:
        await asyncio.sleep(0)
    await asyncio.to_thread(kept.close)
    with pytest.raises(UpstreamError, match="stopped"):
        await asking


POOL_FILE = """
experts:
  - id: a
    engine: {kind: scripted, default: of sums}
  - id: b
    engine: {kind: scripted, default: of places}
  - id: namer
    engine:
      kind: scripted
      answers: {'(?s)river|city': 'Keywords: geography', '(?s)sum|plus': 'Keywords: algebra'}
router: {scorer: symbolic, artifact: router}
"""


def test_ask_command_decides_beside_the_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "experts.yaml").write_text(POOL_FILE, encoding="utf-8")
    config = load_config(tmp_path / "experts.yaml")
    fitting = fitting_annotator("namer", expert_opener(config, "namer"))
    fitted = SymbolicScorer.fit(TABLE, encoder_for(config.encoder), fitting)
    fitted.artifact().save(tmp_path / "router")
    command = ["coe", "ask", "-c", str(config.file), "which river?"]
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code
    assert capsys.readouterr().out == "of places\n"
