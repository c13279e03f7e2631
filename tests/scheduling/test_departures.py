"""Experts that an operator sends away, adds and removes: events and their effects."""

from __future__ import annotations

import pytest

from coe.errors import ConfigError, ExpertRemoved, RequestError, UnknownExpert
from coe.scheduling import Residency, Site, SwapScheduler, Tenant, Ticket
from coe.scheduling.recording import RecordingEffects


class Stage:
    """A scheduler over a device of two GiB and a host of one, and what it asked for."""

    def __init__(self, *tenants: Tenant) -> None:
        self.effects = RecordingEffects()
        self.scheduler = SwapScheduler(Site({"g": 2.0}, tenants, 1.0), self.effects)
        self.after("start", 0.0)

    def after(self, event: str, now: float, *arguments: object) -> list[str]:
        getattr(self.scheduler, f"on_{event}")(now, *arguments)
        return self.effects.taken()

    def arrive(self, now: float, id_: str, expert_id: str) -> list[str]:
        return self.after("arrival", now, Ticket(id_, expert_id))

    def bring(self, expert_id: str) -> None:
        self.arrive(0.0, "first", expert_id)
        self.after("loaded", 0.0, expert_id)
        self.after("finish", 0.0, Ticket("first", expert_id))


def test_dismissed_expert_sleeps_if_it_can_and_stays_away_until_asked() -> None:
    stage = Stage(Tenant("a", 1.0, asleep_gib=1.0))
    stage.bring("a")
    assert stage.after("dismiss", 1.0, "a") == ["sleep a"]
    assert stage.scheduler.is_leaving("a")
    assert stage.after("slept", 2.0, "a") == []
    assert not stage.scheduler.is_leaving("a")
    assert stage.after("tick", 3.0) == [], "free memory alone must not bring it back"
    assert stage.arrive(4.0, "1", "a") == ["wake a on g"]


def test_dismissal_to_disk_evicts_a_sleeper() -> None:
    stage = Stage(Tenant("a", 1.0, asleep_gib=1.0))
    stage.bring("a")
    stage.after("dismiss", 1.0, "a")
    stage.after("slept", 1.0, "a")
    assert stage.after("dismiss", 2.0, "a", True) == ["evict a"]
    assert stage.after("evicted", 2.0, "a") == []
    assert stage.arrive(3.0, "1", "a") == ["load a on g"]


def test_dismissed_expert_serves_who_waited_and_then_who_came_later_on_its_return() -> None:
    stage = Stage(Tenant("a", 1.0, max_in_flight=1))
    stage.bring("a")
    assert stage.arrive(1.0, "1", "a") == ["grant 1"]
    stage.arrive(1.0, "2", "a")
    assert stage.after("dismiss", 1.0, "a", True) == []
    assert stage.arrive(1.5, "3", "a") == []
    assert stage.after("finish", 2.0, Ticket("1", "a")) == ["grant 2"]
    assert stage.after("finish", 3.0, Ticket("2", "a")) == ["evict a"]
    assert stage.after("evicted", 4.0, "a") == ["load a on g"]
    assert stage.after("loaded", 5.0, "a") == ["grant 3"]


def test_pinned_expert_is_away_until_somebody_asks_and_is_pinned_again_then() -> None:
    stage = Stage(Tenant("p", 1.0, placements=(("g",),), pinned=True), Tenant("b", 1.0))
    stage.after("loaded", 0.0, "p")
    assert stage.after("dismiss", 1.0, "p") == ["evict p"]
    assert stage.after("evicted", 1.0, "p") == []
    assert stage.after("tick", 2.0) == []
    assert stage.arrive(3.0, "1", "p") == ["load p on g"]
    stage.after("loaded", 4.0, "p")
    stage.after("finish", 5.0, Ticket("1", "p"))
    assert stage.after("dismiss", 6.0, "p") == ["evict p"]
    assert stage.after("evicted", 6.0, "p") == []


def test_adapter_cannot_be_sent_away_alone() -> None:
    stage = Stage(Tenant("a", 1.0), Tenant("lora", 0.0, base="a"))
    with pytest.raises(RequestError, match="send its base 'a' away"):
        stage.after("dismiss", 1.0, "lora")


def test_added_expert_is_served_like_the_others() -> None:
    stage = Stage(Tenant("a", 1.0))
    stage.after("add", 1.0, Tenant("b", 1.0))
    assert stage.arrive(1.0, "1", "b") == ["load b on g"]
    assert stage.after("loaded", 2.0, "b") == ["grant 1"]


@pytest.mark.parametrize(
    ("tenant", "words"),
    [
        (Tenant("b", 3.0), "'b' needs 3 GiB and fits nowhere"),
        (Tenant("a", 1.0), "'a' exists"),
        (Tenant("b", 1.0, placements=(("h",),)), "wants no device 'h'"),
        (Tenant("b", 1.5, placements=(("g",),), pinned=True), "'a' needs 1 GiB and fits nowhere"),
    ],
)
def test_expert_that_cannot_be_added_changes_nothing(tenant: Tenant, words: str) -> None:
    stage = Stage(Tenant("a", 1.0))
    with pytest.raises(ConfigError, match=words):
        stage.after("add", 1.0, tenant)
    assert [lane.expert_id for lane in stage.scheduler.lanes] == ["a"]
    assert [t.expert_id for t in stage.scheduler.site.tenants] == ["a"]


