from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coe.scheduling import (
    Effects,
    Scheduler,
    Site,
    SwapCosts,
    SwapRules,
    SwapScheduler,
    Tenant,
    Ticket,
)
from coe.scheduling.metrics import summarize
from coe.scheduling.peers import Fifo, LlamaSwap, LlamaSwapLru, Lru, Ollama, RayMultiplex
from coe.scheduling.service_model import Batch, ServiceModel
from coe.scheduling.simulator import BrokenRule, Run, Simulator
from coe.scheduling.traces import (
    Arrival,
    Load,
    all_at_once,
    bursts,
    cyclic,
    hot_shares,
    poisson,
    recorded,
    zipf_shares,
)

IDS = tuple("abcdef")
ONE = ServiceModel(max_batch=1)
Rule = Callable[[Site, Effects], Scheduler]
PEERS: tuple[Rule, ...] = (Fifo, Ollama, RayMultiplex, Lru, LlamaSwap, LlamaSwapLru)


def site(ids: Sequence[str] = IDS, swap_s: float = 2.0, slots: int = 2, batch: int = 1) -> Site:
    costs = SwapCosts(load_s=swap_s, wake_s=swap_s / 4, sleep_s=0.0, evict_s=0.0)
    tenants = tuple(Tenant(id_, 1.0, costs=costs, max_in_flight=batch) for id_ in ids)
    return Site({"g": float(slots)}, tenants)


def play(trace: Sequence[Arrival], rule: Rule = SwapScheduler, slots: int = 1) -> Run:
    return Simulator(site(slots=slots), ONE, rule).run(trace)


def asked(experts: str, gap_s: float = 0.0, work_s: float = 1.0) -> list[Arrival]:
    return [Arrival(i * gap_s, expert_id, work_s) for i, expert_id in enumerate(experts)]


def test_batch_slows_everyone_alike() -> None:
    """Two requests of 1 s with slope 1 share one server: 2 s each."""
    batch = Batch(ServiceModel(max_batch=2, slope=1.0))
    batch.add(0.0, "1", 1.0)
    batch.add(0.0, "2", 1.0)
    assert batch.next_end_s() == pytest.approx(2.0)
    assert batch.finish(2.0)[0] == "1"
    assert batch.next_end_s() == pytest.approx(2.0)


def test_batch_lets_those_beyond_its_size_wait() -> None:
    batch = Batch(ServiceModel(max_batch=1))
    assert batch.add(0.0, "1", 1.0) == ["1"]
    assert batch.add(0.0, "2", 1.0) == []
    assert batch.finish(1.0) == ("1", ["2"])
    assert batch.next_end_s() == pytest.approx(2.0)


def test_work_is_prefill_and_decode() -> None:
    model = ServiceModel(prefill_tokens_per_s=1000.0, decode_tokens_per_s=50.0)
    assert model.work_s(500, 100) == pytest.approx(0.5 + 2.0)


def test_simulator_counts_swap_and_service_of_a_single_request() -> None:
    run = play(asked("a"))
    assert [(r.started_s, r.ended_s) for r in run.records] == [(2.0, 3.0)]
    assert (run.loads, run.busy_s, run.swapping_s) == (1, 1.0, 2.0)


@pytest.mark.parametrize(
    ("rule", "order"),
    [
        (Fifo, "abcabc"),
        (LlamaSwap, "abc"),
        (LlamaSwapLru, "abc"),
        (Lru, "abc"),
        (SwapScheduler, "abc"),
    ],
)
def test_rules_order_their_loads(rule: Rule, order: str) -> None:
    """The example of llama-swap's own documentation: A B C A B C becomes A A B B C C."""
    assert "".join(play(asked("abcabc"), rule).order) == order


def test_fifo_keeps_a_resident_expert_waiting_behind_a_swap() -> None:
    trace = asked("aba", gap_s=0.1)
    ended = {rule: play(trace, rule).records[2].ended_s for rule in (Fifo, LlamaSwap)}
    assert ended[LlamaSwap] == pytest.approx(4.0)
    assert ended[Fifo] == pytest.approx(9.0)


def test_llama_swap_starves_whom_a_busy_expert_outlives() -> None:
    """The requests for a overlap, so it is never idle; b waits until they stop."""
    trace = sorted(
        [*(Arrival(i * 0.9, "a", 1.0) for i in range(200)), Arrival(0.5, "b", 1.0)],
        key=lambda arrival: arrival.at_s,
    )
    rules = SwapRules(max_wait_s=20.0, quantum_s=1.0, quantum_swaps=1.0)

    def age(rule: Rule) -> float:
        return summarize(play(trace, rule), 1).max_age_s

    assert age(LlamaSwapLru) > 150.0
    b = next(
        record
        for record in play(trace, lambda s, e: SwapScheduler(s, e, rules)).records
        if record.arrival.expert_id == "b"
    )
    assert b.started_s is not None
    assert b.started_s - 0.5 <= 20.0 + 1.0 + 2.0 + 1e-9, "bound, one service, one swap"


