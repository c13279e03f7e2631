"""The file read again while it is served: what changes, what goes on, and what is refused."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from coe.assembly import load_operated
from coe.assembly.operating import Operator
from coe.assembly.reloading import Reloader
from coe.composition import Composition
from coe.engines.base import EngineState
from coe.engines.scripted import ScriptedEngine
from coe.engines.wrapping import innermost
from coe.errors import ConfigError, ExpertRemoved, UnknownExpert
from coe.types import GenerationRequest, Message

REQUEST = GenerationRequest((Message("user", "hi"),))
ONE = "{id: one, engine: {kind: scripted, default: from one}}"
TWO = "{id: two, engine: {kind: scripted, default: from two}}"
HERE = "{id: here, engine: {kind: scripted, default: from here}, footprint: {gib: 1.0}}"
SLOW = "{id: slow, engine: {kind: scripted, default: a b c d, tokens_per_s: 100}}"

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def put(*experts: str, top: str = "router: {scorer: random}") -> Path:
        file = tmp_path / "experts.yaml"
        file.write_text(f"experts: [{', '.join(experts)}]\n{top}\n", "utf-8")
        return file

    return put


@asynccontextmanager
async def _served(file: Path) -> AsyncIterator[tuple[Composition, Operator, Reloader]]:
    composition, operator = load_operated(file)
    try:
        yield composition, operator, Reloader(operator.served)
    finally:
        await composition.stop(1.0)


async def _ask(composition: Composition, expert_id: str) -> str:
    decision = composition.decide(REQUEST, expert_id)
    return (await composition.complete(REQUEST, decision)).text


async def test_reload_keeps_the_engines_of_experts_that_did_not_change(write: Write) -> None:
    async with _served(write(ONE, TWO, HERE)) as (composition, _, reloader):
        assert await _ask(composition, "here") == "from here"
        engines = dict(composition.engines)
        write(TWO, HERE.replace("{id: here", "{id: here, description: nearby"), ONE)
        done = await reloader.reload()
        assert set(done.kept) == {"one", "two", "here"}
        assert {id_: composition.engines[id_] for id_ in engines} == engines
        assert composition.engines["here"].state is EngineState.READY
        assert composition.pool.ids == ("two", "here", "one")


async def test_reload_adds_changes_and_removes(write: Write) -> None:
    async with _served(write(ONE, TWO)) as (composition, operator, reloader):
        write(ONE.replace("from one", "changed"), "{id: three, engine: {kind: scripted}}")
        done = await reloader.reload()
        assert (done.added, done.changed, done.removed) == (("three",), ("one",), ("two",))
        assert await _ask(composition, "one") == "changed"
        assert composition.router.pool.ids == ("one", "three")
        with pytest.raises(UnknownExpert):
            composition.decide(REQUEST, "two")
        assert [expert.id for expert in operator.report().experts] == ["one", "three"]


async def test_reload_lets_answers_end_before_their_engine_is_stopped(write: Write) -> None:
    async with _served(write(SLOW, ONE)) as (composition, _, reloader):
        engine = innermost(composition.engines["slow"])
        assert isinstance(engine, ScriptedEngine)
        asking = asyncio.create_task(_ask(composition, "slow"))
        while not engine.requests:
            await asyncio.sleep(0)
        write(ONE)
        await reloader.reload()
        for _ in range(10):
            await asyncio.sleep(0)
        assert not asking.done()
        states = [engine.state]
        assert await asking == "a b c d"
        await asyncio.wait_for(reloader.settle(), 5)
        assert [*states, engine.state] == [EngineState.READY, EngineState.STOPPED]


async def test_reload_exchanges_an_expert_that_is_hosted_here(write: Write) -> None:
    async with _served(write(ONE, HERE)) as (composition, operator, reloader):
        assert await _ask(composition, "here") == "from here"
        write(ONE, HERE.replace("from here", "another").replace("1.0", "1.5"))
        assert (await reloader.reload()).changed == ("here",)
        with pytest.raises(ExpertRemoved):
            await _ask(composition, "here")
        await asyncio.wait_for(reloader.settle(), 5)
        assert await _ask(composition, "here") == "another"
        hosting = operator.expert("here").hosting
        assert hosting is not None


async def test_reload_hosts_who_was_not_and_lets_go_who_was(write: Write) -> None:
    bare = HERE.replace(", footprint: {gib: 1.0}", "")
    async with _served(write(ONE, HERE)) as (composition, operator, reloader):
        for expert, is_hosted in ((bare, False), (HERE, True)):
            write(ONE, expert)
            await reloader.reload()
            await asyncio.wait_for(reloader.settle(), 5)
            assert await _ask(composition, "here") == "from here"
            assert (operator.expert("here").hosting is not None) is is_hosted


@pytest.mark.parametrize(
    ("experts", "top", "key"),
    [
        ((ONE, "{id: two, engine: {kind: scripted, nonsense: 1}}"), "router: {scorer: random}", ""),
        ((ONE, TWO), "router: {scorer: random}\nlocal_memory_gib: 9", "local_memory_gib"),
        ((ONE, TWO), "router: {scorer: random, feedback: f.db}", "router.feedback"),
        ((ONE, TWO), "router: {scorer: knn}", ""),
        ((ONE, TWO.replace("two", "coe")), "router: {scorer: random}", "experts"),
        ((ONE, HERE.replace("1.0", "99.0")), "router: {scorer: random}", "experts"),
    ],
)
async def test_reload_of_what_cannot_be_served_changes_nothing(
    write: Write, experts: tuple[str, ...], top: str, key: str
) -> None:
    async with _served(write(ONE, TWO)) as (composition, operator, reloader):
        before = (composition.router, dict(composition.engines), operator.served.config)
        write(*experts, top=top)
        with pytest.raises(ConfigError) as caught:
            await reloader.reload()
        assert key in (caught.value.key or "")
        after = (composition.router, dict(composition.engines), operator.served.config)
        assert after == before
        assert await _ask(composition, "two") == "from two"
        write(ONE)
        assert (await reloader.reload()).removed == ("two",)


async def test_reload_drops_what_an_operator_added_and_the_file_does_not_name(
    write: Write,
) -> None:
    async with _served(write(ONE)) as (composition, operator, reloader):
        operator.add({"id": "new", "engine": {"kind": "scripted", "default": "from new"}})
        assert await _ask(composition, "new") == "from new"
        assert (await reloader.reload()).removed == ("new",)
        assert composition.pool.ids == ("one",)