def test_removed_expert_refuses_who_waits_finishes_what_runs_and_is_forgotten() -> None:
    stage = Stage(Tenant("a", 1.0, max_in_flight=1), Tenant("b", 1.0))
    stage.bring("a")
    stage.arrive(1.0, "1", "a")
    stage.arrive(1.0, "2", "a")
    assert stage.after("remove", 2.0, "a") == ["refuse 2: ExpertRemoved"]
    assert stage.arrive(2.5, "3", "a") == ["refuse 3: ExpertRemoved"]
    assert isinstance(stage.effects.errors["3"], ExpertRemoved)
    with pytest.raises(ConfigError, match="still leaving"):
        stage.after("add", 2.5, Tenant("a", 1.0))
    assert stage.after("finish", 3.0, Ticket("1", "a")) == ["evict a"]
    assert stage.after("evicted", 4.0, "a") == []
    with pytest.raises(UnknownExpert):
        stage.arrive(5.0, "4", "a")
    stage.after("add", 6.0, Tenant("a", 2.0))
    assert stage.arrive(6.0, "5", "a") == ["load a on g"]


def test_base_is_not_removed_before_its_adapters() -> None:
    stage = Stage(Tenant("a", 1.0), Tenant("lora", 0.0, base="a"))
    stage.arrive(0.0, "1", "a")
    stage.after("loaded", 0.0, "a")
    stage.arrive(1.0, "2", "lora")
    with pytest.raises(RequestError, match="base of lora; remove those first"):
        stage.after("remove", 1.0, "a")
    assert stage.after("remove", 1.0, "lora") == []
    stage.after("finish", 2.0, Ticket("1", "a"))
    assert stage.after("remove", 2.0, "a") == [], "the adapter's last request still runs"
    assert stage.after("finish", 3.0, Ticket("2", "lora")) == ["evict a"]
    [lane] = stage.scheduler.lanes
    assert lane.residency is Residency.LEAVING


def test_events_of_an_expert_that_was_removed_change_nothing() -> None:
    stage = Stage(Tenant("a", 1.0), Tenant("b", 1.0))
    stage.after("remove", 0.0, "a")
    for event in ("loaded", "slept", "evicted", "leave_failed", "crashed"):
        assert stage.after(event, 1.0, "a") == []
    assert stage.after("cancel", 1.0, Ticket("1", "a")) == []
    assert stage.after("finish", 1.0, Ticket("1", "a")) == []


def test_sleeper_that_a_pinned_expert_keeps_from_waking_wakes_elsewhere() -> None:
    site = Site({"g0": 2.0, "g1": 2.0}, (Tenant("a", 1.5, asleep_gib=1.5),), 2.0)
    effects = RecordingEffects()
    scheduler = SwapScheduler(site, effects)
    scheduler.on_arrival(0.0, Ticket("1", "a"))
    scheduler.on_loaded(0.0, "a")
    scheduler.on_finish(0.0, Ticket("1", "a"))
    scheduler.on_dismiss(1.0, "a")
    scheduler.on_slept(1.0, "a")
    effects.taken()
    scheduler.on_add(2.0, Tenant("p", 1.0, placements=(("g0",),), pinned=True))
    scheduler.on_loaded(3.0, "p")
    assert effects.taken() == ["load p on g0"], "nobody asks for the sleeper yet"
    scheduler.on_arrival(4.0, Ticket("2", "a"))
    assert effects.taken() == ["evict a"]
    scheduler.on_evicted(5.0, "a")
    assert effects.taken() == ["load a on g1"]


def test_sleeper_that_was_waited_for_before_the_pinned_expert_came_wakes_elsewhere() -> None:
    """A swap to wake it was decided when memory went to an expert that was added."""
    site = Site(
        {"g0": 2.0, "g1": 2.0},
        (Tenant("a", 1.5, asleep_gib=1.5), Tenant("b", 1.0, placements=(("g0",),))),
        2.0,
    )
    effects = RecordingEffects()
    scheduler = SwapScheduler(site, effects)
    scheduler.on_arrival(0.0, Ticket("1", "a"))
    scheduler.on_loaded(0.0, "a")
    scheduler.on_finish(0.0, Ticket("1", "a"))
    scheduler.on_dismiss(1.0, "a")
    scheduler.on_slept(1.0, "a")
    scheduler.on_arrival(2.0, Ticket("2", "b"))
    scheduler.on_arrival(2.0, Ticket("3", "a"))  # waits for b to come, and then to leave
    scheduler.on_add(2.0, Tenant("p", 1.0, placements=(("g0",),), pinned=True))
    effects.taken()
    scheduler.on_loaded(3.0, "b")
    scheduler.on_finish(4.0, Ticket("2", "b"))
    for at in range(40):
        if scheduler.n_waiting == 0:
            return
        for effect in effects.taken():
            what, expert_id, *_ = effect.split()
            done = {"load": "loaded", "wake": "loaded", "prefetch": "loaded", "evict": "evicted"}
            if what in done:
                getattr(scheduler, f"on_{done[what]}")(5.0 + at, expert_id)
        scheduler.on_tick(5.0 + at)
    raise AssertionError("nobody woke it")
