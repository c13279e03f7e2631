"""Tables of events and the effects they have."""

from __future__ import annotations

import pytest

from coe.errors import (
    ConfigError,
    DeadlineExceeded,
    QueueFull,
    ShuttingDown,
    StartupError,
    UnknownExpert,
)
from coe.scheduling import Residency, Site, SwapCosts, SwapRules, SwapScheduler, Tenant, Ticket
from coe.scheduling.recording import RecordingEffects

COSTS = SwapCosts(load_s=2.0, wake_s=1.0, sleep_s=0.0, evict_s=0.0)


def tenant(expert_id: str, gib: float = 1.0, max_in_flight: int = 2, **more: object) -> Tenant:
    return Tenant(expert_id, gib, costs=COSTS, max_in_flight=max_in_flight, **more)  # type: ignore[arg-type]


class Stage:
    """A scheduler and what it asked for."""

    def __init__(
        self,
        *tenants: Tenant,
        gib: float = 1.0,
        rules: SwapRules | None = None,
        devices: dict[str, float] | None = None,
        host_gib: float = 0.0,
    ) -> None:
        self.effects = RecordingEffects()
        self.site = Site(devices or {"g": gib}, tenants, host_gib)
        self.scheduler = SwapScheduler(self.site, self.effects, rules)
        self.scheduler.on_start(0.0)

    def arrive(self, now: float, id_: str, expert_id: str, priority: int = 0) -> list[str]:
        self.scheduler.on_arrival(now, Ticket(id_, expert_id, priority))
        return self.effects.taken()

    def finish(self, now: float, id_: str, expert_id: str) -> list[str]:
        self.scheduler.on_finish(now, Ticket(id_, expert_id))
        return self.effects.taken()

    def after(self, event: str, now: float, *arguments: object) -> list[str]:
        getattr(self.scheduler, f"on_{event}")(now, *arguments)
        return self.effects.taken()

    def bring(self, now: float, expert_id: str) -> None:
        """Makes the expert resident by a request that comes and goes."""
        self.arrive(now, f"bring-{expert_id}", expert_id)
        self.after("loaded", now, expert_id)
        self.finish(now, f"bring-{expert_id}", expert_id)


def test_first_request_loads_and_those_who_come_meanwhile_join() -> None:
    stage = Stage(tenant("a"))
    assert stage.arrive(0.0, "1", "a") == ["load a on g"]
    assert stage.arrive(0.5, "2", "a") == []
    assert stage.after("loaded", 2.0, "a") == ["grant 1", "grant 2"]


def test_resident_expert_grants_up_to_its_limit() -> None:
    stage = Stage(tenant("a", max_in_flight=2))
    stage.bring(0.0, "a")
    assert stage.arrive(1.0, "1", "a") == ["grant 1"]
    assert stage.arrive(1.0, "2", "a") == ["grant 2"]
    assert stage.arrive(1.0, "3", "a") == []
    assert stage.finish(2.0, "1", "a") == ["grant 3"]


def test_idle_expert_makes_room_at_once() -> None:
    stage = Stage(tenant("a"), tenant("b"))
    stage.bring(0.0, "a")
    assert stage.arrive(1.0, "1", "b") == ["evict a"]
    assert stage.after("evicted", 1.5, "a") == ["load b on g"]
    assert stage.after("loaded", 3.5, "b") == ["grant 1"]


def test_busy_expert_is_not_sent_away() -> None:
    stage = Stage(tenant("a"), tenant("b"))
    stage.bring(0.0, "a")
    stage.arrive(1.0, "1", "a")
    assert stage.arrive(1.0, "2", "b") == []
    assert stage.finish(2.0, "1", "a") == ["evict a"]


def test_resident_expert_goes_on_while_another_loads_beside_it() -> None:
    """Requests for a resident expert never wait behind someone else's swap."""
    stage = Stage(tenant("a"), tenant("b"), gib=2.0)
    stage.bring(0.0, "a")
    assert stage.arrive(1.0, "1", "b") == ["load b on g"]
    assert stage.arrive(1.1, "2", "a") == ["grant 2"]


