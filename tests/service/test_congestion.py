"""Whom an event loop takes on, on a loop that is worked out and not run: rounds, costs, a clock."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from heapq import heappop, heappush

from coe.service.congestion import FEW, MANY, Congestion

_READ_S, _STEP_S, _REFUSED_S = 0.00004, 0.0005, 0.00004
"""What the loop works on what comes in, on each of a request's four steps, and on a refusal."""
_EXPERT_S = 0.02
_EACH_S = 2 * _READ_S + 4 * _STEP_S
_CALM_S = _EXPERT_S + _EACH_S
"""How long a request takes where nobody else is there."""


class Rounds:
    """An event loop before an expert that answers anybody at once: in each round it reads what has
    come, and takes everything that it has begun one step further.
    """

    def __init__(
        self,
        share: float = 1.0,
        stalls: Iterable[tuple[float, float]] = (),
        expert_s: float = _EXPERT_S,
    ) -> None:
        """`share`: of the processor. `stalls`: when it is taken away altogether, and how long."""
        self.congestion = Congestion(0.02)
        self.now = self.worked_s = 0.0
        self.served: list[tuple[float, float]] = []
        """When each came, and how long it took."""
        self.refused: list[tuple[float, float]] = []
        self.n_in_flight = 0
        self.on_end: Callable[[], None] = lambda: None
        self._expert_s = expert_s
        self._share, self._stalls = share, sorted(stalls, reverse=True)
        self._coming: list[tuple[float, int, float, int]] = []
        """When, a number, when it first came, the steps that it has behind it."""
        self._due_s = self._looked_s = 0.0
        self._n = 0

    def comes(self, at_s: float, came_s: float | None = None, n_steps: int = 0) -> None:
        self._n += 1
        heappush(self._coming, (at_s, self._n, at_s if came_s is None else came_s, n_steps))

    def run(self, until_s: float) -> None:
        ready: list[tuple[float, int]] = []
        while self.now < until_s:
            self._look()
            begun, ready = ready, []
            for came_s, n_steps in begun:
                if n_steps == 0 and not self._keeps(came_s):
                    self._end(self.refused, came_s)
                    continue
                self._work(_STEP_S)
                if n_steps == 1:
                    self.comes(self.now + self._expert_s, came_s, 2)
                elif n_steps == 3:
                    self._end(self.served, came_s)
                else:
                    ready.append((came_s, n_steps + 1))
            now = self.now
            while self._coming and self._coming[0][0] <= now:
                _, _, came_s, n_steps = heappop(self._coming)
                if n_steps or self._lets_in(came_s):
                    self._work(_READ_S)
                    ready.append((came_s, n_steps))
            if not ready:
                self._wait(min(self._coming[0][0] if self._coming else until_s, self._due_s))

    def _look(self) -> None:
        if self.now >= self._due_s:
            worked_s = self.worked_s - self._looked_s
            self.congestion.on_look(self.now, self.now - self._due_s, worked_s, 0)
            self._looked_s = self.worked_s
            self._due_s = self.now + self.congestion.look_s

    def _lets_in(self, came_s: float) -> bool:
        if self.congestion.lets_in(self.n_in_flight):
            self.n_in_flight += 1
            return True
        self._work(_REFUSED_S)
        self.refused.append((came_s, self.now - came_s))
        self.on_end()
        return False

    def _keeps(self, came_s: float) -> bool:
        return self.congestion.keeps(self.n_in_flight, self.now - came_s)

    def _end(self, those: list[tuple[float, float]], came_s: float) -> None:
        self.n_in_flight -= 1
        those.append((came_s, self.now - came_s))
        self.on_end()

    def _work(self, seconds: float) -> None:
        self.worked_s += seconds
        self._wait(self.now + seconds / self._share)

    def _wait(self, until_s: float) -> None:
        self.now = max(self.now, until_s)
        while self._stalls and self._stalls[-1][0] <= self.now:
            self.now += self._stalls.pop()[1]


def _slowest_s(those: list[tuple[float, float]], share: float) -> float:
    times = sorted(took_s for _, took_s in those)
    return times[int(share * len(times))]


def _stormy(loop: Rounds, factor: float, seconds: float) -> None:
    """So many times what it can, for so long, and then one every tenth of a second."""
    rate = factor / _EACH_S
    for number in range(round(rate * seconds)):
        loop.comes(number / rate)
    for number in range(50):
        loop.comes(seconds + number / 10.0)
    loop.run(seconds + 6.0)


def test_congestion_has_as_many_answered_as_can_be_and_as_fast_as_ever() -> None:
    loop = Rounds()
    _stormy(loop, 3.0, 20.0)
    good = [one for one in loop.served if sum(one) < 20.0]
    # What refusing two of three costs is not there for answers.
    assert len(good) * _EACH_S / 20.0 > 0.9
    later = [one for one in loop.served if 1.0 < one[0] < 20.0]
    assert _slowest_s(later, 0.99) < 4 * _CALM_S
    assert _slowest_s(later, 0.5) < 3.5 * _CALM_S
    assert _slowest_s([one for one in loop.refused if one[0] > 1.0], 0.99) < 0.02


