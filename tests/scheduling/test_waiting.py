from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coe.scheduling import Ticket
from coe.scheduling.waiting import WaitingLine

NEVER = float("-inf")


def served(line: WaitingLine, overdue_before_s: float = NEVER) -> list[str]:
    return [line.pop(overdue_before_s).ticket.id for _ in range(len(line))]


def test_line_serves_in_order_of_arrival_without_ranks() -> None:
    line = WaitingLine()
    for i in range(5):
        line.push(Ticket(str(i), "e"), float(i))
    assert served(line) == ["0", "1", "2", "3", "4"]


def test_line_serves_priority_then_deadline_then_arrival() -> None:
    line = WaitingLine()
    line.push(Ticket("plain", "e"), 0.0)
    line.push(Ticket("late", "e", deadline_s=90.0), 1.0)
    line.push(Ticket("soon", "e", deadline_s=30.0), 2.0)
    line.push(Ticket("high", "e", priority=1), 3.0)
    assert served(line) == ["high", "soon", "late", "plain"]


def test_line_serves_the_overdue_before_any_rank() -> None:
    line = WaitingLine()
    line.push(Ticket("old", "e", priority=-5), 0.0)
    line.push(Ticket("new", "e", priority=5), 10.0)
    assert served(line, overdue_before_s=0.0) == ["old", "new"]


def test_line_cancels_once_and_only_those_who_wait() -> None:
    line = WaitingLine()
    line.push(Ticket("a", "e"), 0.0)
    assert line.cancel("a") is not None
    assert line.cancel("a") is None
    assert len(line) == 0
    assert line.oldest() is None
    with pytest.raises(IndexError, match="nobody waits"):
        line.pop(NEVER)


def test_line_weighs_waiting_by_priority() -> None:
    line = WaitingLine()
    line.push(Ticket("a", "e"), 0.0)
    line.push(Ticket("b", "e", priority=2), 5.0)
    assert line.weight == 5.0
    assert line.waited_s(10.0) == pytest.approx(10.0 + 4 * 5.0)


def test_line_forgets_the_dead() -> None:
    """Cancelling is lazy, but what is kept stays in proportion to who waits."""
    line = WaitingLine()
    for i in range(2000):
        line.push(Ticket(str(i), "e", deadline_s=1e9), float(i))
    for i in range(1, 2000):
        line.cancel(str(i))
    kept = (line._by_age, line._by_rank, line._by_deadline)
    assert all(len(order) <= 70 for order in kept)
    oldest = line.oldest()
    assert oldest is not None
    assert oldest.ticket.id == "0"


Step = tuple[str, int, int | None]


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["push", "push", "pop", "overdue", "cancel"]),
            st.integers(0, 3),
            st.one_of(st.none(), st.integers(0, 50)),
        ),
        max_size=80,
    )
)
def test_line_agrees_with_a_sorted_list(steps: list[Step]) -> None:
    line, model = WaitingLine(), {}
    for now, (what, number, deadline) in enumerate(steps):
        if what == "push":
            due = None if deadline is None else float(deadline)
            ticket = Ticket(str(now), "e", number, due)
            line.push(ticket, float(now))
            model[ticket.id] = (-number, float("inf") if due is None else due, now)
        elif model and what == "cancel":
            victim = sorted(model)[number % len(model)]
            assert line.cancel(victim) is not None
            del model[victim]
        elif model:
            bound = float(now) if what == "overdue" else NEVER
            first = min(model, key=lambda id_: model[id_][2] if what == "overdue" else model[id_])
            assert line.pop(bound).ticket.id == first
            del model[first]
        deadlines = [key[1] for key in model.values() if key[1] < float("inf")]
        assert line.earliest_deadline() == min(deadlines, default=None)
        assert len(line) == len(model)
        ages = sum(2.0 ** -key[0] * (now - key[2]) for key in model.values())
        assert line.waited_s(float(now)) == pytest.approx(ages)