def test_next_expert_is_the_one_with_most_waiting_work() -> None:
    stage = Stage(tenant("a"), tenant("b"), tenant("c"))
    stage.bring(0.0, "a")
    stage.arrive(1.0, "1", "a")
    stage.arrive(1.0, "2", "b")
    for i in (3, 4, 5):
        stage.arrive(1.0, str(i), "c")
    assert stage.finish(2.0, "1", "a") == ["evict a"]
    assert stage.after("evicted", 2.0, "a") == ["load c on g"]


def test_priority_outweighs_numbers() -> None:
    stage = Stage(tenant("a"), tenant("b"), tenant("c"))
    stage.bring(0.0, "a")
    stage.arrive(1.0, "1", "a")
    stage.arrive(1.0, "2", "b", priority=3)
    for i in (3, 4, 5):
        stage.arrive(1.0, str(i), "c")
    stage.finish(2.0, "1", "a")
    assert stage.after("evicted", 2.0, "a") == ["load b on g"]


def test_overdue_request_makes_a_busy_expert_take_nobody_new() -> None:
    stage = Stage(
        tenant("hot"), tenant("rare"), rules=SwapRules(max_wait_s=10.0, beta=1e9, quantum_s=1.0)
    )
    stage.bring(0.0, "hot")
    stage.arrive(1.0, "h1", "hot")
    stage.arrive(1.0, "r", "rare")
    due = stage.scheduler.next_wakeup()
    assert due == 11.0
    assert stage.arrive(10.9, "h2", "hot") == ["grant h2"]
    stage.finish(10.9, "h1", "hot")
    assert stage.after("tick", due) == []
    assert stage.arrive(11.1, "h3", "hot") == [], "the door is closed"
    assert stage.finish(12.0, "h2", "hot") == ["evict hot"]
    assert stage.after("evicted", 12.0, "hot") == ["load rare on g"]
    assert stage.after("loaded", 14.0, "rare") == ["grant r"]
    assert stage.finish(15.0, "r", "rare") == ["evict rare"], "and back to those left waiting"


def test_visit_serves_those_who_waited_before_it_is_cut() -> None:
    """The age bound never cuts a visit before its gate, or swaps would eat all the time."""
    stage = Stage(
        tenant("a", max_in_flight=1),
        tenant("b", max_in_flight=1),
        rules=SwapRules(max_wait_s=1.0, quantum_s=100.0),
    )
    stage.arrive(0.0, "b1", "b")
    stage.arrive(0.0, "a1", "a")
    stage.arrive(0.1, "b2", "b")
    assert stage.after("loaded", 2.0, "b") == ["grant b1"]
    stage.after("tick", 2.0)
    stage.arrive(2.5, "b3", "b")
    assert stage.finish(3.0, "b1", "b") == ["grant b2"], "it waited when the visit began"
    assert stage.finish(4.0, "b2", "b") == ["evict b"], "b3 came after, and a1 is overdue"


def test_visit_is_cut_at_its_quantum() -> None:
    stage = Stage(
        tenant("a", max_in_flight=1),
        tenant("b", max_in_flight=1),
        rules=SwapRules(max_wait_s=1.0, quantum_s=3.0, quantum_swaps=0.0),
    )
    stage.arrive(0.0, "b1", "b")
    for i in range(2, 20):
        stage.arrive(0.0, f"b{i}", "b")
    stage.arrive(0.0, "a1", "a")
    stage.after("loaded", 2.0, "b")
    stage.after("tick", 2.0)
    assert stage.finish(4.0, "b1", "b") == ["grant b2"]
    assert stage.finish(6.0, "b2", "b") == ["evict b"], "4 s after it came, with 17 waiting"


def test_waiting_that_costs_more_than_the_swap_ends_a_visit() -> None:
    stage = Stage(tenant("a"), tenant("b"), rules=SwapRules(beta=1.0))
    stage.bring(0.0, "a")
    stage.arrive(1.0, "1", "a")
    for i in range(20):
        stage.arrive(1.0, f"b{i}", "b")
    while (due := stage.scheduler.next_wakeup()) is not None:
        assert due < 20.0, "long before the age bound"
        now = due
        stage.after("tick", now)
    assert stage.arrive(now, "2", "a") == []
    assert stage.finish(now + 0.2, "1", "a") == ["evict a"]


