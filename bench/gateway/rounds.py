"""Rounds: every gateway in turn, started afresh, the direct way beside them; A B C, B C A, …

A round is discarded where the machine was busy with something else, and done again.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bench.gateway import ours
from bench.gateway.mock import MODEL
from bench.gateway.processes import GATEWAY_CORE, Ended, serving
from bench.gateway.scenes import NoAnswer, Scenes, Settings, Target, all_scenes, probe_ms
from bench.gateway.systems import System

Round = dict[str, Scenes]
GATE_MS = 5.0
"""A round counts only if the direct way's p99 at 200 requests a second stays below."""
_PROBE_S = 3.0


class TooBusy(Exception):
    """So many rounds were discarded that the run is."""


@dataclass(slots=True)
class Measured:
    """What a run found."""

    rounds: list[Round] = field(default_factory=list)
    probes_ms: list[float] = field(default_factory=list)
    """Before and after every round, also of those that were discarded."""
    n_discarded: int = 0
    failed: dict[str, str] = field(default_factory=dict)
    """Why a system has no figures: it takes no part from then on."""


async def measured(
    systems: Sequence[System],
    settings: Settings,
    expert_url: str,
    folder: Path,
    is_gated: bool = True,
) -> Measured:
    """Raises `TooBusy` once as many rounds were discarded as were wanted."""
    found = Measured()
    probe_s = min(_PROBE_S, settings.seconds)
    while len(found.rounds) < settings.rounds:
        turn = len(found.rounds) % max(1, len(systems))
        order = [*systems[turn:], *systems[:turn]]
        before_ms = await probe_ms(expert_url, MODEL, probe_s)
        round_ = await _round(order, settings, expert_url, folder, found)
        after_ms = await probe_ms(expert_url, MODEL, probe_s)
        found.probes_ms += [before_ms, after_ms]
        if is_gated and max(before_ms, after_ms) >= GATE_MS:
            found.n_discarded += 1
            _say(f"discarded: direct p99 {before_ms:g} ms before, {after_ms:g} ms after")
            if found.n_discarded >= settings.rounds:
                raise TooBusy(f"{found.n_discarded} rounds were discarded; use a quiet machine")
            continue
        found.rounds.append(round_)
        _say(f"round {len(found.rounds)} of {settings.rounds} done")
    return found


async def _round(
    systems: Sequence[System],
    settings: Settings,
    expert_url: str,
    folder: Path,
    found: Measured,
) -> Round:
    direct = Target(expert_url, MODEL, None, expert_url)
    round_ = {"direct": await all_scenes(direct, settings)}
    for system in systems:
        if system.name in found.failed:
            continue
        _say(system.name)
        try:
            round_[system.name] = await _one(system, settings, expert_url, folder)
        except (Ended, NoAnswer) as error:
            found.failed[system.name] = str(error)
            _say(f"{system.name} takes no part any more: {error}")
    return round_


async def _one(system: System, settings: Settings, expert_url: str, folder: Path) -> Scenes:
    launch = system.launch()
    url = f"http://127.0.0.1:{launch.port}"
    texts = ours.prompts() if system.routes else None
    home = folder / "homes" / system.name
    with serving(launch.command, home, GATEWAY_CORE, launch.environment) as server:
        target = Target(url, system.model, server, expert_url)
        if texts is not None:
            target = Target(url, system.model, server, expert_url, texts)
        return await all_scenes(target, settings)


def _say(text: str) -> None:
    print(f"gateway: {text}", file=sys.stderr, flush=True)
