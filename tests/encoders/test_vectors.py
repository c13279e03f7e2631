"""What is read of a long text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coe.encoders.vectors import HEAD_BYTES, TAIL_BYTES, clip


@given(st.text(max_size=20))
def test_clip_leaves_a_text_within_the_bounds_as_it_is(text: str) -> None:
    n_bytes = len(text.encode())
    assert clip(text, n_bytes, 0) == text
    assert clip(text, 0, n_bytes + 1) == text


def test_clip_keeps_both_ends_of_a_longer_text() -> None:
    head, tail = "h" * HEAD_BYTES, "t" * TAIL_BYTES
    assert clip(head + tail) == head + tail
    assert clip(f"{head}m{tail}") == f"{head} {tail}"
    assert clip(f"{head}{'m' * 1_000_000}{tail}") == f"{head} {tail}"


@pytest.mark.parametrize(
    ("text", "clipped"),
    [
        ("中文字中文字", "中文 字"),
        ("a中b文c字d", "a中b 字d"),
        ("éaaaaaaaaaé", "éaaaa aaé"),
        ("🙂🙂🙂", "🙂 🙂"),
        ("aaaaaaa🙂", "aaaaaa 🙂"),
        ("aaaaaa🙂", "aaaaaa🙂"),
        ("🙂aaaaaaaaa", "🙂aa aaaa"),
    ],
)
def test_clip_counts_bytes_and_halves_no_character(text: str, clipped: str) -> None:
    assert clip(text, 6, 4) == clipped


def test_clip_reads_a_lone_surrogate_as_a_question_mark() -> None:
    assert clip("\ud800 hello") == "? hello"
    assert clip("ab\udfffcd\ud800ef", 3, 3) == "ab? ?ef"
