"""What the file puts around engines, from the file to what a client is answered."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from coe.assembly import load_composition
from coe.assembly.guards import record_file
from coe.composition import Composition
from coe.engines.base import Engine, closing_stream
from coe.engines.breaking import BreakerOpen, BreakingEngine
from coe.engines.fake_openai import serve
from coe.engines.impatient import ImpatientEngine
from coe.engines.limited import LimitedEngine
from coe.engines.litellm import LitellmEngine
from coe.engines.openai import OpenAIEngine
from coe.engines.recording_engine import RecordingEngine
from coe.engines.retrying import RetryingEngine
from coe.engines.scripted import ScriptedEngine
from coe.engines.upstream_busy import UpstreamBusy
from coe.engines.wrapping import layers
from coe.errors import CoeError, ConfigError, QueueFull, UpstreamError
from coe.experts import Expert, ScriptedSpec
from coe.scheduling.hosted import HostedEngine
from coe.types import Delta, GenerationRequest, Message

FAR = '{{id: far, engine: {{kind: openai, base_url: "{url}", model: up}}{more}}}'
NEAR = "{id: near, engine: {kind: scripted, default: from here}}"
QUICK = "retries: {first_pause_s: 0, longest_pause_s: 0}"


class Upstream(ScriptedEngine):
    """Fails with `error` while there is one, or waits for `gate` if there is one."""

    def __init__(self) -> None:
        super().__init__(Expert("up", ScriptedSpec(default="from afar")))
        self.error: CoeError | None = None
        self.gate: asyncio.Event | None = None
        self.n_asked = 0

    async def stream(self, request: GenerationRequest) -> AsyncIterator[Delta]:
        self.n_asked += 1
        if self.error is not None:
            raise self.error
        if self.gate is not None:
            await self.gate.wait()
        async with closing_stream(super().stream(request)) as deltas:
            async for delta in deltas:
                yield delta


Load = Callable[..., Composition]


@pytest.fixture
def upstream() -> Upstream:
    return Upstream()


@pytest.fixture
async def load(upstream: Upstream, tmp_path: Path) -> AsyncIterator[Load]:
    """Composes far, which asks the upstream on loopback, and near, from a file."""
    made: list[Composition] = []
    async with serve(upstream) as url:

        def build(more: str = "", top: str = "", records: Path | None = None) -> Composition:
            file = tmp_path / "experts.yaml"
            far = FAR.format(url=url, more=more)
            file.write_text(f"experts:\n  - {far}\n  - {NEAR}\nrouter: {{scorer: random}}\n{top}\n")
            made.append(load_composition(file, records))
            return made[-1]

        yield build
        for composition in made:
            await composition.stop()


async def _ask(composition: Composition, expert_id: str = "far", text: str = "hi") -> str:
    request = GenerationRequest((Message("user", text),))
    decision = composition.decide(request, expert_id)
    return (await composition.complete(request, decision)).text


def _kinds(engine: Engine) -> list[type[Engine]]:
    return [type(layer) for layer in layers(engine)]


def test_remote_experts_are_guarded_and_others_are_not(load: Load, tmp_path: Path) -> None:
    remote = [ImpatientEngine, OpenAIEngine]
    bare = load()
    assert _kinds(bare.engines["far"]) == [BreakingEngine, RetryingEngine, *remote]
    assert _kinds(bare.engines["near"]) == [ScriptedEngine]
    limited = load(", hosting: {max_in_flight: 3}, reliability: {breaker: false}")
    assert _kinds(limited.engines["far"]) == [LimitedEngine, RetryingEngine, *remote]
    off = load(top="reliability: {retries: false, breaker: false}", records=tmp_path / "r")
    assert _kinds(off.engines["far"]) == [RecordingEngine, OpenAIEngine]


def test_experts_of_a_provider_are_guarded(tmp_path: Path) -> None:
    file = tmp_path / "experts.yaml"
    file.write_text(
        "experts: [{id: a, engine: {kind: litellm, model: some/model}}]\nrouter: {scorer: random}\n"
    )
    kinds = _kinds(load_composition(file).engines["a"])
    assert kinds == [BreakingEngine, RetryingEngine, ImpatientEngine, LitellmEngine]


def test_hosted_experts_are_retried_around_their_turn_where_they_say_so(load: Load) -> None:
    hosted = load(", footprint: {gib: 1}, hosting: {max_in_flight: 3}")
    assert _kinds(hosted.engines["far"]) == [HostedEngine, OpenAIEngine]
    retried = load(", footprint: {gib: 1}, reliability: {retries: {max_retries: 1}}")
    assert _kinds(retried.engines["far"]) == [RetryingEngine, HostedEngine, OpenAIEngine]
    with pytest.raises(ConfigError, match="leave `breaker` out"):
        load(", footprint: {gib: 1}, reliability: {breaker: {least_calls: 5}}")


async def test_failing_upstream_is_tried_again_and_then_left_alone(
    load: Load, upstream: Upstream
) -> None:
    composition = load(top=f"reliability: {{{QUICK}, breaker: {{least_calls: 2, open_s: 60}}}}")
    upstream.error = UpstreamError("up", "broke", 500)
    for _ in range(2):
        with pytest.raises(UpstreamError, match="status 500"):
            await _ask(composition)
    assert upstream.n_asked == 2 * (1 + 2)
    with pytest.raises(BreakerOpen) as caught:
        await _ask(composition)
    assert 59 < caught.value.retry_after_s <= 60
    assert upstream.n_asked == 6
    counts = composition.counters.experts["far"]
    assert (counts.breaker, counts.breaker_openings, counts.retries) == ("open", 1, 4)
    assert counts.failures == {"upstream_error": 2, "breaker_open": 1}


async def test_retries_of_all_experts_come_out_of_one_budget(
    load: Load, upstream: Upstream, tmp_path: Path
) -> None:
    load(top=f"reliability: {{{QUICK[:-1]}, budget_reserve: 3}}, breaker: false}}")
    file = tmp_path / "experts.yaml"
    text = file.read_text()
    far = next(line for line in text.splitlines() if "id: far" in line)
    file.write_text(text.replace(far, f"{far}\n{far.replace('id: far', 'id: twin')}"))
    composition = load_composition(file)
    upstream.error = UpstreamError("up", "broke", 500)
    for n in range(20):
        with pytest.raises(UpstreamError):
            await _ask(composition, ("far", "twin")[n % 2])
    await composition.stop()
    # Three at once, and a tenth for each request that found the reserve used up.
    assert upstream.n_asked == 20 + 3 + 1


@pytest.mark.parametrize("open_first", [False, True])
async def test_routed_request_goes_on_to_another_expert(
    load: Load, upstream: Upstream, open_first: bool
) -> None:
    composition = load(top=f"reliability: {{{QUICK}, breaker: {{least_calls: 2}}}}")
    upstream.error = UpstreamBusy("up", "no time", 429, 30.0)
    if open_first:
        for _ in range(2):
            with pytest.raises(UpstreamBusy):
                await _ask(composition)
    n_asked = upstream.n_asked
    requests = (GenerationRequest((Message("user", f"question {n}"),)) for n in range(99))
    decided = ((request, composition.decide(request)) for request in requests)
    request, decision = next(pair for pair in decided if pair[1].experts == ("far",))
    assert (await composition.complete(request, decision)).text == "from here"
    assert upstream.n_asked == n_asked + (not open_first)
    assert composition.counters.experts["far"].failovers == 1


async def test_bounded_expert_turns_those_away_who_are_too_many(
    load: Load, upstream: Upstream
) -> None:
    composition = load(", hosting: {max_in_flight: 1, max_queued: 1}")
    upstream.gate = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        waiting = [group.create_task(_ask(composition)) for _ in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(QueueFull):
            await _ask(composition)
        upstream.gate.set()
    assert [task.result() for task in waiting] == ["from afar"] * 2
    counts = composition.counters
    assert counts.experts["far"].failures == counts.failures == {"queue_full": 1}


async def test_recorded_answers_are_replayed_by_a_pool_of_records(
    load: Load, tmp_path: Path
) -> None:
    folder = tmp_path / "records"
    composition = load(records=folder)
    asked = ("far", "near", "far")
    given = [await _ask(composition, id_, f"question {n}") for n, id_ in enumerate(asked)]
    await composition.stop()
    experts = "\n".join(
        f"  - {{id: {id_}, engine: {{kind: replay, path: {record_file(folder, id_)}}}}}"
        for id_ in ("far", "near")
    )
    (tmp_path / "replay.yaml").write_text(f"experts:\n{experts}\nrouter: {{scorer: random}}\n")
    replay = load_composition(tmp_path / "replay.yaml")
    played = [await _ask(replay, id_, f"question {n}") for n, id_ in enumerate(asked)]
    assert played == given == ["from afar", "from here", "from afar"]
    await replay.stop()
    assert folder.stat().st_mode & 0o077 == 0


def test_record_file_is_in_its_folder_whatever_the_id_is(tmp_path: Path) -> None:
    ids = ("a/b", "a:b", "../../etc/passwd", "..", "a b")
    files = {record_file(tmp_path, id_) for id_ in ids}
    assert len(files) == len(ids)
    assert {file.resolve().parent for file in files} == {tmp_path.resolve()}


def test_recording_into_what_is_no_folder_says_so(load: Load, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    with pytest.raises(ConfigError, match="cannot be a folder"):
        load(records=tmp_path / "taken")
