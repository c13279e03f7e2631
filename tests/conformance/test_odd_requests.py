"""Requests that no client library sends: answered or explained, and never broken."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx2 as httpx
import pytest

from coe.feedback_log import FeedbackLog
from coe.service.app import create_app

ROUTES = ("chat/completions", "completions", "embeddings", "responses", "route", "feedback")
JSON_TYPE = (b"content-type", b"application/json")
PLAIN = b'{"model": "coe", "messages": [{"role": "user", "content": "sums"}]}'
NOT_JSON = {
    "nothing": b"",
    "a bare NaN": b"NaN",
    "NaN in a field": b'{"model": "coe", "temperature": NaN}',
    "infinity": b'{"model": "coe", "temperature": -Infinity}',
    "bytes that are no UTF-8": b'{"model": "\xff\xfe"}',
    "UTF-16": '{"model": "coe"}'.encode("utf-16"),
    "a byte order mark": b"\xef\xbb\xbf" + PLAIN,
    "a lone surrogate": b'{"model": "\\ud800"}',
    "a lone surrogate as a key": b'{"\\udfff": 1}',
    "more after the end": PLAIN + b"}",
    "two objects": PLAIN + PLAIN,
    "no object": b"[1, 2]",
    "a comment": b'{"model": "coe" /* routed */}',
    "single quotes": b"{'model': 'coe'}",
    "a control character": b'{"model": "\x00"}',
    "65 levels": b'{"a":' + b"[" * 64 + b"]" * 64 + b"}",
    "a million levels": b"[" * 1_000_000,
}
HUGE = str(10**400).encode()
ODD_VALUES = {
    "a huge whole number": b'"max_tokens": ' + HUGE,
    "a huge seed": b'"seed": ' + HUGE,
    "a seed of 65 bits": b'"seed": 18446744073709551616',
    "a number over all floats": b'"temperature": 1e999',
    "a negative zero": b'"max_tokens": -0',
    "a fraction": b'"max_tokens": 1.5',
    "truth": b'"max_tokens": true',
    "a number as text": b'"n": "1"',
    "a stop of surrogates in pairs": b'"stop": "\\ud83d\\ude00", "max_tokens": 0',
    "nothing in place of no": b'"logprobs": 0',
    "no in place of nothing": b'"presence_penalty": false',
    "an object in place of a text": b'"prompt_cache_key": {}',
}
ODD_HEADERS = [
    (b"x-coe-priority", b"\xb2"),
    (b"x-coe-priority", b"99"),
    (b"x-coe-priority", b"1e1"),
    (b"x-coe-timeout", b"NaN"),
    (b"x-coe-timeout", b"-1"),
    (b"x-coe-timeout", b"0.0"),
    (b"x-coe-experts", b"\xff\xfe"),
    (b"x-coe-experts", ",".join(map(str, range(257))).encode()),
    (b"x-coe-experts", b"sums,,lands"),
    (b"x-coe-policy", "\u00fc".encode("latin-1")),
    (b"x-coe-cache", b"maybe"),
]


@pytest.fixture(scope="module")
def http(
    compose: Any, serve: Any, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[httpx.Client]:
    feedback = FeedbackLog(tmp_path_factory.mktemp("state") / "feedback.jsonl")
    with (
        serve(create_app(compose(), feedback=feedback)) as url,
        httpx.Client(base_url=url, trust_env=False) as client,
    ):
        yield client


def _explained(response: httpx.Response, status: int) -> dict[str, Any]:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    error: dict[str, Any] = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"]
    return error


@pytest.mark.parametrize("name", NOT_JSON)
@pytest.mark.parametrize("route", ROUTES)
def test_body_that_is_no_request_is_explained(http: httpx.Client, route: str, name: str) -> None:
    body = NOT_JSON[name]
    limit = 4096 if route == "feedback" else 8 * 2**20
    status = 413 if len(body) > limit else 400
    _explained(http.post(f"/v1/{route}", content=body, headers=[JSON_TYPE]), status)


@pytest.mark.parametrize("name", ODD_VALUES)
def test_odd_value_is_explained_with_its_field(http: httpx.Client, name: str) -> None:
    body = PLAIN[:-1] + b", " + ODD_VALUES[name] + b"}"
    error = _explained(http.post("/v1/chat/completions", content=body, headers=[JSON_TYPE]), 400)
    if error["code"] != "invalid_json":
        assert f'"{error["param"]}"'.encode() in ODD_VALUES[name]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("max_tool_calls", "3"),
        ("max_tool_calls", True),
        ("user", {}),
        ("background", 0),
        ("text", {"format": {}}),
        ("n", True),
        ("safety_identifier", 1),
        ("input", [{"type": 0, "role": "user", "content": "hi"}]),
        ("input", [{"type": "", "role": "user", "content": "hi"}]),
    ],
)
def test_response_repeats_nothing_that_its_reader_could_not_read(
    http: httpx.Client, field: str, value: object
) -> None:
    body = {"model": "coe", "input": "sums", field: value}
    error = _explained(http.post("/v1/responses", json=body), 400)
    assert str(error["param"]).startswith(field)


def test_body_of_64_levels_is_not_too_deep(http: httpx.Client) -> None:
    body = json.loads(PLAIN) | {"user": json.loads(b"[" * 63 + b"]" * 63)}
    assert http.post("/v1/chat/completions", json=body).status_code == 200


@pytest.mark.parametrize(
    "content_type",
    [None, b"", b"text/plain", b"application/jsonp", b"application/json\xff", b"\xff", b"json"],
)
def test_body_that_is_not_said_to_be_json_is_refused(
    http: httpx.Client, content_type: bytes | None
) -> None:
    headers = [] if content_type is None else [(b"content-type", content_type)]
    response = http.post("/v1/chat/completions", content=PLAIN, headers=headers)
    assert _explained(response, 415)["code"] == "unsupported_media_type"


@pytest.mark.parametrize(
    "content_type", [b"application/json", b"Application/JSON ; charset=utf-8", b"application/json;"]
)
def test_body_that_is_said_to_be_json_in_any_way_is_read(
    http: httpx.Client, content_type: bytes
) -> None:
    headers = [(b"content-type", content_type)]
    response = http.post("/v1/chat/completions", content=PLAIN, headers=headers)
    assert response.status_code == 200


@pytest.mark.parametrize(("name", "value"), ODD_HEADERS)
def test_odd_header_is_explained(http: httpx.Client, name: bytes, value: bytes) -> None:
    headers = [JSON_TYPE, (name, value)]
    response = http.post("/v1/chat/completions", content=PLAIN, headers=headers)
    status = 404 if value == b"\xff\xfe" else 400  # which may well be the id of an expert
    _explained(response, status)


def test_header_that_is_said_twice_counts_once_and_first(http: httpx.Client) -> None:
    headers = [JSON_TYPE, (b"x-coe-experts", b"lands"), (b"x-coe-experts", b"nobody")]
    response = http.post("/v1/chat/completions", content=PLAIN, headers=headers)
    assert response.status_code == 200
    assert response.headers["x-coe-expert"] == "lands"
    twice = [JSON_TYPE, (b"content-type", b"text/plain")]
    response = http.post("/v1/chat/completions", content=PLAIN, headers=twice)
    assert response.status_code == 200


@pytest.mark.parametrize("given", [b"\xff\xfe", b"two words", b"x" * 129, "ä".encode()])
def test_request_id_that_is_not_sane_is_replaced(http: httpx.Client, given: bytes) -> None:
    response = http.get("/v1/models", headers=[(b"x-request-id", given)])
    assert response.status_code == 200
    assert len(response.headers["x-request-id"]) == 32


@pytest.mark.parametrize("path", ["/v1/responses/x", "/v1/models", "/v1/chat/completions"])
def test_method_that_is_not_taken_is_told_which_are(http: httpx.Client, path: str) -> None:
    response = http.request("PATCH", path)
    _explained(response, 405)
    allowed = set(response.headers["allow"].split(", "))
    assert (
        allowed
        == {
            "/v1/responses/x": {"GET", "HEAD", "DELETE"},
            "/v1/models": {"GET", "HEAD"},
            "/v1/chat/completions": {"POST"},
        }[path]
    )


@pytest.mark.parametrize(
    "path", ["/v1/models/%00", "/v1/models/%ff", "/v1/responses/%2e%2e", "/v2"]
)
def test_path_to_nowhere_is_explained(http: httpx.Client, path: str) -> None:
    _explained(http.get(path), 404)