def test_rarely_asked_expert_comes_before_a_longer_queue_after_a_round_or_two() -> None:
    """The clock is the round: milliseconds of swaps make a second old, whatever the age bound."""
    quick = SwapCosts(load_s=0.01, evict_s=0.01)
    stage = Stage(
        *(Tenant(e, 1.0, costs=quick, service_s=0.1) for e in ("a", "rare", "often")),
        rules=SwapRules(max_wait_s=1e6),
    )
    stage.bring(0.0, "a")
    stage.arrive(0.0, "1", "a")
    stage.arrive(0.0, "r", "rare")
    for i in range(5):
        stage.arrive(1.0, f"o{i}", "often")
    stage.finish(1.0, "1", "a")
    assert stage.after("evicted", 1.0, "a") == ["load rare on g"]


def test_impatience_ends_a_visit_that_the_age_bound_would_not() -> None:
    """One ticket against a stream that never ends: it waits for rounds, not for the bound."""
    stage = Stage(tenant("hot"), tenant("rare"), rules=SwapRules(max_wait_s=1e6))
    stage.bring(0.0, "hot")
    stage.arrive(0.0, "h0", "hot")
    stage.arrive(0.0, "r", "rare")
    now = 0.0
    for i in range(1, 400):
        due = stage.scheduler.next_wakeup()
        now = i * 0.9
        if due is not None and due <= now:
            stage.after("tick", now)
        if stage.arrive(now, f"h{i}", "hot") == []:
            break
        stage.finish(now, f"h{i - 1}", "hot")
    assert 5.0 < now < 60.0
    assert stage.finish(now, f"h{i - 1}", "hot") == ["evict hot"]


def test_pinned_expert_is_loaded_at_the_start_and_never_leaves() -> None:
    stage = Stage(
        tenant("pin", placements=(("g",),), pinned=True), tenant("a"), tenant("b"), gib=2.0
    )
    assert stage.effects.taken() == ["load pin on g"]
    stage.after("loaded", 2.0, "pin")
    stage.bring(3.0, "a")
    assert stage.arrive(4.0, "1", "b") == ["evict a"]


def test_unequal_sizes_send_away_as_many_as_needed_and_no_more() -> None:
    stage = Stage(tenant("a", 1.0), tenant("b", 2.0), tenant("big", 3.0), gib=4.0)
    stage.bring(0.0, "a")
    stage.bring(0.0, "b")
    stage.effects.taken()
    assert stage.arrive(1.0, "1", "big") == ["evict b"]
    assert stage.after("evicted", 1.0, "b") == ["load big on g"]


def test_large_expert_is_not_starved_by_small_ones() -> None:
    """Once it is overdue, room is kept for it until there is enough."""
    rules = SwapRules(max_wait_s=5.0, quantum_s=0.0, quantum_swaps=0.0, beta=1e9)
    stage = Stage(
        tenant("s1"), tenant("s2"), tenant("s3"), tenant("big", 2.0), gib=2.0, rules=rules
    )
    stage.bring(0.0, "s1")
    stage.bring(0.0, "s2")
    stage.arrive(1.0, "1", "s1")
    stage.arrive(1.0, "2", "s2")
    stage.arrive(1.0, "b", "big")
    stage.arrive(2.0, "3", "s3")
    stage.after("tick", 6.0)
    assert stage.finish(7.0, "1", "s1") == ["evict s1"]
    assert stage.after("evicted", 7.0, "s1") == [], "s3 does not take half of big's room"
    assert stage.finish(8.0, "2", "s2") == ["evict s2"]
    assert stage.after("evicted", 8.0, "s2") == ["load big on g"]


def test_spanning_expert_takes_its_share_of_every_device() -> None:
    stage = Stage(
        tenant("wide", 1.5, placements=(("g0", "g1"),)),
        tenant("a"),
        devices={"g0": 2.0, "g1": 2.0},
    )
    assert stage.arrive(0.0, "1", "wide") == ["load wide on g0+g1"]
    assert stage.arrive(0.0, "2", "a") == [], "half a GiB is left on each"
    stage.after("loaded", 2.0, "wide")
    assert stage.finish(3.0, "1", "wide") == ["evict wide"]


