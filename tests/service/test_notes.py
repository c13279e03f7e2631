"""What is noted of a request while experts are asked for it."""

from __future__ import annotations

import asyncio

import pytest

from coe.errors import UpstreamError
from coe.service.notes import ABANDONED, RequestNotes, WatchedCall, current_notes
from coe.telemetry import Histogram, current_watch, expert_call, watched_by
from coe.types import Delta, GenerationRequest, Message, Usage

REQUEST = GenerationRequest((Message("user", "hi"),))
END = Delta(finish_reason="stop", usage=Usage(2, 3))


class Noted:
    """Notes with a clock that stands still until it is moved, and what they told."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self.told: list[tuple[str, float, str | None]] = []
        self.notes = RequestNotes("/v1/chat/completions", self, clock=lambda: self.now_s)

    def called(self, call: WatchedCall, seconds: float, failure: str | None) -> None:
        self.told.append((call.expert_id, seconds, failure))

    def cached(self, outcome: str) -> None:
        self.told.append((outcome, 0.0, None))

    def feedback(self, expert_id: str, score: float) -> None:
        self.told.append((expert_id, score, None))


def test_upstream_is_the_time_that_an_expert_is_waited_for() -> None:
    noted = Noted()
    call = noted.notes.call("a", REQUEST)
    noted.now_s += 1.0
    call.hears(Delta("one"))
    noted.now_s += 20.0  # handed on to a slow client
    call.resumes()
    noted.now_s += 0.5
    call.hears(END)
    noted.now_s += 30.0
    call.resumes()
    call.ends(None)
    assert noted.notes.upstream.seconds == pytest.approx(1.5)
    assert noted.told == [("a", 51.5, None)]
    assert (noted.notes.expert, noted.notes.usage) == ("a", Usage(2, 3))


def test_upstream_of_experts_at_once_is_counted_once() -> None:
    noted = Noted()
    first, second = noted.notes.call("a", REQUEST), noted.notes.call("b", REQUEST)
    noted.now_s += 1.0
    first.hears(END)
    first.ends(None)
    noted.now_s += 2.0
    second.hears(END)
    second.ends(None)
    assert noted.notes.upstream.seconds == pytest.approx(3.0)
    assert (noted.notes.expert, noted.notes.answered) == (None, ("a", "b"))
    assert noted.notes.usage == Usage(4, 6)


def test_failure_is_erased_by_the_answer_of_another() -> None:
    notes = Noted().notes
    notes.call("a", REQUEST).ends(UpstreamError("a", "down"))
    assert notes.failure == "upstream_error"
    call = notes.call("b", REQUEST)
    call.hears(END)
    call.ends(None)
    assert vars(notes)["failure"] is None
    assert notes.expert == "b"


@pytest.mark.parametrize(("is_whole", "failure"), [(True, None), (False, ABANDONED)])
def test_answer_left_after_its_last_word_is_whole(is_whole: bool, failure: str | None) -> None:
    noted = Noted()
    call = noted.notes.call("a", REQUEST)
    call.hears(END if is_whole else Delta("one"))
    call.ends(GeneratorExit())
    assert noted.told == [("a", 0.0, failure)]
    assert noted.notes.failure is None


async def test_notes_are_those_of_the_request_also_in_its_tasks() -> None:
    notes = Noted().notes

    async def asks() -> RequestNotes:
        with expert_call("a", REQUEST) as call:
            call.hears(END)
        return current_notes()

    with watched_by(notes):
        assert await asyncio.create_task(asks()) is notes
    assert notes.answered == ("a",)
    assert current_watch() is None
    assert current_notes() is not notes


def test_call_that_nobody_watches_goes_as_it_came() -> None:
    with expert_call("a", REQUEST) as call:
        assert call.request is REQUEST


def test_histogram_counts_a_bound_with_what_is_below_it() -> None:
    histogram = Histogram((1.0, 2.0))
    for value in (0.5, 1.0, 1.5, 2.0, 9.0):
        histogram.observe(value)
    assert list(histogram.at_most()) == [(1.0, 2), (2.0, 4), (float("inf"), 5)]
    assert histogram.total == 14.0
