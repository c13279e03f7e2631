"""Hit rates and miss curves against caches that are simulated step by step."""

from __future__ import annotations

import time
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coe.errors import ConfigError, DatasetError
from coe.outcomes import FloatArray, IntArray
from coe.scheduling.expert_trace import read_trace, trace_of
from coe.scheduling.locality import analyze, belady_misses, lru_misses, segment_hits
from coe.scheduling.stack_distance import larger_before, lru_reach_gib, next_uses

TRACES = st.lists(st.integers(0, 5), min_size=1, max_size=60)


def simulated_lru(experts: list[int], sizes: list[float], budget: float) -> list[int]:
    resident: list[int] = []
    misses = [0] * len(sizes)
    for expert in experts:
        if expert in resident:
            resident.remove(expert)
        else:
            misses[expert] += 1
            while sum(sizes[e] for e in resident) + sizes[expert] > budget:
                resident.pop(0)
        resident.append(expert)
    return misses


def fewest_misses(experts: list[int], slots: int) -> int:
    """Over all ways to evict, experts being of one size."""

    @cache
    def least(i: int, resident: frozenset[int]) -> int:
        if i == len(experts):
            return 0
        expert = experts[i]
        if expert in resident:
            return least(i + 1, resident)
        if len(resident) < slots:
            return 1 + least(i + 1, resident | {expert})
        return 1 + min(least(i + 1, resident - {e} | {expert}) for e in resident)

    return least(0, frozenset())


def numbers(experts: list[int]) -> IntArray:
    return np.array(experts, dtype=np.int64)


def sizes_of(seed: int, n: int = 6) -> FloatArray:
    return np.random.default_rng(seed).integers(1, 6, n).astype(float)


@given(experts=TRACES, seed=st.integers(0, 1000), extra=st.integers(0, 12))
@settings(deadline=None)
def test_lru_curve_equals_simulation(experts: list[int], seed: int, extra: int) -> None:
    sizes = sizes_of(seed)
    budget = float(sizes.max() + extra)
    (misses,) = lru_misses(numbers(experts), sizes, [budget])
    assert misses.tolist() == simulated_lru(experts, sizes.tolist(), budget)


@given(experts=st.lists(st.integers(0, 4), min_size=1, max_size=14), slots=st.integers(1, 4))
@settings(deadline=None)
def test_belady_has_the_fewest_misses_for_equal_sizes(experts: list[int], slots: int) -> None:
    misses = belady_misses(numbers(experts), np.ones(5), float(slots))
    assert misses.sum() == fewest_misses(experts, slots)


@given(experts=TRACES, seed=st.integers(0, 1000))
@settings(deadline=None)
def test_curves_fall_to_one_load_each(experts: list[int], seed: int) -> None:
    sizes = sizes_of(seed)
    budgets = np.linspace(sizes.max(), sizes.sum(), 5).tolist()
    curve = [int(m.sum()) for m in lru_misses(numbers(experts), sizes, budgets)]
    assert curve == sorted(curve, reverse=True)
    assert curve[-1] == len(set(experts))
    assert belady_misses(numbers(experts), sizes, budgets[-1]).sum() == len(set(experts))


@given(
    values=st.lists(st.integers(0, 40), max_size=40),
    seed=st.integers(0, 1000),
)
def test_larger_before_equals_counting(values: list[int], seed: int) -> None:
    weights = np.random.default_rng(seed).integers(1, 9, len(values)).astype(float)
    expected = [
        sum(weights[j] for j in range(i) if values[j] > value) for i, value in enumerate(values)
    ]
    assert larger_before(numbers(values), weights, 41).tolist() == expected


def test_reach_counts_what_came_in_between_once() -> None:
    reach = lru_reach_gib(numbers([0, 1, 1, 2, 0, 0]), np.array([1.0, 2.0, 4.0]))
    assert reach.tolist() == [np.inf, np.inf, 2.0, np.inf, 7.0, 1.0]
    assert next_uses(numbers([0, 1, 1, 2, 0, 0])).tolist() == [4, 2, 6, 6, 5, 6]


def test_segments_are_hit_by_their_own_best_and_by_the_last_ones_best() -> None:
    experts = numbers([0, 0, 0, 1, 1, 1, 1, 0, 2, 2])
    hits = segment_hits(experts, 3, segment=4)
    assert [h.own for h in hits] == [0.8, 1.0, 1.0]
    assert [h.previous for h in hits] == pytest.approx([1 / 6, 4 / 6, 1.0])