def test_experts_that_may_not_live_together_take_turns() -> None:
    group = frozenset({"port"})
    stage = Stage(tenant("a", apart=group), tenant("b", apart=group), gib=8.0)
    stage.bring(0.0, "a")
    assert stage.arrive(1.0, "1", "b") == ["evict a"]
    assert stage.after("evicted", 1.0, "a") == ["load b on g"]


def test_adapters_share_their_base_without_a_swap() -> None:
    stage = Stage(tenant("base"), Tenant("law", 0.0, base="base"), Tenant("med", 0.0, base="base"))
    assert stage.arrive(0.0, "1", "law") == ["load base on g"]
    assert stage.after("loaded", 1.0, "base") == ["grant 1"]
    assert stage.arrive(1.0, "2", "med") == ["grant 2"]
    assert stage.scheduler.counts.loads == 1


def test_sleeping_expert_wakes_where_it_slept() -> None:
    stage = Stage(tenant("a", asleep_gib=1.0), tenant("b", asleep_gib=1.0), host_gib=2.0)
    stage.bring(0.0, "a")
    assert stage.arrive(1.0, "1", "b") == ["sleep a"]
    assert stage.after("slept", 1.0, "a") == ["load b on g"]
    stage.after("loaded", 3.0, "b")
    stage.finish(4.0, "1", "b")
    assert stage.arrive(5.0, "2", "a") == ["sleep b"]
    assert stage.after("slept", 5.0, "b") == ["wake a on g"]


def test_host_memory_that_is_full_drops_the_sleeper_least_in_demand() -> None:
    experts = [tenant(e, asleep_gib=1.0) for e in ("rare", "often", "new")]
    stage = Stage(*experts, host_gib=1.0)
    stage.bring(0.0, "rare")
    for i in range(5):
        stage.arrive(1.0, f"o{i}", "often")
    assert stage.after("slept", 1.0, "rare") == ["load often on g"]
    stage.after("loaded", 3.0, "often")
    for i in range(5):
        stage.finish(4.0, f"o{i}", "often")
    assert stage.arrive(5.0, "n", "new") == ["evict rare"]
    assert stage.after("evicted", 5.0, "rare") == ["sleep often"]


def test_sleep_that_kept_its_memory_is_followed_by_an_eviction() -> None:
    """The engine said it sleeps, but nothing was freed: it is stopped, and the swap goes on."""
    stage = Stage(tenant("a", asleep_gib=1.0), tenant("b"), host_gib=1.0)
    stage.bring(0.0, "a")
    assert stage.arrive(1.0, "1", "b") == ["sleep a"]
    assert stage.after("slept", 1.0, "a", 0.9) == ["evict a"]
    assert stage.after("evicted", 1.0, "a") == ["load b on g"]


def test_failed_sleep_becomes_an_eviction_and_that_is_retried() -> None:
    stage = Stage(tenant("a", asleep_gib=1.0), tenant("b"), host_gib=1.0)
    stage.bring(0.0, "a")
    stage.arrive(1.0, "1", "b")
    assert stage.after("leave_failed", 1.0, "a") == ["evict a"]
    assert stage.after("leave_failed", 2.0, "a") == []
    due = stage.scheduler.next_wakeup()
    assert due is not None
    assert stage.after("tick", due) == ["evict a"]
    assert stage.after("evicted", due, "a") == ["load b on g"]


def test_failed_load_refuses_with_the_cause_and_backs_off() -> None:
    stage = Stage(tenant("bad"), tenant("good"), rules=SwapRules(backoff_s=4.0), gib=1.0)
    stage.arrive(0.0, "1", "bad")
    stage.arrive(0.0, "2", "good")
    error = StartupError("bad", "weights are corrupt")
    assert stage.after("load_failed", 1.0, "bad", error) == [
        "refuse 1: StartupError",
        "load good on g",
    ]
    assert "weights are corrupt" in str(stage.effects.errors["1"])
    assert stage.arrive(2.0, "3", "bad") == ["refuse 3: StartupError"]
    assert "next try in 3 s" in str(stage.effects.errors["3"])
    stage.after("loaded", 3.0, "good")
    stage.finish(4.0, "2", "good")
    assert stage.arrive(6.0, "4", "bad") == ["evict good"], "the pause is over"


