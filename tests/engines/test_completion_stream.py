"""What a server may say wrong, event by event."""

from __future__ import annotations

import orjson
import pytest

from coe.engines.completion_stream import CompletionReader
from coe.engines.sse import ServerSentEvent
from coe.errors import UpstreamError
from coe.types import Delta, Usage


def _event(payload: object) -> ServerSentEvent:
    return ServerSentEvent(orjson.dumps(payload))


@pytest.mark.parametrize(
    ("chunk", "key"),
    [
        ({"choices": ["x"]}, "choices"),
        ({"choices": {"a": 1}}, "choices"),
        ({"choices": 5}, "choices"),
        ({"choices": [{"delta": "x"}]}, "delta"),
        ({"choices": [{"delta": {"content": ["x"]}}]}, "content"),
        ({"choices": [{"delta": {"content": 5}}]}, "content"),
        ({"choices": [{"delta": {}, "finish_reason": ["stop"]}]}, "finish_reason"),
        ({"choices": [{"delta": {}, "finish_reason": {"type": "stop"}}]}, "finish_reason"),
        ({"usage": {"prompt_tokens": "many"}}, "prompt_tokens"),
        ({"usage": {"completion_tokens": [1]}}, "completion_tokens"),
        ({"usage": {"completion_tokens": -1}}, "completion_tokens"),
    ],
)
def test_malformed_value_is_an_upstream_error_that_names_expert_and_key(
    chunk: object, key: str
) -> None:
    with pytest.raises(UpstreamError, match=rf"'e'.*{key} is malformed"):
        CompletionReader("e").read(_event(chunk))


def test_values_that_servers_leave_empty_are_taken() -> None:
    reader = CompletionReader("e")
    for choice in (
        {},
        {"delta": None, "finish_reason": None},
        {"delta": {"content": None}, "finish_reason": ""},
    ):
        assert reader.read(_event({"choices": [choice], "usage": None})) == []
    assert reader.read(_event({"choices": None})) == []
    usage = {"prompt_tokens": None, "completion_tokens": 2}
    choice = {"delta": {"content": "x"}, "finish_reason": "stop"}
    assert reader.read(_event({"choices": [choice], "usage": usage})) == [Delta("x")]
    assert reader.end() == Delta(finish_reason="stop", usage=Usage(0, 2))
