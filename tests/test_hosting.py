"""Pools larger than their memory, from the file to the answer."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

from coe.assembly import load_composition
from coe.assembly.hosting import site_of
from coe.config import load_config
from coe.engines.base import EngineState
from coe.errors import ConfigError
from coe.scheduling.hosted import HostedEngine
from coe.types import GenerationRequest, Message

SCRIPTED = """
experts:
  - {id: a, engine: {kind: scripted, default: a}, footprint: {gib: 10}}
  - {id: b, engine: {kind: scripted, default: b}, footprint: {gib: 10}}
  - {id: c, engine: {kind: scripted, default: c}}
router: {scorer: random}
"""


def _pool(folder: Path, text: str) -> Path:
    file = folder / "experts.yaml"
    file.write_text(text, encoding="utf-8")
    return file


async def test_a_pool_larger_than_its_memory_is_served(tmp_path: Path) -> None:
    composition = load_composition(_pool(tmp_path, f"{SCRIPTED}\nlocal_memory_gib: 10\n"))
    request = GenerationRequest((Message("user", "hi"),))

    async def ask(expert_id: str) -> str:
        decision = composition.decide(request, expert_id)
        return (await composition.complete(request, decision)).text

    asked = "abcab" * 4
    assert "".join(await asyncio.gather(*map(ask, asked))) == asked
    states = {id_: engine.state for id_, engine in composition.engines.items()}
    assert sum(states[id_] is EngineState.READY for id_ in "ab") == 1
    assert not isinstance(composition.engines["c"], HostedEngine)
    await composition.stop()
    assert all(e.state is EngineState.STOPPED for e in composition.engines.values())


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ("local_memory_gib: 9", "'a' needs 10 GiB and fits nowhere"),
        ("devices: {gpu0: 9}", "'a' needs 10 GiB and fits nowhere"),
    ],
)
def test_an_expert_that_fits_nowhere_is_told_at_the_start(
    tmp_path: Path, more: str, words: str
) -> None:
    file = _pool(tmp_path, f"{SCRIPTED}\n{more}\n")
    with pytest.raises(ConfigError, match=words) as caught:
        load_composition(file)
    assert caught.value.file == str(file)


def test_a_vllm_expert_has_to_say_how_large_it_is(tmp_path: Path) -> None:
    file = _pool(
        tmp_path,
        "experts: [{id: a, engine: {kind: vllm, model: m}}]\nrouter: {scorer: random}",
    )
    with pytest.raises(ConfigError, match="how much memory") as caught:
        site_of(load_config(file))
    assert caught.value.key == "experts[0].footprint.gib"


def test_an_adapter_needs_a_vllm_base(tmp_path: Path) -> None:
    (tmp_path / "adapter").mkdir()
    file = _pool(
        tmp_path,
        "experts:\n"
        "  - {id: a, engine: {kind: scripted}}\n"
        "  - {id: b, engine: {kind: vllm-lora, base: a, path: adapter}}\n"
        "router: {scorer: random}",
    )
    with pytest.raises(ConfigError, match="no expert of kind 'vllm'"):
        load_composition(file)


def test_an_adapter_shares_its_bases_room(tmp_path: Path) -> None:
    (tmp_path / "adapter").mkdir()
    file = _pool(
        tmp_path,
        "experts:\n"
        "  - {id: a, engine: {kind: vllm, model: m}, footprint: {gib: 2, asleep_gib: 2}}\n"
        "  - {id: b, engine: {kind: vllm-lora, base: a, path: adapter}}\n"
        "router: {scorer: random}",
    )
    site = site_of(load_config(file))
    assert site is not None
    base, adapter = site.tenants
    assert (base.gib, base.asleep_gib, adapter.base) == (2.0, None, "a")


async def test_two_servers_with_room_for_one_take_turns(tmp_path: Path) -> None:
    experts = "\n".join(
        f"  - {{id: {id_}, engine: {{kind: vllm, model: {id_}, canary_tokens: 0, command: "
        f"[{sys.executable}, -m, coe.engines.fake_vllm]}}, footprint: {{gib: 1}}, max_tokens: 8}}"
        for id_ in ("one", "two")
    )
    file = _pool(
        tmp_path, f"experts:\n{experts}\nrouter: {{scorer: random}}\nlocal_memory_gib: 1\n"
    )
    composition = load_composition(file)
    request = GenerationRequest((Message("user", "hello"),))
    try:
        answers = await asyncio.gather(
            *(
                composition.complete(request, composition.decide(request, expert_id))
                for expert_id in ("one", "two", "one")
            )
        )
        assert all(answer.text for answer in answers)
        states = [engine.state for engine in composition.engines.values()]
        assert states.count(EngineState.READY) == 1
    finally:
        await composition.stop()
    assert (tmp_path / ".coe").is_dir()