def test_backoff_doubles_until_something_has_worked() -> None:
    stage = Stage(tenant("bad"), rules=SwapRules(backoff_s=1.0, max_backoff_s=3.0))
    now, pauses = 0.0, []
    for i in range(4):
        assert stage.arrive(now, str(i), "bad")[-1] == "load bad on g"
        stage.after("load_failed", now, "bad", StartupError("bad", "no"))
        [lane] = stage.scheduler.lanes
        pauses.append(lane.retry_at_s - now)
        now = lane.retry_at_s
    assert pauses == [1.0, 2.0, 3.0, 3.0]


def test_crash_loses_what_ran_and_keeps_what_waited() -> None:
    stage = Stage(tenant("a", max_in_flight=1), rules=SwapRules(backoff_s=1.0))
    stage.arrive(0.0, "1", "a")
    stage.after("loaded", 2.0, "a")
    stage.arrive(2.0, "2", "a")
    assert stage.after("crashed", 3.0, "a") == []
    assert stage.finish(3.0, "1", "a") == [], "known to be lost"
    assert stage.scheduler.next_wakeup() == 4.0
    assert stage.after("tick", 4.0) == ["load a on g"]
    assert stage.after("loaded", 6.0, "a") == ["grant 2"]
    assert stage.scheduler.counts.lost == 1


def test_cancelled_last_request_gives_up_the_swap() -> None:
    stage = Stage(tenant("a"), tenant("b"), rules=SwapRules(max_wait_s=1.0, quantum_s=0.0))
    stage.bring(0.0, "a")
    stage.arrive(0.0, "1", "a")
    stage.arrive(0.0, "2", "b")
    stage.after("tick", 30.0)
    assert stage.arrive(30.0, "3", "a") == []
    assert stage.after("cancel", 30.5, Ticket("2", "b")) == ["grant 3"]


def test_caller_found_gone_counts_for_nothing() -> None:
    stage = Stage(tenant("a", max_in_flight=1))
    stage.bring(0.0, "a")
    stage.effects.gone.add("1")
    assert stage.arrive(1.0, "1", "a") == ["gone 1"]
    assert stage.arrive(1.0, "2", "a") == ["grant 2"], "the place is still free"
    assert stage.scheduler.counts.cancelled == 1


def test_full_queue_says_when_to_come_back_one_after_the_other() -> None:
    stage = Stage(tenant("a", max_in_flight=1, max_queued=2, service_s=4.0))
    stage.bring(0.0, "a")
    for i in range(3):
        stage.arrive(1.0, str(i), "a")
    waits = []
    for i in range(3, 5):
        assert stage.arrive(1.0, str(i), "a") == [f"refuse {i}: QueueFull"]
        error = stage.effects.errors[str(i)]
        assert isinstance(error, QueueFull)
        waits.append(error.retry_after_s)
    service_s = next(iter(stage.scheduler.lanes)).service_s.value
    assert waits == pytest.approx([service_s, 2 * service_s], abs=0.001)


def test_deadline_that_cannot_be_met_is_refused_at_once() -> None:
    stage = Stage(tenant("a", service_s=1.0))
    stage.scheduler.on_arrival(0.0, Ticket("1", "a", deadline_s=2.9))
    assert stage.effects.taken() == ["refuse 1: DeadlineExceeded"]
    assert isinstance(stage.effects.errors["1"], DeadlineExceeded)
    stage.scheduler.on_arrival(0.0, Ticket("2", "a", deadline_s=3.1))
    assert stage.effects.taken() == ["load a on g"]


