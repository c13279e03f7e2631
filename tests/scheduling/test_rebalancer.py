"""Homes that follow demand: what is observed, when it is looked at, and who is told to move."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from coe.assembly import load_composition
from coe.engines.scripted import ScriptedEngine
from coe.errors import CoeError, ConfigError
from coe.experts import Expert, ScriptedSpec
from coe.scheduling import Effects, Site, SwapCosts, SwapRules, SwapScheduler, Tenant, Ticket
from coe.scheduling.dispatcher import Dispatcher
from coe.scheduling.placement import Demand, Home
from coe.scheduling.rebalancer import (
    LEAST_ASKED,
    MOST_ASKED,
    Lookout,
    Placements,
    Rebalancer,
    measured_site,
)
from coe.scheduling.rebalancing import rehomed
from coe.scheduling.recording import RecordingEffects
from coe.scheduling.rehoming import Question, answered_elsewhere
from coe.types import GenerationRequest, Message

IDS = ("a", "b", "c", "d")


def _site(ids: Sequence[str] = IDS, n_devices: int = 2, gib: float = 1.0) -> Site:
    tenants = tuple(Tenant(id_, 1.0, costs=SwapCosts(load_s=10.0, evict_s=0.0)) for id_ in ids)
    return Site({f"gpu{i}": gib for i in range(n_devices)}, tenants)


def test_a_home_is_kept_unless_a_move_pays_within_the_horizon() -> None:
    site = _site("ab")
    homes = {"a": Home(("gpu0",), False), "b": Home(("gpu0",), False)}
    often = Demand({"a": 100.0, "b": 100.0}, {("a", "b"): 100.0})
    assert {h.devices for h in rehomed(site, homes, often, 1.0).values()} == {("gpu0",), ("gpu1",)}
    kept = {"a": Home(("gpu0",), True), "b": Home(("gpu1",), True)}
    rarely = Demand({"a": 0.1, "b": 0.1})
    assert rehomed(site, kept, rarely, 1.0) == kept


def test_who_has_no_home_is_given_one_and_the_others_keep_theirs() -> None:
    homes = {"a": Home(("gpu1",), False), "b": Home(("gpu0",), False)}
    found = rehomed(_site("abc", gib=2.0), homes, Demand({"c": 1.0}), 0.001)
    assert found.keys() == {"a", "b", "c"}
    assert {id_: found[id_] for id_ in homes} == homes


class Stage:
    """A scheduler over two devices of one GiB, and what it asked for."""

    def __init__(self) -> None:
        self.effects = RecordingEffects()
        self.scheduler = SwapScheduler(_site(), self.effects, SwapRules(beta=0.0))
        self.scheduler.on_start(0.0)
        self.n_asked = 0

    def serve(self, now: float, expert_id: str) -> list[str]:
        """One request from its arrival to its end; the effects of it."""
        self.n_asked += 1
        ticket = Ticket(str(self.n_asked), expert_id)
        self.scheduler.on_arrival(now, ticket)
        for id_ in IDS:
            self.scheduler.on_evicted(now, id_)
            self.scheduler.on_loaded(now, id_)
        self.scheduler.on_finish(now, ticket)
        return self.effects.taken()

    def place(self, now: float, placements: Placements) -> list[str]:
        self.scheduler.on_placements(now, placements)
        return self.effects.taken()


def test_a_new_placement_counts_from_the_next_load_on_and_disturbs_nobody() -> None:
    stage = Stage()
    assert "load a on gpu0" in stage.serve(0.0, "a")
    assert stage.place(1.0, {"a": (("gpu1",),), "b": (("gpu0",),)}) == []
    assert stage.serve(2.0, "a") == ["grant 2"], "it is resident and stays where it is"
    brought = stage.serve(3.0, "b")
    assert brought == ["evict a", "load b on gpu0", "prefetch a on gpu1", "grant 3"]


def test_a_placement_that_is_none_of_the_experts_own_is_refused() -> None:
    stage = Stage()
    for places in ((), (("gpu9",),), (("gpu0", "gpu1"),)):
        with pytest.raises(ConfigError, match="'a'"):
            stage.place(0.0, {"a": places})
    assert "load a on gpu0" in stage.serve(1.0, "a")


def test_a_placement_of_an_expert_that_was_removed_meanwhile_is_passed_over() -> None:
    stage = Stage()
    assert stage.place(0.0, {"z": (("gpu9",),), "a": (("gpu1",),)}) == []
    assert "load a on gpu1" in stage.serve(1.0, "a")


def test_a_lookout_is_silent_until_it_has_seen_enough() -> None:
    lookout = Lookout(_site, 60.0)
    for i in range(LEAST_ASKED):
        assert lookout.question(float(i)) is None
        lookout.asked(float(i), "a")
    question = lookout.question(100.0)
    assert question is not None
    assert len(question.asked) == LEAST_ASKED
    assert (question.half_life_s, question.horizon_s) == (60.0, 60.0)


def test_a_lookout_forgets_the_oldest_and_tells_only_who_moves() -> None:
    known = ["a", "b"]
    lookout = Lookout(lambda: _site(known), 60.0)
    for i in range(MOST_ASKED + 5):
        lookout.asked(float(i), "a")
    question = lookout.question(float(MOST_ASKED + 5))
    assert question is not None
    assert question.asked[0] == (5.0, "a")
    here, there = Home(("gpu0",), True), Home(("gpu1",), False)
    assert lookout.answered({"a": here, "b": there}) == {"a": (("gpu0",),), "b": (("gpu1",),)}
    assert lookout.answered({"a": Home(("gpu0",), False), "b": here}) == {"b": (("gpu0",),)}
    known.remove("b")
    assert lookout.answered({"a": here, "b": there}) == {}, "removed while it was thought about"


def test_measured_costs_take_the_place_of_those_configured() -> None:
    stage = Stage()
    stage.scheduler.on_arrival(0.0, Ticket("t", "a"))
    stage.scheduler.on_loaded(100.0, "a")
    site = measured_site(stage.scheduler)
    assert [t.costs.load_s > 10.0 for t in site.tenants] == [True, False, False, False]
    assert site.devices == _site().devices


async def test_thinking_elsewhere_gives_the_same_answer() -> None:
    tenants = (
        Tenant("wide", 1.0, (("gpu0", "gpu1"),), apart=frozenset({"one"})),
        Tenant("pin", 0.5, (("gpu1",),), pinned=True),
        Tenant("lora", 0.0, base="wide"),
        *_site("abc").tenants,
    )
    site = Site({"gpu0": 2.0, "gpu1": 2.0}, tenants, host_gib=3.0)
    asked = [(float(i), ("a", "b", "lora", "gone")[i % 4]) for i in range(40)]
    homes = {"a": Home(("gpu0",), True), "gone": Home(("gpu0",), True)}
    question = Question(site, homes, asked, 40.0, 60.0, 60.0)
    assert await answered_elsewhere(question) == question.answer()


async def test_a_question_without_an_answer_is_told_in_its_words() -> None:
    nonsense = Question(_site(), {}, [(0.0, "a"), (1.0, "b")], 1.0, half_life_s=0.0, horizon_s=60.0)
    with pytest.raises(CoeError, match="no new placement was found: ZeroDivisionError"):
        await answered_elsewhere(nonsense)


class Hours:
    """Pauses that end when a test says so."""

    def __init__(self) -> None:
        self.now = 0.0
        self._over = asyncio.Event()

    async def pause(self, seconds: float) -> None:
        self.now += seconds
        await self._over.wait()
        self._over.clear()

    async def pass_(self) -> None:
        self._over.set()
        for _ in range(5):
            await asyncio.sleep(0)


async def test_a_dispatcher_takes_its_rebalancer_along(caplog: pytest.LogCaptureFixture) -> None:
    hours, told = Hours(), list[Placements]()
    answers: list[Mapping[str, Home] | CoeError] = [
        CoeError("it was killed"),
        {"a": Home(("gpu1",), True)},
    ]

    async def think(question: Question) -> Mapping[str, Home]:
        assert {expert_id for _, expert_id in question.asked} == {"a"}
        answer = answers.pop(0)
        if isinstance(answer, CoeError):
            raise answer
        return answer

    def scheduler(effects: Effects) -> SwapScheduler:
        return SwapScheduler(_site(), effects)

    engines = {id_: ScriptedEngine(Expert(id_, ScriptedSpec())) for id_ in IDS}
    dispatcher = Dispatcher(engines, scheduler)
    dispatcher.accompany(Rebalancer(_site, told.append, 60.0, think, hours.pause))
    for _ in range(LEAST_ASKED):
        async with dispatcher.turn("a"):
            pass
    with caplog.at_level(logging.INFO):
        await hours.pass_()
        assert "experts stay where they are: it was killed" in caplog.text
        assert told == []
        await hours.pass_()
    assert told == [{"a": (("gpu1",),)}]
    assert "a to gpu1" in caplog.text
    n_tasks = len(asyncio.all_tasks())
    await dispatcher.shut_down(5.0)
    assert len(asyncio.all_tasks()) == n_tasks - 1, "it ends with the dispatcher"


def _pool(folder: Path, scheduling: str) -> Path:
    experts = "\n".join(
        f"  - {{id: {id_}, engine: {{kind: scripted, default: {id_}}}, footprint: {{gib: 1}}}}"
        for id_ in IDS
    )
    file = folder / "experts.yaml"
    file.write_text(f"experts:\n{experts}\nrouter: {{scorer: random}}\n{scheduling}\n")
    return file


def test_a_pool_without_two_devices_has_nothing_to_rebalance(tmp_path: Path) -> None:
    file = _pool(tmp_path, "devices: {gpu0: 9}\nscheduling: {rebalance_s: 60}")
    with pytest.raises(ConfigError, match="two or more") as caught:
        load_composition(file)
    assert caught.value.key == "scheduling.rebalance_s"


@pytest.mark.slow
async def test_a_pool_with_two_devices_is_rebalanced_while_it_is_served(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    scheduling = "devices: {gpu0: 1, gpu1: 1}\nscheduling: {rebalance_s: 4}"
    composition = load_composition(_pool(tmp_path, scheduling))
    request = GenerationRequest((Message("user", "hi"),))
    try:
        with caplog.at_level(logging.INFO):
            async with asyncio.timeout(60):
                while "from their next load on" not in caplog.text:
                    for id_ in IDS:
                        decision = composition.decide(request, id_)
                        assert (await composition.complete(request, decision)).text == id_
                    await asyncio.sleep(0.05)
                for id_ in IDS:
                    decision = composition.decide(request, id_)
                    assert (await composition.complete(request, decision)).text == id_
    finally:
        await composition.stop()
