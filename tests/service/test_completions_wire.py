from __future__ import annotations

from typing import Any

import orjson
import pytest
from openai.types import Completion

from coe.service.completions_wire import (
    CompletionsCall,
    TextChunkWriter,
    read_completions,
    text_completion,
)
from coe.service.errors import InvalidRequest


def read(**fields: Any) -> CompletionsCall:
    return read_completions({"model": "sums", "prompt": "1 + 1 =", **fields})


def chat_answer(*texts: str, reason: str = "stop", **fields: Any) -> dict[str, Any]:
    choices = [
        {"index": index, "message": {"content": text}, "finish_reason": reason}
        for index, text in enumerate(texts)
    ]
    return {"choices": choices, **fields}


def usage(n: int) -> dict[str, int]:
    return {"prompt_tokens": n, "completion_tokens": 1, "total_tokens": n + 1}


def test_read_completions_makes_the_prompt_what_a_user_says() -> None:
    body = {"model": "sums", "prompt": "1 + 1 =", "top_p": 0.5, "seed": None, "suffix": ""}
    call = read_completions(orjson.dumps(body))
    # 16 is what the API has always taken where nothing is said.
    assert call.chats == (
        {
            "model": "sums",
            "messages": [{"role": "user", "content": "1 + 1 ="}],
            "top_p": 0.5,
            "max_tokens": 16,
        },
    )
    assert (call.model, call.is_streamed, call.wants_usage) == ("sums", False, False)


def test_read_completions_makes_a_chat_of_each_prompt() -> None:
    call = read(
        prompt=["a", "b"], max_tokens=0, stream=True, stream_options={"include_usage": True}
    )
    assert [chat["messages"][0]["content"] for chat in call.chats] == ["a", "b"]
    assert {chat["max_tokens"] for chat in call.chats} == {0}
    assert call.is_streamed
    assert call.wants_usage


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"echo": True}, "echo", "unsupported_parameter"),
        ({"suffix": "end"}, "suffix", "unsupported_parameter"),
        ({"logprobs": 0}, "logprobs", "unsupported_parameter"),
        ({"best_of": 2}, "best_of", "unsupported_parameter"),
        ({"messages": []}, "messages", "unsupported_parameter"),
        ({"tools": [{}]}, "tools", "unsupported_parameter"),
        ({"prompt": None}, "prompt", "missing_parameter"),
        ({"prompt": []}, "prompt", "invalid_type"),
        ({"prompt": {"a": 1}}, "prompt", "invalid_type"),
        ({"prompt": [1, 2]}, "prompt[0]", "invalid_type"),
        ({"prompt": ["a", [1]]}, "prompt[1]", "invalid_type"),
        ({"model": None}, "model", "missing_parameter"),
        ({"stream": "yes"}, "stream", "invalid_type"),
        ({"stream_options": {}}, "stream_options", "invalid_value"),
    ],
)
def test_read_completions_names_the_wrong_field(
    fields: dict[str, Any], param: str, code: str
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        read(**fields)
    assert (caught.value.param, caught.value.code) == (param, code)


def test_read_completions_keeps_bytes_within_bounds() -> None:
    with pytest.raises(InvalidRequest, match="n must be between"):
        read_completions(b'{"model": "sums", "prompt": "a", "n": 1000}')


def test_text_completion_numbers_the_choices_of_all_prompts() -> None:
    call = read(prompt=["a", "b"], n=2)
    answers = [
        chat_answer("a0", "a1", usage=usage(3)),
        chat_answer("b0", "b1", reason="length", usage=usage(4)),
    ]
    body = text_completion(call, "cmpl-1", "sums", answers)
    told = Completion.model_validate(body, strict=True)
    assert [(choice.index, choice.text) for choice in told.choices] == [
        (0, "a0"),
        (1, "a1"),
        (2, "b0"),
        (3, "b1"),
    ]
    assert [choice.finish_reason for choice in told.choices] == ["stop"] * 2 + ["length"] * 2
    assert told.usage is not None
    assert (told.usage.prompt_tokens, told.usage.total_tokens) == (7, 9)


def test_text_completion_has_no_usage_where_one_was_not_counted() -> None:
    call = read(prompt=["a", "b"])
    answers = [chat_answer("a", usage=usage(3)), chat_answer("b")]
    assert text_completion(call, "cmpl-1", "sums", answers)["usage"] is None


def test_text_chunk_writer_says_what_the_chat_says() -> None:
    call = read(prompt=["a", "b"], stream=True, stream_options={"include_usage": True})
    writer = TextChunkWriter(call, "cmpl-1", "sums")

    def piece(delta: dict[str, Any], reason: str | None = None) -> dict[str, Any]:
        return {"choices": [{"index": 0, "delta": delta, "finish_reason": reason}]}

    assert writer.chunk(piece({"role": "assistant", "content": ""})) is None
    told = [
        writer.chunk(piece({"content": "two"})),
        writer.chunk(piece({"content": "three"}), 1),
        writer.chunk(piece({}, "tool_calls")),
    ]
    choices = [chunk["choices"][0] for chunk in told if chunk is not None]
    assert [(choice["index"], choice["text"]) for choice in choices] == [
        (0, "two"),
        (1, "three"),
        (0, ""),
    ]
    assert [choice["finish_reason"] for choice in choices] == [None, None, "stop"]
    assert all(chunk is not None and chunk["usage"] is None for chunk in told)
    assert writer.chunk({"choices": [], "usage": usage(3)}) is None
    assert writer.usage()["usage"] is None
    assert writer.chunk({"choices": [], "usage": usage(4)}, 1) is None
    assert writer.usage()["usage"] == {
        "prompt_tokens": 7,
        "completion_tokens": 2,
        "total_tokens": 9,
    }
