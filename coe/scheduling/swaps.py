"""Finding room: where an expert could go, who would leave, and whether that is worth it."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field

from coe.scheduling.choice import (
    Bid,
    Claim,
    Round,
    demand,
    disturbance,
    outweighs_at,
    quantum_s,
)
from coe.scheduling.eviction import EvictionPolicy, Resident
from coe.scheduling.lane import Lane
from coe.scheduling.memory import SLACK_GIB, Memory, freed_gib, needed_gib
from coe.scheduling.terms import Residency, Site, SwapRules


@dataclass(slots=True, eq=False)
class Swap:
    """A decision on its way: the target loads once all awaited have left."""

    target: Lane
    devices: tuple[str, ...]
    awaited: dict[str, Lane] = field(default_factory=dict)
    to_disk: bool = False
    """The awaited have to leave the devices altogether; asleep they would hold too much."""
    is_prefetch: bool = False

    def waits_for_busy(self) -> bool:
        return any(
            lane.residency is Residency.AWAKE and not lane.is_idle for lane in self.awaited.values()
        )


@dataclass(frozen=True, slots=True)
class Search:
    """What came of looking for room: a swap, or when to look again."""

    swap: Swap | None = None
    again_at_s: float = math.inf
    """Earliest time at which waiting alone changes the answer."""


class RoomFinder:
    """Looks for room. Changes nothing."""

    def __init__(
        self,
        site: Site,
        lanes: Collection[Lane],
        memory: Memory,
        rules: SwapRules,
        policy: EvictionPolicy,
    ) -> None:
        self._memory = memory
        self._rules = rules
        self._policy = policy
        self.pending: dict[str, Swap] = {}
        """Target → swap that has not begun to load."""
        self.round = Round()
        """As it was when it was last decided who is next."""
        self.chosen: dict[str, tuple[tuple[str, ...], ...]] = {}
        """Expert → those of its placements that it is to have from its next load on."""
        self.regard(site, lanes)

    def regard(self, site: Site, lanes: Collection[Lane]) -> None:
        """From now on these are the experts that there are."""
        self._site = site
        known = {lane.expert_id for lane in lanes}
        self.chosen = {id_: places for id_, places in self.chosen.items() if id_ in known}
        self._rivals = {
            lane.expert_id: [
                other
                for other in lanes
                if other is not lane and other.tenant.apart & lane.tenant.apart
            ]
            for lane in lanes
        }

    def placements(self, target: Lane) -> tuple[tuple[str, ...], ...]:
        """Where it may go: a sleeper only back to where it sleeps."""
        if target.residency is Residency.ASLEEP:
            return (target.devices,)
        return self.chosen.get(target.expert_id) or self._site.placements(target.tenant)

    def is_stranded(self, sleeper: Lane) -> bool:
        """Whether it can wake nowhere any more: pinned experts have come to where it sleeps."""
        for device in sleeper.devices:
            kept_gib = sum(
                lane.tenant.gib
                for lane in self._memory.holders((device,))
                if lane.tenant.pinned
                and lane.departure is None
                and lane.residency in (Residency.LOADING, Residency.AWAKE)
            )
            if sleeper.tenant.gib > self._site.devices[device] - kept_gib + SLACK_GIB:
                return True
        return False

    def find(self, target: Lane, now: float, bid: Bid, blocked: Collection[str] = ()) -> Search:
        """The least costly swap that this bid justifies. `blocked` devices are kept for others."""
        best: Swap | None = None
        best_cost = math.inf
        again_at_s = math.inf
        for devices in self.placements(target):
            if blocked and not set(devices).isdisjoint(blocked):
                continue
            found, cost, later_s = self._find_at(target, devices, now, bid)
            again_at_s = min(again_at_s, later_s)
            if found is not None and cost < best_cost:
                best, best_cost = found, cost
            if best_cost <= 0.0:
                break
        return Search(best, again_at_s)

    def find_spare(self, target: Lane, now: float) -> Swap | None:
        """Room for one that nobody waits for: free, or held by idle ones far less in demand."""
        most = demand(target, now) / self._rules.prefetch_ratio
        for devices in self.placements(target):
            if any(rival.is_on_device for rival in self._rivals[target.expert_id]):
                continue
            idle = [
                lane
                for lane in self._candidates(target, devices)
                if lane.is_idle and demand(lane, now) < most
            ]
            swap = self._swap(target, devices, idle, [], now)
            if swap is not None:
                swap.is_prefetch = True
                return swap
        return None

    def _find_at(
        self, target: Lane, devices: tuple[str, ...], now: float, bid: Bid
    ) -> tuple[Swap | None, float, float]:
        rivals = self._rivals_on_devices(target)
        if rivals is None:
            return None, math.inf, math.inf
        again_at_s = math.inf
        willing: list[Lane] = []
        for lane in self._candidates(target, devices):
            free_at_s = self._may_leave_at(lane, target, now, bid)
            if free_at_s <= now:
                willing.append(lane)
            else:
                again_at_s = min(again_at_s, free_at_s)
        for rival in rivals:
            if rival.residency is Residency.LEAVING:
                continue
            free_at_s = self._may_leave_at(rival, target, now, bid)
            if rival.promised_to is not None or free_at_s > now:
                return None, math.inf, free_at_s
        swap = self._swap(target, devices, willing, rivals, now)
        if swap is None:
            return None, math.inf, again_at_s
        disturbed = [lane for lane in swap.awaited.values() if not lane.is_spare]
        cost = sum(disturbance(lane, target, now, self.round) for lane in disturbed)
        if bid.claim is Claim.ORDINARY and cost > 0.0:
            price = self._rules.beta * cost
            enough_s = (outweighs_at(target, lane, now, price, self.round) for lane in disturbed)
            if (at_s := max(enough_s)) > now:
                return None, math.inf, at_s
        idle_cost = 1e-9 * len(swap.awaited)
        return swap, cost + idle_cost, again_at_s

    def _may_leave_at(self, lane: Lane, target: Lane, now: float, bid: Bid) -> float:
        """When this bid can make the lane leave, as far as that depends on time alone."""
        if lane.is_spare:
            return now
        if bid.claim is not Claim.ORDINARY:
            return now
        if lane.residency is not Residency.AWAKE:
            return math.inf
        if lane.line and not lane.is_gate_shut(now, quantum_s(lane, self._rules)):
            return lane.opened_s + quantum_s(lane, self._rules)
        price = self._rules.beta * disturbance(lane, target, now, self.round)
        return outweighs_at(target, lane, now, price, self.round)

    def _candidates(self, target: Lane, devices: tuple[str, ...]) -> Iterator[Lane]:
        """Whoever holds memory there and is not pinned, promised or leaving."""
        for lane in self._memory.holders(devices):
            if lane is target or lane.tenant.pinned or lane.promised_to is not None:
                continue
            if lane.residency is Residency.ASLEEP and lane.expert_id in self.pending:
                continue
            if lane.residency is not Residency.LEAVING:
                yield lane

    def _rivals_on_devices(self, target: Lane) -> list[Lane] | None:
        """Those it may not live with and that are there; None if one of them is on its way."""
        rivals = self._rivals[target.expert_id]
        if any(rival.expert_id in self.pending for rival in rivals):
            return None
        return [rival for rival in rivals if rival.is_on_device]

    def _swap(
        self,
        target: Lane,
        devices: tuple[str, ...],
        willing: list[Lane],
        rivals: list[Lane],
        now: float,
    ) -> Swap | None:
        """The swap in which the policy chose among the willing; None if they are not enough."""
        short = {device: needed_gib(target) - self._coming(device) for device in devices}
        must = {rival.expert_id: rival for rival in rivals}
        if all(gib <= SLACK_GIB for gib in short.values()):
            return Swap(target, devices, must)
        others = [lane for lane in willing if lane.expert_id not in must]
        leaving = [rival for rival in rivals if rival.residency is not Residency.LEAVING]
        for to_disk in (False, True) if others or leaving else ():
            needs = {
                device: gib
                - sum(freed_gib(rival, to_disk) for rival in leaving if device in rival.devices)
                for device, gib in short.items()
            }
            residents = [self._resident(lane, target, now, to_disk) for lane in others]
            chosen = self._policy.victims(needs, residents)
            if chosen is not None:
                by_id = {lane.expert_id: lane for lane in others}
                awaited = {**must, **{id_: by_id[id_] for id_ in chosen}}
                return Swap(target, devices, awaited, to_disk)
        return None

    def _coming(self, device: str) -> float:
        """What will be free there and is not meant for a swap already decided."""
        meant = sum(
            needed_gib(swap.target) for swap in self.pending.values() if device in swap.devices
        )
        return self._memory.coming(device) - meant

    def _resident(self, lane: Lane, target: Lane, now: float, to_disk: bool) -> Resident:
        frees = dict.fromkeys(lane.devices, freed_gib(lane, to_disk))
        if lane.is_spare:
            return Resident(lane.expert_id, frees, math.inf, lane.credit)
        cost = disturbance(lane, target, now, self.round)
        return Resident(lane.expert_id, frees, 0.0, cost)
