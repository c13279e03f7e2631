"""A batch file is read whole or refused with the numbers of its wrong lines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from coe.errors import DatasetError
from coe.service.batches.lines import URL, read_requests
from coe.service.batches.written import answer_line

MODELS = ("coe", "sums")


def _line(id_: str = "1", **changed: Any) -> dict[str, Any]:
    body = {"model": "coe", "messages": [{"role": "user", "content": "hi"}]}
    return {"custom_id": id_, "method": "POST", "url": URL, "body": body} | changed


def _file(folder: Path, *lines: object) -> Path:
    file = folder / "in.jsonl"
    texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    file.write_text("\n".join(texts), encoding="utf-8")
    return file


def test_requests_are_read_in_order(tmp_path: Path) -> None:
    pinned = {"model": "sums", "messages": [{"role": "user", "content": "2+2"}]}
    checked = read_requests(_file(tmp_path, _line("b"), "", _line("a", body=pinned)), MODELS)
    assert (len(checked), list(checked.request_ids)) == (2, ["b", "a"])
    read = checked.requests(["b", "a"])
    assert [request.custom_id for request in read] == ["b", "a"]
    assert [request.call.model for request in read] == ["coe", "sums"]
    assert [request.call.generation.id for request in read] == ["b", "a"]
    assert {request.custom_id: request.request_id for request in read} == checked.request_ids
    assert len(set(checked.request_ids.values())) == 2
    assert [request.custom_id for request in checked.requests(["a"])] == ["a"]


def test_a_request_id_is_of_all_that_the_line_says(tmp_path: Path) -> None:
    body = {"model": "coe", "messages": [{"role": "user", "content": "bye"}]}
    ids = [
        read_requests(_file(tmp_path, line), MODELS).request_ids["1"]
        for line in (_line(), _line(), _line(body=body))
    ]
    assert ids[0] == ids[1] != ids[2]


def test_a_file_that_is_changed_while_it_is_answered_is_refused(tmp_path: Path) -> None:
    file = _file(tmp_path, _line("a"), _line("b"))
    checked = read_requests(file, MODELS)
    file.write_text(file.read_text("utf-8").replace("hi", "ho"), encoding="utf-8")
    with pytest.raises(DatasetError, match="changed while"):
        checked.requests(["b"])
    file.unlink()
    with pytest.raises(DatasetError, match="cannot be read"):
        checked.requests(["b"])


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{", "not JSON"),
        ("[]", "must be a JSON object"),
        (_line("a", custom_id=7), "custom_id must be a string"),
        (_line("a", url="/v1/images"), f"only POST {URL}"),
        (_line("a", method="GET"), f"only POST {URL}"),
        (_line("a", more=1), "unknown key 'more'"),
        (_line("a", body={"model": "coe"}), "body: messages is required"),
        (
            _line("a", body={"model": "sum", "messages": [{"role": "user", "content": "x"}]}),
            "no model 'sum' .*did you mean 'sums'",
        ),
        (
            _line(
                "a",
                body={
                    "model": "coe",
                    "stream": True,
                    "messages": [{"role": "user", "content": "x"}],
                },
            ),
            "stream cannot be true",
        ),
        (_line("1"), "'1' was used before"),
    ],
)
def test_a_wrong_line_is_told_by_number(tmp_path: Path, line: object, words: str) -> None:
    with pytest.raises(DatasetError, match=f"line 2: .*{words}"):
        read_requests(_file(tmp_path, _line(), line), MODELS)


def test_the_first_few_wrong_lines_are_told_together(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"line 1: .*line 5: ") as caught:
        read_requests(_file(tmp_path, *["{"] * 9), MODELS)
    assert "line 6" not in str(caught.value)


@pytest.mark.parametrize("missing", ["custom_id", "method", "url", "body"])
def test_a_missing_key_is_named(tmp_path: Path, missing: str) -> None:
    line = _line()
    del line[missing]
    with pytest.raises(DatasetError, match=f"{missing} is missing"):
        read_requests(_file(tmp_path, line), MODELS)


def test_a_file_without_requests_or_without_a_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="holds no request"):
        read_requests(_file(tmp_path, ""), MODELS)
    with pytest.raises(DatasetError, match="cannot be read"):
        read_requests(tmp_path / "none.jsonl", MODELS)


TOOL = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}


@pytest.mark.parametrize(
    ("model", "able", "is_right"),
    [
        ("coe", ("sums",), True),
        ("coe", (), False),
        ("sums", ("sums",), True),
        ("sums", ("other",), False),
    ],
)
def test_line_for_an_experts_own_server_needs_such_an_expert(
    tmp_path: Path, model: str, able: tuple[str, ...], is_right: bool
) -> None:
    body = {"model": model, "messages": [{"role": "user", "content": "hi"}], "tools": [TOOL]}
    file = _file(tmp_path, _line(body=body))
    if is_right:
        (request,) = read_requests(file, MODELS, lambda route: able).requests(["1"])
        raw = request.call.generation.raw
        assert raw is not None
        assert (raw.is_all, raw.fields["tools"]) == (True, [TOOL])
    else:
        with pytest.raises(DatasetError, match="line 1: body: tools is not supported"):
            read_requests(file, MODELS, lambda route: able)


def test_answer_of_a_server_stays_as_it_is_on_one_line(tmp_path: Path) -> None:
    (request,) = read_requests(_file(tmp_path, _line()), MODELS).requests(["1"])
    body = b' {"odd": 1.50,\r\n "text": "a\\nb"}\n'
    line = answer_line(request, body, {"experts": ["sums"]})
    assert b'{"odd": 1.50,   "text": "a\\nb","coe":{"experts":["sums"]}}' in line
    assert b"\n" not in line
    assert json.loads(line)["response"]["body"]["text"] == "a\nb"
    assert json.loads(answer_line(request, b"{}", {}))["response"]["body"] == {"coe": {}}
    with pytest.raises(ValueError, match="not a JSON object"):
        answer_line(request, b"[]", {})


@pytest.mark.parametrize("is_named", [True, False])
def test_lines_that_begin_alike_are_no_conversation(tmp_path: Path, is_named: bool) -> None:
    body = {"model": "coe", "messages": [{"role": "user", "content": "hi"}]}
    named = {"prompt_cache_key": "mine"} if is_named else {}
    (request,) = read_requests(_file(tmp_path, _line(body=body | named)), MODELS).requests(["1"])
    assert (request.call.generation.session is not None) == is_named


@pytest.mark.parametrize(
    ("control", "words"),
    [
        ({"timeout_s": 5}, "coe.timeout_s has no meaning"),
        ({"policy": "best-of-luck"}, "coe.policy"),
        ({"expert": ["sums"]}, "coe.expert is not taken"),
    ],
)
def test_line_may_not_wish_for_what_cannot_be(
    tmp_path: Path, control: dict[str, object], words: str
) -> None:
    body = {"model": "coe", "messages": [{"role": "user", "content": "hi"}], "coe": control}
    with pytest.raises(DatasetError, match=words):
        read_requests(_file(tmp_path, _line(body=body)), MODELS)