def test_llama_swap_picks_its_victim_without_a_look_at_who_is_busy() -> None:
    """C could have a's place, but the last by name is asked, and that is busy."""
    trace = [Arrival(0.0, "a", 1.0), Arrival(0.0, "b", 9.0), Arrival(5.0, "c", 1.0)]
    ended = {
        rule: play(trace, rule, slots=2).records[2].ended_s for rule in (LlamaSwap, LlamaSwapLru)
    }
    assert ended[LlamaSwap] == pytest.approx(14.0)
    assert ended[LlamaSwapLru] == pytest.approx(8.0)


@pytest.mark.parametrize("rule", [SwapScheduler, *PEERS])
def test_every_rule_answers_everyone(rule: Rule) -> None:
    load = Load(300, per_s=0.6)
    for trace in (
        poisson(IDS, zipf_shares(6), load, 3),
        bursts(IDS, load, 3),
        cyclic(IDS, load, 3),
        recorded(("a", "a", "b"), load, 3),
    ):
        run = play(trace, rule, slots=2)
        assert all(record.ended_s is not None for record in run.records)
        assert len(run.records) == len(trace)


def test_batch_of_everything_loads_each_expert_once() -> None:
    trace = all_at_once([(id_, 50) for id_ in IDS], work_s=0.1)
    assert play(trace, lambda s, e: SwapScheduler(s, e, SwapRules(max_wait_s=1e6))).loads == 6
    assert play(trace, Fifo).loads == 300


def test_swapping_loses_to_nothing_where_everybody_fits() -> None:
    trace = poisson(IDS, zipf_shares(6), Load(200, 1.0), 5)
    run = play(trace, slots=6)
    assert run.loads == 6


def test_runs_repeat_exactly() -> None:
    trace = poisson(IDS, zipf_shares(6), Load(300, 0.6), 7)
    first, second = (play(trace, slots=2) for _ in range(2))
    assert [r.ended_s for r in first.records] == [r.ended_s for r in second.records]
    assert first.order == second.order


def test_simulator_objects_to_a_broken_rule() -> None:
    class Rash(Fifo):
        def on_arrival(self, now: float, ticket: Ticket) -> None:
            self._effects.grant(ticket)

    with pytest.raises(BrokenRule, match="not awake"):
        play(asked("a"), Rash)


def test_simulator_objects_to_requests_left_unanswered() -> None:
    class Deaf(Fifo):
        def on_arrival(self, now: float, ticket: Ticket) -> None:
            pass

    with pytest.raises(BrokenRule, match="1 requests were never answered"):
        play(asked("a"), Deaf)


def test_traces_have_the_rates_they_promise() -> None:
    load = Load(4000, per_s=5.0, work_s=2.0)
    trace = poisson(IDS, hot_shares(6, 0.95), load, 1)
    assert trace[-1].at_s == pytest.approx(800.0, rel=0.1)
    assert sum(a.expert_id == "a" for a in trace) / 4000 == pytest.approx(0.95, abs=0.02)
    assert sum(a.work_s for a in trace) / 4000 == pytest.approx(2.0, rel=0.05)
    in_bursts = bursts(IDS, load, 1)
    assert len(in_bursts) == pytest.approx(4000, rel=0.35)
    assert [a.at_s for a in in_bursts] == sorted(a.at_s for a in in_bursts)
    assert [a.expert_id for a in cyclic(IDS, load, 1)[:7]] == list("abcdefa")


@given(
    seed=st.integers(0, 10**6),
    hot=st.floats(0.3, 0.97),
    slots=st.integers(1, 3),
    max_wait_s=st.sampled_from([5.0, 20.0, 60.0]),
    swap_s=st.sampled_from([0.2, 2.0, 8.0]),
)
@settings(max_examples=40, deadline=None, derandomize=True)
def test_age_bound_is_kept_by_any_traffic(
    seed: int, hot: float, slots: int, max_wait_s: float, swap_s: float
) -> None:
    """The theorem of DESIGN.md, for the oldest ticket of each expert at every load."""
    quantum_s, longest_s = 5.0, 2.0
    rules = SwapRules(max_wait_s=max_wait_s, quantum_s=quantum_s, quantum_swaps=1.0)
    load = Load(250, per_s=1.5 * slots, work_s=longest_s, spread=0.0)
    trace = poisson(IDS, hot_shares(6, hot), load, seed)
    run = Simulator(
        site(swap_s=swap_s, slots=slots), ONE, lambda s, e: SwapScheduler(s, e, rules)
    ).run(trace)
    visit_s = max(quantum_s, swap_s) + longest_s + swap_s
    bound_s = max_wait_s + len(IDS) * visit_s + visit_s
    for expert_id in IDS:
        records = [r for r in run.records if r.arrival.expert_id == expert_id]
        started = sorted(r.started_s for r in records if r.started_s is not None)
        arrived = sorted(r.arrival.at_s for r in records)
        # The oldest ticket of an expert comes next once its expert is there, so no gap between
        # two starts may be longer than the bound while somebody waits.
        last = 0.0
        for came, began in zip(arrived, started, strict=True):
            assert began - max(came, last) <= bound_s
            last = began