def test_deadline_that_passes_in_the_queue_is_refused_when_it_does() -> None:
    stage = Stage(tenant("a", max_in_flight=1, service_s=1.0))
    stage.arrive(0.0, "1", "a")
    stage.after("loaded", 2.0, "a")
    stage.scheduler.on_arrival(2.0, Ticket("2", "a", deadline_s=5.0))
    due = stage.scheduler.next_wakeup()
    assert due == 4.0
    assert stage.after("tick", due) == ["refuse 2: DeadlineExceeded"]


def test_deadline_goes_before_more_waiting_work() -> None:
    stage = Stage(tenant("a"), tenant("b"), tenant("c"))
    stage.bring(0.0, "a")
    stage.arrive(1.0, "1", "a")
    stage.scheduler.on_arrival(1.0, Ticket("2", "b", deadline_s=7.0))
    for i in (3, 4, 5):
        stage.arrive(1.0, str(i), "c")
    stage.after("tick", 3.1)
    stage.finish(3.2, "1", "a")
    assert stage.after("evicted", 3.2, "a") == ["load b on g"]


def test_free_memory_is_filled_with_what_is_in_demand() -> None:
    stage = Stage(tenant("a"), tenant("b"), gib=1.0)
    stage.bring(0.0, "a")
    stage.arrive(1.0, "1", "b")
    stage.after("evicted", 1.0, "a")
    stage.after("loaded", 3.0, "b")
    stage.finish(4.0, "1", "b")
    assert stage.after("crashed", 5.0, "b") == ["prefetch a on g"]
    assert stage.arrive(5.5, "2", "a") == []
    assert stage.after("loaded", 7.0, "a") == ["grant 2"]


def test_shutdown_refuses_everyone_and_empties_the_devices() -> None:
    stage = Stage(tenant("a", max_in_flight=1), tenant("b"))
    stage.bring(0.0, "a")
    stage.arrive(1.0, "1", "a")
    stage.arrive(1.0, "2", "a")
    assert stage.after("shutdown", 2.0) == ["refuse 2: ShuttingDown"]
    assert stage.arrive(2.0, "3", "b") == ["refuse 3: ShuttingDown"]
    assert isinstance(stage.effects.errors["3"], ShuttingDown)
    assert not stage.scheduler.is_empty
    assert stage.finish(3.0, "1", "a") == ["evict a"]
    stage.after("evicted", 3.0, "a")
    assert stage.scheduler.is_empty


def test_measured_swaps_replace_the_first_guess() -> None:
    stage = Stage(tenant("a"))
    stage.arrive(0.0, "1", "a")
    stage.after("loaded", 12.0, "a")
    [lane] = stage.scheduler.lanes
    assert lane.load_s.value == pytest.approx(2.0 + 0.5 * 10.0), "half at first, less later"
    assert lane.residency is Residency.AWAKE


def test_unknown_experts_and_ids_used_twice_are_errors_of_the_caller() -> None:
    stage = Stage(tenant("a"))
    with pytest.raises(UnknownExpert, match="did you mean 'a'"):
        stage.scheduler.on_arrival(0.0, Ticket("1", "aa"))
    stage.arrive(0.0, "1", "a")
    with pytest.raises(ValueError, match="already waiting"):
        stage.arrive(0.0, "1", "a")


@pytest.mark.parametrize(
    ("tenants", "problem"),
    [
        ((Tenant("a", 9.0),), "fits nowhere"),
        ((Tenant("a", 1.0), Tenant("a", 1.0)), "unique"),
        ((Tenant("a", 1.0, placements=(("h",),)),), "no device 'h'"),
        (
            (Tenant("a", 1.5, placements=(("g",),), pinned=True), Tenant("b", 1.0)),
            "beside what is pinned",
        ),
        (
            (
                Tenant("a", 0.5, placements=(("g",),), pinned=True, apart=frozenset("x")),
                Tenant("b", 0.5, apart=frozenset("x")),
            ),
            "may not live together",
        ),
        (
            (Tenant("a", 1.0), Tenant("b", 0.0, base="a"), Tenant("c", 0.0, base="b")),
            "itself an adapter",
        ),
    ],
)
def test_site_that_cannot_work_is_refused(tenants: tuple[Tenant, ...], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        Site({"g": 2.0}, tenants)
