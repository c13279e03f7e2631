"""Stop strings: found however they are split, and held back no longer than needed."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from coe.engines.stopping import StopScanner

_TEXT = st.text(alphabet="ab", max_size=30)
_STOPS = st.lists(st.text(alphabet="ab", min_size=1, max_size=4), max_size=3)


def _scan(pieces: list[str], stops: list[str]) -> str:
    scanner = StopScanner(stops)
    return "".join(scanner.push(piece) for piece in pieces) + scanner.flush()


def _expected(text: str, stops: list[str]) -> str:
    found = [text.index(stop) for stop in stops if stop in text]
    return text[: min(found)] if found else text


@given(_TEXT, _STOPS)
def test_scanner_fed_letter_by_letter_never_shows_a_stop_string(
    text: str, stops: list[str]
) -> None:
    scanner = StopScanner(stops)
    shown = "".join(scanner.push(letter) for letter in text) + scanner.flush()
    assert not any(stop in shown for stop in stops)
    assert text.startswith(shown)
    assert scanner.stopped == any(stop in text for stop in stops)


@given(_TEXT, _STOPS)
def test_scanner_fed_at_once_ends_at_the_first_stop_string(text: str, stops: list[str]) -> None:
    assert _scan([text], stops) == _expected(text, stops)


@given(_TEXT, st.text(alphabet="ab", min_size=1, max_size=4), st.integers(0, 30))
def test_scanner_finds_one_stop_string_in_any_two_halves(text: str, stop: str, cut: int) -> None:
    assert _scan([text[:cut], text[cut:]], [stop]) == _expected(text, [stop])


def test_scanner_holds_back_only_what_may_begin_a_stop_string() -> None:
    scanner = StopScanner(["END", "##"])
    assert scanner.push("text E") == "text "
    assert scanner.push("N") == ""
    assert scanner.push("T#") == "ENT"
    assert scanner.flush() == "#"


def test_scanner_is_silent_after_the_stop() -> None:
    scanner = StopScanner(["END"])
    assert scanner.push("a END b") == "a "
    assert scanner.push("more") == ""
    assert scanner.flush() == ""