def test_congestion_is_over_as_soon_as_fewer_come() -> None:
    loop = Rounds()
    _stormy(loop, 3.0, 5.0)
    after = [one for one in loop.served if one[0] >= 5.0]
    assert len(after) == 50
    assert _slowest_s(after[3:], 1.0 - 1e-9) < 1.2 * _CALM_S
    assert not loop.congestion.stands


def test_congestion_adapts_to_a_processor_of_which_it_has_a_part() -> None:
    loop = Rounds(share=0.3)
    _stormy(loop, 1.0, 20.0)
    good = [one for one in loop.served if sum(one) < 20.0]
    assert len(good) * _EACH_S / 20.0 > 0.9 * 0.3
    assert len(loop.refused) > 1000


def test_congestion_refuses_nobody_on_a_machine_that_is_busy_with_something_else() -> None:
    # It has the processor for 5 ms of 50, with hundreds under way, and is late at every look.
    loop = Rounds(stalls=[(0.05 * n, 0.045) for n in range(700)], expert_s=10.0)
    for number in range(600):
        loop.comes(number / 30.0)
    loop.run(35.0)
    assert _slowest_s(loop.served, 0.5) > 10.0 + 0.05
    assert (len(loop.served), len(loop.refused)) == (600, 0)


def test_congestion_refuses_none_of_a_few_clients_that_ask_again_and_again() -> None:
    loop = Rounds(share=0.2)
    loop.on_end = lambda: loop.comes(loop.now + 0.0005)
    for _ in range(32):
        loop.comes(0.0)
    loop.run(10.0)
    # It has more to do than it can all the time, and everybody waits for a bounded time.
    assert loop.worked_s > 0.99 * 0.2 * 10.0
    assert len(loop.served) > 900
    assert loop.refused == []


def test_congestion_serves_a_thousand_that_come_at_once() -> None:
    loop = Rounds()
    for at_s in (1.0, 6.0):
        for _ in range(1000):
            loop.comes(at_s)
    loop.run(12.0)
    assert (len(loop.served), len(loop.refused)) == (2000, 0)


def _lined_up(n: int) -> Congestion:
    """So many let in since a line stands, and as many under way."""
    congestion = Congestion(0.02)
    congestion.on_look(0.0, 0.0, 0.0, 0)
    congestion.on_look(0.1, 0.08, 0.08, 0)
    assert all(congestion.lets_in(number) for number in range(n))
    return congestion


def test_congestion_bears_many_and_then_lets_in_what_makes_a_short_line() -> None:
    congestion = _lined_up(MANY)
    verdicts_before = congestion.stands, congestion.lets_in(MANY), congestion.stands
    assert verdicts_before == (False, False, True)
    verdicts: Counter[bool] = Counter()
    congestion.on_look(0.2, 0.001, 0.002, 0)
    verdicts.update(congestion.lets_in(MANY) for _ in range(20))
    assert 0 < verdicts[True] < 10 < verdicts[False]


def _rooms(congestion: Congestion, line_s: float, n: int) -> list[int]:
    """How many are let in after each of so many looks that find this line."""
    rooms = []
    for number in range(n):
        congestion.on_look(0.2 + 0.01 * number, line_s, line_s, 0)
        rooms.append(sum(congestion.lets_in(MANY) for _ in range(1000)))
    return rooms


def test_congestion_lets_in_more_while_the_line_is_short_and_fewer_while_it_is_long() -> None:
    congestion = _lined_up(MANY)
    assert not congestion.lets_in(MANY)
    more = _rooms(congestion, 0.0, 12)
    assert more == sorted(more)
    assert more[-1] > 5 * more[0]
    same = _rooms(congestion, 0.0025, 4)
    assert set(same) == {same[0]}
    assert more[-1] <= same[0]
    fewer = _rooms(congestion, 0.02, 12)
    assert fewer[0] <= same[0] / 2 + 1
    assert fewer[-1] == 1  # whatever the line: it goes on


def test_congestion_never_refuses_a_few() -> None:
    congestion = _lined_up(MANY)
    assert not congestion.lets_in(MANY)
    assert congestion.lets_in(FEW - 1)
    assert congestion.keeps(FEW, 10.0)


def test_congestion_sends_away_who_waited_in_a_line_that_stands() -> None:
    congestion = _lined_up(MANY)
    assert congestion.keeps(MANY, 10.0)  # many came at once, and are served
    assert not congestion.lets_in(MANY)
    assert congestion.keeps(MANY, 0.04)
    assert not congestion.keeps(MANY, 0.06)


def test_congestion_counts_those_whom_nobody_has_taken_over() -> None:
    congestion = Congestion(0.02)
    congestion.on_look(0.0, 0.0, 0.0, 0)
    congestion.on_look(0.1, 0.001, 0.001, MANY)
    assert [congestion.lets_in(FEW) for _ in range(4)] == [True, True, True, False]
    congestion = Congestion(0.02)
    congestion.on_look(0.1, 0.001, 0.001, 10)
    assert all(congestion.lets_in(FEW) for _ in range(20))


def test_congestion_is_forgotten_a_second_after_the_last_refusal() -> None:
    congestion = _lined_up(MANY)
    assert not congestion.lets_in(MANY)
    congestion.on_look(1.0, 0.0, 0.0, 0)
    congestion.on_look(1.9, 0.0, 0.0, 0)
    assert congestion.stands
    congestion.on_look(2.1, 0.0, 0.0, 0)
    assert not congestion.stands
