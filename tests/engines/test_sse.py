"""Server-sent events: any chunking gives the same events."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coe.engines.sse import EventTooLong, ServerSentEvent, SSEParser, encode_event

_LINES = st.sampled_from(
    [b"data: a", b"data:b", b"data", b"data:  two", b": comment", b"event: error", b"id: 1", b"",
     b"", b"nonsense", "data: é€😀".encode()]
)  # fmt: skip
_ENDS = st.sampled_from([b"\n", b"\r\n", b"\r"])


def _parse(*chunks: bytes) -> list[ServerSentEvent]:
    parser = SSEParser()
    return [event for chunk in chunks for event in parser.feed(chunk)]


@pytest.mark.parametrize(
    ("stream", "expected"),
    [
        (b"data: one\n\n", [b"one"]),
        (b"data: one\r\n\r\n", [b"one"]),
        (b"data: one\r\r", [b"one"]),
        (b"data: a\ndata: b\n\n", [b"a\nb"]),
        (b"data:no space\n\ndata:  two spaces\n\n", [b"no space", b" two spaces"]),
        (b": comment\n\ndata: x\n: another\n\n", [b"x"]),
        (b"\xef\xbb\xbfdata: after a BOM\n\n", [b"after a BOM"]),
        (b"data\n\n", [b""]),
        (b"event: ping\n\n", []),
        (b"data: cut off", []),
        (b"data: cut off\n", []),
        (b"data: a:b\n\n", [b"a:b"]),
    ],
)
def test_parser_reads_the_standard_forms(stream: bytes, expected: list[bytes]) -> None:
    assert [event.data for event in _parse(stream)] == expected


def test_parser_names_an_event_and_forgets_the_name_after_it() -> None:
    first, second = _parse(b"event: error\ndata: x\n\ndata: y\n\n")
    assert (first.event, second.event) == ("error", "message")


def test_parser_gives_an_event_as_soon_as_its_blank_line_comes() -> None:
    parser = SSEParser()
    assert parser.feed(b"data: x\r\n") == []
    assert parser.feed(b"\r") == [ServerSentEvent(b"x")]
    assert parser.feed(b"\ndata: y\n\n") == [ServerSentEvent(b"y")]


def test_parser_takes_an_empty_chunk_within_a_line_end_for_nothing() -> None:
    assert _parse(b"data: a\r", b"", b"\n", b"data: b\r\n\r\n") == _parse(
        b"data: a\r\ndata: b\r\n\r\n"
    )


@given(st.lists(st.tuples(_LINES, _ENDS)), st.booleans(), st.lists(st.integers(0, 200)))
def test_parser_is_blind_to_chunking(
    lines: list[tuple[bytes, bytes]], has_bom: bool, cuts: list[int]
) -> None:
    stream = b"\xef\xbb\xbf" * has_bom + b"".join(line + end for line, end in lines)
    bounds = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    chunks = [stream[a:b] for a, b in pairwise(bounds)]
    assert _parse(*chunks) == _parse(stream)
    assert _parse(*(bytes([byte]) for byte in stream)) == _parse(stream)


@given(st.binary())
def test_encoded_event_reads_back(data: bytes) -> None:
    normalised = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    assert _parse(encode_event(data)) == [ServerSentEvent(normalised)]


@pytest.mark.parametrize("line", [b"x" * 50, b"data: xxxx\n" * 10])
def test_parser_refuses_an_event_without_end(line: bytes) -> None:
    parser = SSEParser(max_event_bytes=40)
    with pytest.raises(EventTooLong, match="40 bytes"):
        parser.feed(line)


def test_parser_bound_is_for_one_event_not_for_the_stream() -> None:
    parser = SSEParser(max_event_bytes=40)
    assert sum(len(parser.feed(b"data: " + b"x" * 30 + b"\n\n")) for _ in range(100)) == 100
