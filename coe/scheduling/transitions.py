"""Moving weights: what begins, what ends, what goes wrong, and the ledger kept true to it."""

from __future__ import annotations

from dataclasses import dataclass

from coe.errors import CoeError
from coe.scheduling.choice import demand
from coe.scheduling.effects import Effects
from coe.scheduling.lane import Lane
from coe.scheduling.memory import Memory
from coe.scheduling.terms import Residency, SwapRules


@dataclass(slots=True)
class Counts:
    """Everything that has happened, counted once each."""

    arrived: int = 0
    granted: int = 0
    refused: int = 0
    cancelled: int = 0
    """Callers that went before they were granted, whether they said so or were found gone."""
    finished: int = 0
    lost: int = 0
    """Granted, and then the expert crashed."""
    loads: int = 0
    """Begun from disk; wakes are counted apart."""
    wakes: int = 0
    prefetches: int = 0
    """Loads and wakes, counted there too, that nobody waited for when they began."""
    sleeps: int = 0
    evictions: int = 0
    failures: int = 0
    """Loads, wakes, sleeps and evictions that failed, and crashes."""


class Transitions:
    """Begins moves through the effects and settles them when events tell how they went."""

    def __init__(self, effects: Effects, memory: Memory, rules: SwapRules) -> None:
        self.counts = Counts()
        self._effects = effects
        self._memory = memory
        self._rules = rules
        self._sleepers: dict[str, Lane] = {}
        self._discarded: dict[str, Lane] = {}
        self.stuck: dict[str, Lane] = {}
        """Those whose eviction failed and is to be tried again at their `retry_at_s`."""

    def begin_load(self, now: float, lane: Lane, devices: tuple[str, ...], waited: bool) -> None:
        """Takes the memory and starts; the caller has made sure that it fits."""
        lane.woke = lane.residency is Residency.ASLEEP
        lane.is_kept_away = lane.departure is not None
        self._sleepers.pop(lane.expert_id, None)
        lane.residency = Residency.LOADING
        lane.devices = devices
        lane.moved_at_s = now
        self._memory.hold(lane, lane.tenant.gib, lane.host_gib)
        if lane.woke:
            self.counts.wakes += 1
            lane.moves.wakes += 1
        else:
            self.counts.loads += 1
            lane.moves.loads += 1
        if not waited:
            self.counts.prefetches += 1
            lane.moves.prefetches += 1
            self._effects.prefetch(lane.expert_id, devices)
        elif lane.woke:
            self._effects.wake(lane.expert_id, devices)
        else:
            self._effects.load(lane.expert_id, devices)

    def loaded(self, now: float, lane: Lane) -> None:
        (lane.wake_s if lane.woke else lane.load_s).add(now - lane.moved_at_s)
        self._memory.hold(lane, lane.tenant.gib, 0.0)
        lane.residency = Residency.AWAKE
        lane.opened_s = now
        lane.gate = len(lane.line)
        lane.last_error = None

    def load_failed(self, now: float, lane: Lane, error: CoeError) -> None:
        lane.last_error = error
        self._failed(now, lane)
        self._forget(lane)

    def begin_leave(self, now: float, lane: Lane, to_disk: bool = False) -> bool:
        """Sends an idle or sleeping expert away; False: host memory has to be freed first,
        which has begun.
        """
        size = lane.tenant.asleep_gib
        can_sleep = lane.residency is Residency.AWAKE and size is not None and not to_disk
        if can_sleep and size is not None and size > self._memory.host_free:
            discards = self._discards(now, lane, size - self._memory.host_free)
            for sleeper in discards:
                self._begin_evict(now, sleeper)
            if discards or self._host_gib_coming() >= size:
                return False
            can_sleep = False
        if not can_sleep or size is None:
            self._begin_evict(now, lane)
            return True
        lane.residency = Residency.LEAVING
        lane.is_leaving_for_disk = False
        lane.was_asleep = False
        lane.moved_at_s = now
        self._memory.hold(lane, lane.held_gib, size)
        self.counts.sleeps += 1
        lane.moves.sleeps += 1
        self._effects.sleep(lane.expert_id)
        return True

    def slept(self, now: float, lane: Lane, residue_gib: float | None) -> None:
        lane.sleep_s.add(now - lane.moved_at_s)
        lane.residency = Residency.ASLEEP
        residue = lane.tenant.residue_gib if residue_gib is None else residue_gib
        self._memory.hold(lane, min(residue, lane.tenant.gib), lane.host_gib)
        self._sleepers[lane.expert_id] = lane

    def evicted(self, now: float, lane: Lane) -> None:
        lane.evict_s.add(now - lane.moved_at_s)
        self._forget(lane)

    def leave_failed(self, now: float, lane: Lane) -> None:
        """A sleep that failed becomes an eviction; an eviction is tried again later."""
        self._failed(now, lane)
        if lane.is_leaving_for_disk:
            self.stuck[lane.expert_id] = lane
        else:
            self._begin_evict(now, lane)

    def retry_leaves(self, now: float) -> None:
        for lane in [lane for lane in self.stuck.values() if now >= lane.retry_at_s]:
            self._begin_evict(now, lane)

    def crashed(self, now: float, lane: Lane) -> None:
        self.counts.lost += len(lane.granted)
        lane.granted.clear()
        self._failed(now, lane)
        self._forget(lane)

    def _begin_evict(self, now: float, lane: Lane) -> None:
        if lane.residency is not Residency.LEAVING:
            lane.was_asleep = lane.residency is Residency.ASLEEP
        if lane.was_asleep:
            self._discarded[lane.expert_id] = lane
        self._sleepers.pop(lane.expert_id, None)
        self.stuck.pop(lane.expert_id, None)
        lane.residency = Residency.LEAVING
        lane.is_leaving_for_disk = True
        lane.moved_at_s = now
        self.counts.evictions += 1
        lane.moves.evictions += 1
        self._effects.evict(lane.expert_id)

    def _failed(self, now: float, lane: Lane) -> None:
        self.counts.failures += 1
        lane.moves.failures += 1
        pause = self._rules.backoff_s * 2.0 ** min(lane.failures, 30)
        lane.failures += 1
        lane.retry_at_s = now + min(self._rules.max_backoff_s, pause)

    def _forget(self, lane: Lane) -> None:
        """It is on disk and holds nothing."""
        for register in (self._sleepers, self._discarded, self.stuck):
            register.pop(lane.expert_id, None)
        self._memory.hold(lane, 0.0, 0.0)
        lane.residency = Residency.DISK
        lane.devices = ()
        lane.is_leaving_for_disk = False

    def _host_gib_coming(self) -> float:
        """Free once the sleepers that were sent away have gone; one that is stuck may never."""
        leaving = (lane.host_gib for id_, lane in self._discarded.items() if id_ not in self.stuck)
        return self._memory.host_free + sum(leaving)

    def _discards(self, now: float, lane: Lane, short_gib: float) -> list[Lane]:
        """The sleepers less in demand than the lane whose host memory it needs; none if the
        whole of it cannot be had from them.
        """
        mine = demand(lane, now)
        others = [one for one in self._sleepers.values() if not one.line]
        others.sort(key=lambda one: demand(one, now) / one.host_gib if one.host_gib else 0.0)
        chosen: list[Lane] = []
        for other in others:
            if short_gib <= 0.0:
                break
            if demand(other, now) < mine:
                chosen.append(other)
                short_gib -= other.host_gib
        return chosen if short_gib <= 0.0 else []
