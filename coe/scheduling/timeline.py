"""Steps on clocks: what is loaded, served and sent away in which order, and when.

Every device has a clock. A step begins when all it takes are free; serving also waits for the
stage before to be over, while loading for the next stage need not.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence

from coe.scheduling.copies import Copy, Fleet, Share
from coe.scheduling.plan import Action, Step

Carried = Sequence[frozenset[Copy]]
"""The copies that stay resident into each stage."""


class Timeline:
    """Turns shares and what is carried into steps."""

    def __init__(
        self, fleet: Fleet, stages: Sequence[Sequence[Share]], sleepers: Collection[Copy]
    ) -> None:
        """`sleepers`: those that go to host memory when they leave and are needed again."""
        self._fleet = fleet
        self._stages = stages
        self._sleepers = frozenset(sleepers)
        self._residents = dict.fromkeys(sorted(fleet.awake))
        self._asleep = set(fleet.asleep)
        self._room = fleet.room()
        self._clock = dict.fromkeys(self._room, 0.0)
        self._uses: dict[Copy, list[int]] = {}
        for stage, shares in enumerate(stages):
            for share in shares:
                self._uses.setdefault(share.copy, []).append(stage)
        self._steps: list[Step] = []
        self._over_s = 0.0
        for copy in self._residents:
            self._take(copy, -1.0)
        for copy in self._asleep & self._sleepers:
            self._residue(copy, -1.0)

    def steps(self, carried: Carried) -> tuple[Step, ...]:
        """All steps, by the time they begin; each device's in the order it does them."""
        for copy in sorted(self._asleep - self._sleepers):
            self._step(Action.EVICT, copy, 0)
            self._asleep.discard(copy)
        for stage, shares in enumerate(self._stages):
            after = carried[stage + 1] if stage + 1 < len(carried) else frozenset[Copy]()
            self._run(stage, shares, carried[stage], after)
            serving = (s.end_s for s in self._steps if s.action is Action.SERVE)
            self._over_s = max(serving, default=0.0)
        return tuple(sorted(self._steps, key=lambda step: step.start_s))

    def _run(
        self,
        stage: int,
        shares: Sequence[Share],
        before: frozenset[Copy],
        after: frozenset[Copy],
    ) -> None:
        """One stage: 1. those who are here, 2. those who come and go, 3. those who stay on."""
        kept = before & after
        here = [s for s in shares if s.copy in self._residents]
        for share in sorted(here, key=lambda s: s.copy in after):
            self._serve(stage, share)
        others = [s for s in shares if s not in here]
        for share in _longest_first(s for s in others if s.copy not in after):
            self._bring(stage, share.copy, kept)
            self._serve(stage, share)
        for share in _longest_first(s for s in shares if s.copy in after):
            if share.copy not in self._residents:
                self._bring(stage, share.copy, after)
            if share in others:
                self._serve(stage, share)

    def _serve(self, stage: int, share: Share) -> None:
        for one in share.served:
            self._step(
                Action.SERVE, share.copy, stage, (one.expert_id, one.requests, one.service_s)
            )

    def _bring(self, stage: int, copy: Copy, kept: Collection[Copy]) -> None:
        for victim in self._victims(stage, copy, kept):
            self._leave(stage, victim)
        is_asleep = copy in self._asleep
        self._step(Action.WAKE if is_asleep else Action.LOAD, copy, stage)
        if is_asleep:
            self._asleep.discard(copy)
            self._residue(copy, 1.0)
        self._residents[copy] = None
        self._take(copy, -1.0)

    def _leave(self, stage: int, copy: Copy) -> None:
        sleeps = copy in self._sleepers and self._next_use(copy, stage) < math.inf
        self._step(Action.SLEEP if sleeps else Action.EVICT, copy, stage)
        del self._residents[copy]
        self._take(copy, 1.0)
        if sleeps:
            self._asleep.add(copy)
            self._residue(copy, -1.0)

    def _victims(self, stage: int, copy: Copy, kept: Collection[Copy]) -> list[Copy]:
        """Who leaves to make room: those needed last of all first, and nobody who is kept."""
        if self._fleet.tenants[copy.expert_id].pinned:
            return []  # Its room is kept free from the start.
        lacks = {
            name: amount - self._room[name] for name, amount in self._fleet.holds(copy).items()
        }
        if copy in self._asleep:
            for device in copy.devices:
                lacks[device] -= self._fleet.tenants[copy.expert_id].residue_gib
        able = [
            c
            for c in self._residents
            if c not in kept and not self._fleet.tenants[c.expert_id].pinned
        ]
        able.sort(key=lambda c: -self._next_use(c, stage))
        victims = []
        for victim in able:
            short = [name for name, gib in lacks.items() if gib > 1e-9]
            if not short:
                break
            frees = self._frees(victim, stage)
            if any(frees.get(name, 0.0) > 0.0 for name in short):
                victims.append(victim)
                for name in lacks:
                    lacks[name] -= frees.get(name, 0.0)
        return victims

    def _frees(self, copy: Copy, stage: int) -> dict[str, float]:
        frees = self._fleet.holds(copy)
        if copy in self._sleepers and self._next_use(copy, stage) < math.inf:
            for device in copy.devices:
                frees[device] -= self._fleet.tenants[copy.expert_id].residue_gib
        return frees

    def _next_use(self, copy: Copy, stage: int) -> float:
        return next((float(s) for s in self._uses.get(copy, ()) if s > stage), math.inf)

    def _take(self, copy: Copy, sign: float) -> None:
        if self._fleet.tenants[copy.expert_id].pinned:
            return
        for name, amount in self._fleet.holds(copy).items():
            self._room[name] += sign * amount

    def _residue(self, copy: Copy, sign: float) -> None:
        for device in copy.devices:
            self._room[device] += sign * self._fleet.tenants[copy.expert_id].residue_gib

    def _step(
        self,
        action: Action,
        copy: Copy,
        stage: int,
        served: tuple[str, tuple[int, int], float] | None = None,
    ) -> None:
        costs = self._fleet.tenants[copy.expert_id].costs
        seconds = {
            Action.LOAD: costs.load_s,
            Action.WAKE: costs.wake_s,
            Action.SLEEP: costs.sleep_s,
            Action.EVICT: costs.evict_s,
        }.get(action, served[2] if served else 0.0)
        taken = list(self._fleet.holds(copy))
        start_s = max(self._clock[name] for name in taken)
        if action is Action.SERVE:
            start_s = max(start_s, self._over_s)
        self._clock.update(dict.fromkeys(taken, start_s + seconds))
        expert_id, requests = (served[0], served[1]) if served else (copy.expert_id, (0, 0))
        self._steps.append(
            Step(action, expert_id, copy.devices, stage, start_s, start_s + seconds, requests)
        )


def _longest_first(shares: Iterable[Share]) -> list[Share]:
    """Those that span most devices first, so that others do not wait for them."""
    return sorted(shares, key=lambda s: (-len(s.copy.devices), -s.work_s, s.copy))
