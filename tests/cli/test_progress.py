"""What is told of work that takes long."""

from __future__ import annotations

import asyncio

import pytest

from coe.cli import progress
from coe.cli.progress import Moment, watched
from coe.scheduling.planned_pool import Standing


def test_progress_tells_swaps_speed_time_left_and_residents() -> None:
    moment = Moment("30 of 120 answered", 0.25, 5000, Standing(2, 6, ("sums", "places")))
    assert moment.words(40.0) == (
        "30 of 120 answered, 2 of 6 swaps, 125 tokens/s, 2 min 0 s left, on sums, places"
    )


@pytest.mark.parametrize(
    ("share", "elapsed_s", "words"),
    [
        (0.0, 100.0, "x, 0 tokens/s"),
        (0.01, 100.0, "x, 0 tokens/s"),
        (0.5, 7.0, "x, 0 tokens/s, 7 s left"),
        (0.1, 1000.0, "x, 0 tokens/s, 2 h 30 min left"),
        (1.0, 100.0, "x, 0 tokens/s"),
    ],
)
def test_progress_foretells_no_end_of_what_has_hardly_begun(
    share: float, elapsed_s: float, words: str
) -> None:
    assert Moment("x", share, 0, Standing()).words(elapsed_s) == words


def test_progress_without_counted_tokens_tells_no_speed() -> None:
    assert Moment("x", 0.0, None, Standing()).words(1.0) == "x"


async def test_progress_is_a_line_now_and_then_where_nobody_draws(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "LINE_EVERY_S", 0.0)
    seen = asyncio.Event()

    def moment() -> Moment:
        seen.set()
        return Moment("1 of 2 answered", 0.0, None, Standing())

    async with watched(moment):
        await seen.wait()
        await asyncio.sleep(0)
    assert "coe: 1 of 2 answered\n" in capsys.readouterr().err