@given(experts=TRACES, segment=st.integers(1, 20))
def test_segment_hits_equal_counting(experts: list[int], segment: int) -> None:
    parts = [experts[i : i + segment] for i in range(0, len(experts), segment)]
    best = [sorted(range(6), key=part.count, reverse=True) for part in parts]
    for hits in segment_hits(numbers(experts), 6, segment):
        top = [set(order[: hits.n_experts]) for order in best]
        own = sum(e in t for part, t in zip(parts, top, strict=True) for e in part)
        assert hits.own == pytest.approx(own / len(experts))
        if len(parts) > 1:
            later = sum(len(part) for part in parts[1:])
            stale = sum(e in t for part, t in zip(parts[1:], top, strict=False) for e in part)
            assert hits.previous == pytest.approx(stale / later)


def test_analysis_tells_how_much_memory_is_worth_buying() -> None:
    trace = trace_of([([name], float(i), None) for i, name in enumerate("abababcacacd" * 20)])
    sizes = dict.fromkeys("abcd", 10.0)
    found = analyze(trace, sizes, dict.fromkeys("abcd", 5.0), [10.0, 20.0, 30.0, 40.0], 12)
    assert [row.lru_load_s for row in found.memory] == sorted(
        (row.lru_load_s for row in found.memory), reverse=True
    )
    assert found.memory[-1].lru_load_s == 4 * 5.0
    saved = [row.saved_s_per_gib for row in found.memory]
    assert np.isnan(saved[0])
    assert saved[1] == pytest.approx((found.memory[0].lru_load_s - found.memory[1].lru_load_s) / 10)
    assert found.worth_buying(0.0) == 40.0
    assert found.worth_buying(1e9) == 10.0
    assert found.worth_buying(saved[1]) >= 20.0
    assert all(row.belady_misses <= row.lru_misses for row in found.memory)
    assert [row[0] for row in found.rows()] == ["GiB", "10", "20", "30", "40"]
    assert len(found.segment_rows()) == 1 + 4


def test_analysis_refuses_what_it_cannot_answer() -> None:
    trace = trace_of([(["a"], 0.0, None), (["b"], 1.0, None)])
    with pytest.raises(ConfigError, match="no size is known of b"):
        analyze(trace, {"a": 1.0}, {"a": 1.0, "b": 1.0})
    with pytest.raises(ConfigError, match="less than the largest"):
        analyze(trace, {"a": 1.0, "b": 3.0}, {"a": 1.0, "b": 1.0}, [2.0])


def test_trace_files_are_read(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    path.write_text(
        '{"expert": "a", "time": 1}\n\n'
        '{"recruited": ["b", "a", "c"], "expert": "b", "time": 2.5, "tokens": 40}\n'
    )
    trace = read_trace(path)
    assert trace.expert_ids == ("a", "b", "c")
    assert trace.experts.tolist() == [0, 1, 0, 2]
    assert trace.queries.tolist() == [0, 1, 1, 1]
    assert trace.times_s.tolist() == [1.0, 2.5]
    assert np.isnan(trace.tokens[0])
    assert trace.recruited_together() == {("a", "b"): 1, ("a", "c"): 1, ("b", "c"): 1}
    assert trace.turns() == {("a", "b"): 1, ("a", "c"): 1, ("b", "c"): 1}


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("{", "line 2 is not JSON"),
        ("[1]", "line 2 is not an object"),
        ('{"time": 1}', "names no expert"),
        ('{"expert": "a"}', "no `time`"),
        ('{"expert": "a", "time": true}', "no `time`"),
        ('{"expert": "a", "time": 1, "tokens": "x"}', "`tokens` is no number"),
        ('{"recruited": "ab", "time": 1}', "names no expert"),
    ],
)
def test_wrong_lines_are_named(tmp_path: Path, line: str, complaint: str) -> None:
    path = tmp_path / "trace.jsonl"
    path.write_text('{"expert": "a", "time": 1}\n' + line + "\n")
    with pytest.raises(DatasetError, match=complaint):
        read_trace(path)


def test_absent_and_empty_files_are_told(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="No such file"):
        read_trace(tmp_path / "none.jsonl")
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(DatasetError, match="empty"):
        read_trace(tmp_path / "empty.jsonl")


def test_two_hundred_thousand_events_take_under_seconds() -> None:
    experts = np.random.default_rng(0).choice(16, 200_000)
    trace = trace_of([((str(e),), float(i), None) for i, e in enumerate(experts.tolist())])
    sizes = {str(e): float(1 + e % 3) for e in range(16)}
    begun = time.process_time()
    analyze(trace, sizes, sizes)
    assert time.process_time() - begun < 4.0  # Measured at a quarter of it; machines differ.
