"""What the official client's own models make of the responses and of every event."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from coe.service.responses.output_items import Event
from coe.service.responses.request import ResponsesCall, read_responses
from coe.service.responses.writer import ResponseWriter, sse, whole_response

TOOL = {"type": "function", "name": "add", "parameters": {}}
EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
USAGE = {
    "prompt_tokens": 5,
    "completion_tokens": 3,
    "total_tokens": 8,
    "prompt_tokens_details": {"cached_tokens": 2},
    "completion_tokens_details": {"reasoning_tokens": 1},
}
LOGPROBS = {"content": [{"token": "hi", "bytes": [104, 105], "logprob": -0.5, "top_logprobs": []}]}


def a_call(**fields: Any) -> ResponsesCall:
    return read_responses({"model": "coe", "input": "hi", "tools": [TOOL], **fields})


def chunk(delta: dict[str, Any] | None = None, **choice: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": delta or {}, **choice}]}


def text(said: str) -> dict[str, Any]:
    return chunk({"content": said})


def call_piece(index: int | None, arguments: str, **fields: Any) -> dict[str, Any]:
    function = {"arguments": arguments} | ({"name": fields["name"]} if "name" in fields else {})
    piece = {"function": function} | ({} if index is None else {"index": index})
    return chunk({"tool_calls": [piece | ({"id": fields["id"]} if "id" in fields else {})]})


def end(reason: str = "stop") -> dict[str, Any]:
    return chunk(finish_reason=reason)


def wrote(
    chunks: Sequence[dict[str, Any]], call: ResponsesCall | None = None
) -> tuple[ResponseWriter, list[Event]]:
    """The events of those chunks, each of them as the official client would have it."""
    writer = ResponseWriter(call or a_call(), "resp_1", "sums", lambda: 1000.0)
    events = writer.begin()
    for one in chunks:
        events += writer.chunk(one)
    events += writer.end()
    for number, event in enumerate(events):
        assert event["sequence_number"] == number
        EVENT.validate_python(event, strict=True)
    Response.model_validate(writer.response, strict=True)
    return writer, events


def told(events: list[Event]) -> list[str]:
    return [event["type"].removeprefix("response.") for event in events]


def test_response_writer_tells_a_text_from_its_beginning_to_its_end() -> None:
    chunks = [text(""), text("one "), text("two"), end(), {"choices": [], "usage": USAGE}]
    writer, events = wrote(chunks)
    assert told(events) == [
        "created",
        "in_progress",
        "output_item.added",
        "content_part.added",
        "output_text.delta",
        "output_text.delta",
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "completed",
    ]
    assert events[0]["response"]["status"] == "in_progress"
    assert events[2]["item"]["content"] == []
    assert {event["item_id"] for event in events[3:8]} == {"msg_1_0"}
    response = events[-1]["response"]
    assert response == writer.response
    assert response["completed_at"] == 1000
    assert response["output"] == [events[-2]["item"]]
    assert response["output"][0]["status"] == "completed"
    assert response["output"][0]["content"][0]["text"] == "one two"
    assert response["usage"]["input_tokens_details"]["cached_tokens"] == 2
    assert response["usage"]["output_tokens_details"]["reasoning_tokens"] == 1
    assert response["usage"]["total_tokens"] == 8
    assert writer.turns[-1] == {"role": "assistant", "content": "one two"}


def test_response_writer_tells_calls_whose_pieces_come_in_turns() -> None:
    chunks = [
        text("adding"),
        call_piece(0, "", id="c1", name="add"),
        call_piece(0, '{"a"'),
        call_piece(1, "{}", id="c2", name="add"),
        call_piece(0, ": 1}"),
        end("tool_calls"),
    ]
    writer, events = wrote(chunks)
    message, first, second = writer.response["output"]
    assert message["content"][0]["text"] == "adding"
    assert (first["call_id"], first["arguments"]) == ("c1", '{"a": 1}')
    assert (second["call_id"], second["arguments"]) == ("c2", "{}")
    names = told(events)
    assert names.index("output_text.done") < names.index("function_call_arguments.delta")
    assert names[-5:-1] == ["function_call_arguments.done", "output_item.done"] * 2
    assert writer.response["status"] == "completed"
    assert [call["id"] for call in writer.turns[-1]["tool_calls"]] == ["c1", "c2"]


@pytest.mark.parametrize(
    "pieces",
    [
        [(0, "c1"), (0, "c2")],
        [(0, "c1"), (1, "c1")],
        [(0, None), (1, None)],
        [(0, ""), (1, "")],
    ],
)
def test_response_writer_tells_calls_apart_that_engines_number_or_name_alike(
    pieces: list[tuple[int, str | None]],
) -> None:
    chunks = [
        call_piece(index, f"{n}", id=given_id, name="add")
        for n, (index, given_id) in enumerate(pieces)
    ]
    writer, _ = wrote([*chunks, end("tool_calls")])
    calls = writer.response["output"]
    assert [call["arguments"] for call in calls] == ["0", "1"]
    assert len({call["call_id"] for call in calls}) == 2
    assert all(call["call_id"] for call in calls)


def test_response_writer_tells_reasoning_before_the_answer() -> None:
    thoughts = [chunk({"reasoning_content": "hm "}), chunk({"reasoning": "so"})]
    writer, events = wrote([*thoughts, text("two"), end()])
    reasoning, message = writer.response["output"]
    assert reasoning["type"] == "reasoning"
    assert reasoning["content"] == [{"type": "reasoning_text", "text": "hm so"}]
    assert message["content"][0]["text"] == "two"
    assert told(events).count("output_item.done") == 2
    # An expert's own thoughts are no part of what it is shown next time.
    assert writer.turns[-1] == {"role": "assistant", "content": "two"}


def test_response_writer_tells_a_refusal_as_a_part_of_its_own() -> None:
    writer, events = wrote([text("well"), chunk({"refusal": "no"}), end()])
    said, refused = writer.response["output"][0]["content"]
    assert (said["text"], refused) == ("well", {"type": "refusal", "refusal": "no"})
    assert [event["content_index"] for event in events if "part.added" in event["type"]] == [0, 1]
    assert "refusal.done" in told(events)


def test_response_writer_passes_logprobs_on() -> None:
    writer, events = wrote([chunk({"content": "hi"}, logprobs=LOGPROBS), end()])
    assert writer.response["output"][0]["content"][0]["logprobs"] == LOGPROBS["content"]
    deltas = [event for event in events if event["type"] == "response.output_text.delta"]
    assert deltas[0]["logprobs"] == LOGPROBS["content"]


@pytest.mark.parametrize(
    ("reason", "told_reason"),
    [("length", "max_output_tokens"), ("content_filter", "content_filter")],
)
def test_response_writer_tells_what_cut_an_answer_short(reason: str, told_reason: str) -> None:
    writer, events = wrote([text("one"), end(reason)])
    assert told(events)[-1] == "incomplete"
    assert writer.response["status"] == "incomplete"
    assert writer.response["incomplete_details"] == {"reason": told_reason}
    assert writer.response["output"][0]["status"] == "incomplete"


def test_response_writer_follows_one_answer_only() -> None:
    other = {"choices": [{"index": 1, "delta": {"content": "other"}, "finish_reason": "length"}]}
    writer, _ = wrote([text("one"), other, end()])
    assert writer.turns[-1]["content"] == "one"
    assert writer.response["status"] == "completed"


def test_response_writer_tells_an_empty_answer_as_an_empty_message() -> None:
    writer, _ = wrote([end()])
    assert [item["content"] for item in writer.response["output"]] == [[]]
    assert writer.turns[-1] == {"role": "assistant", "content": ""}


def test_response_writer_fails_where_an_answer_breaks_off() -> None:
    writer, events = wrote([text("one")])
    assert told(events)[-1] == "failed"
    assert writer.response["status"] == "failed"
    assert writer.response["error"]["code"] == "server_error"
    assert writer.is_ended
    assert writer.chunk(text("two")) == writer.end() == writer.fail({}) == []


def test_response_writer_tells_a_refused_request_as_a_rate_limit() -> None:
    writer = ResponseWriter(a_call(), "resp_1", "sums")
    writer.begin()
    failed = writer.fail({"type": "rate_limit_error", "message": "later"})
    EVENT.validate_python(failed[0], strict=True)
    assert failed[0]["response"]["error"] == {"code": "rate_limit_exceeded", "message": "later"}


def test_response_writer_repeats_the_request() -> None:
    call = a_call(
        instructions="Be kind.",
        metadata={"a": "b"},
        temperature=0.5,
        max_output_tokens=9,
        store=False,
        tool_choice="required",
        reasoning={"effort": "low"},
    )
    writer, _ = wrote([text("one"), end()], call)
    response = Response.model_validate(writer.response)
    assert response.instructions == "Be kind."
    assert response.metadata == {"a": "b"}
    assert (response.temperature, response.max_output_tokens) == (0.5, 9)
    assert response.tool_choice == "required"
    assert response.model == "sums"


def test_whole_response_is_what_its_stream_would_have_come_to() -> None:
    calls = [
        {"id": f"c{n}", "type": "function", "function": {"name": "add", "arguments": f"{n}"}}
        for n in range(2)
    ]
    message = {"role": "assistant", "content": "one", "reasoning_content": "hm"}
    completion = {
        "choices": [
            {
                "index": 0,
                "message": {**message, "tool_calls": calls},
                "finish_reason": "tool_calls",
                "logprobs": None,
            }
        ],
        "usage": USAGE,
    }
    whole = whole_response(a_call(), "resp_1", "sums", completion)
    Response.model_validate(whole.response, strict=True)
    streamed, _ = wrote(
        [
            chunk({"reasoning_content": "h"}),
            chunk({"reasoning_content": "m"}),
            text("o"),
            text("ne"),
            *(call_piece(n, f"{n}", id=f"c{n}", name="add") for n in range(2)),
            end("tool_calls"),
            {"choices": [], "usage": USAGE},
        ]
    )
    assert whole.response["output"] == streamed.response["output"]
    assert whole.response["usage"] == streamed.response["usage"]
    assert whole.turns == streamed.turns


PIECES = st.one_of(
    st.text("ab", max_size=2).map(text),
    st.sampled_from(["reasoning_content", "refusal"]).map(lambda kind: chunk({kind: "x"})),
    st.builds(
        lambda index, id, name: call_piece(index, "1", id=id, name=name),
        st.integers(0, 2),
        st.sampled_from(["c1", "c2", None]),
        st.sampled_from(["add", "", None]),
    ),
    st.sampled_from([{}, {"choices": None}, {"choices": [{"delta": None}]}, chunk()]),
)


@settings(max_examples=100, deadline=None, derandomize=True, database=None)
@given(chunks=st.lists(PIECES, max_size=8), reason=st.sampled_from(["stop", "length", None]))
def test_response_writer_loses_nothing_and_closes_what_it_opens(
    chunks: list[dict[str, Any]], reason: str | None
) -> None:
    ends = [] if reason is None else [end(reason)]
    writer, events = wrote([*chunks, *ends])
    added = [event["output_index"] for event in events if event["type"].endswith("item.added")]
    done = [event["output_index"] for event in events if event["type"].endswith("item.done")]
    assert added == list(range(len(writer.response["output"])))
    if reason is not None:
        assert sorted(done) == added
    said = "".join(one["choices"][0]["delta"].get("content", "") for one in chunks if _says(one))
    output = writer.response["output"]
    texts = [part for item in output for part in item.get("content", ()) if "annotations" in part]
    assert "".join(part["text"] for part in texts) == said
    n_arguments = sum(len(item.get("arguments", "")) for item in output)
    assert n_arguments == sum("tool_calls" in str(one) for one in chunks)


def _says(one: dict[str, Any]) -> bool:
    return bool(one.get("choices") and one["choices"][0].get("delta"))


def test_sse_names_each_event() -> None:
    assert (
        sse([{"type": "response.created", "n": "é\n"}, {"type": "x"}])
        == (
            'event: response.created\ndata: {"type":"response.created","n":"é\\n"}\n\n'
            'event: x\ndata: {"type":"x"}\n\n'
        ).encode()
    )
