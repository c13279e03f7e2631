"""S4, S11 and S12: templates, numbers and names that a client may not have its way with."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from coe.config import load_config
from coe.errors import ConfigError

CHAT = "/v1/chat/completions"
ROUTES: dict[str, dict[str, Any]] = {
    CHAT: {"messages": [{"role": "user", "content": "server"}]},
    "/v1/completions": {"prompt": "server"},
    "/v1/responses": {"input": "server"},
}
TEMPLATE = "{% for i in range(10**9) %}{{ cycler.__init__.__globals__ }}{% endfor %}"


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize(
    "where",
    [
        {"chat_template": TEMPLATE},
        {"chat_template_kwargs": {"chat_template": TEMPLATE}},
        {"chat_template_kwargs": {"a": [{"hf_chat_template": TEMPLATE}]}},
        {"hf_chat_template": TEMPLATE},
        {"extra_body": {"chat_template": TEMPLATE}},
        {"extra_body": {"chat_template_kwargs": {"chat_template": TEMPLATE}}},
        {"extra_body": {"extra_body": {"hf_chat_template": TEMPLATE}}},
    ],
)
async def test_template_of_a_client_does_not_reach_the_expert(
    passing: Any, upstream: Any, route: str, where: dict[str, Any]
) -> None:
    """S4: a template is a program; none comes from a client unless the operator lets it."""
    response = await passing().post(route, json={"model": "server", **ROUTES[route], **where})
    assert response.status_code == 400
    assert "chat_template" in response.json()["error"]["param"]
    assert not upstream.requests


async def test_prompt_is_not_rendered_by_the_gateway(passing: Any, upstream: Any) -> None:
    """S4: what looks like a template in a message is text, and arrives as it was."""
    body = {"model": "server", "messages": [{"role": "user", "content": "{{ 7 * 7 }} ${7*7}"}]}
    assert (await passing().post(CHAT, json=body)).status_code == 200
    assert upstream.bodies[0]["messages"] == body["messages"]


@pytest.mark.parametrize(
    "fields",
    [
        {"n": 17},
        {"n": 10**30},
        {"n": -1},
        {"n": 1.5},
        {"n": True},
        {"n": "9"},
        {"best_of": 1000},
        {"max_tokens": 10**9},
        {"max_completion_tokens": 10**9},
        {"min_tokens": 10**9},
        {"top_logprobs": 10**6},
        {"prompt_logprobs": 10**6},
        {"stop": ["x"] * 17},
        {"stop": "x" * 257},
        {"logit_bias": {str(i): 1 for i in range(2000)}},
        {"bad_words": ["x"] * 2000},
        {"tools": [{}] * 129},
        {"messages": [{"role": "user", "content": "x"}] * 3000},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "x"}] * 300}]},
        {"response_format": {"type": "json_schema", "json_schema": {"pattern": "(a+)+$"}}},
        {"response_format": {"json_schema": {"maxItems": 10**9}}},
        {"structured_outputs": {"regex": "(a*)*b"}},
        {"guided_regex": "(x+x+)+y"},
        {"guided_grammar": "x" * 10**5},
        {"guided_choice": ["x"] * 5000},
        {"extra_body": {"n": 1000}},
        {"metadata": {"a": [[[[[]]]]]}, "tools": [{"a": {"b": {"c": {"d": {}}}}}] * 200},
    ],
)
async def test_what_costs_out_of_proportion_does_not_reach_the_expert(
    passing: Any, upstream: Any, fields: dict[str, Any]
) -> None:
    """S11: each number and each list has a most, and is refused by its name."""
    response = await passing().post(CHAT, json={"model": "server", **ROUTES[CHAT], **fields})
    assert response.status_code == 400
    assert not upstream.requests


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 10**5,
        b'{"a":' * 10**5,
        b'{"messages":' + b"[" * 65 + b"]" * 65 + b"}",
        b'{"a":"' + b"\\\\" * 10**5,
        b"{" + b'"a":1,' * 10**5 + b'"a":1}',
        b"9" * 10**6,
        b'{"n":' + b"9" * 10**5 + b"}",
        b'{"n":1e999999}',
        b"NaN",
        b"\x00" * 1000,
        b"\xff\xfe" * 1000,
        b"",
    ],
)
async def test_body_that_is_hard_to_parse_is_refused_at_once(
    passing: Any, upstream: Any, body: bytes
) -> None:
    """S11: deep, long and broken JSON is a complaint, and no crash."""
    headers = {"content-type": "application/json"}
    response = await passing().post(CHAT, content=body, headers=headers)
    assert response.status_code == 400
    assert not upstream.requests


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "zstd", "GZIP", "gzip, identity"])
@pytest.mark.parametrize("route", [*ROUTES, "/v1/embeddings", "/v1/route", "/v1/batches"])
async def test_compressed_body_is_refused_and_not_unpacked(
    gateway: Any, route: str, encoding: str
) -> None:
    """S11: a bomb of a thousand times its size is looked at by nobody."""
    packed = gzip.compress(b" " * 10**6) if "gzip" in encoding else zlib.compress(b" " * 10**6)
    headers = {"content-type": "application/json", "content-encoding": encoding}
    response = await gateway().post(route, content=packed, headers=headers)
    assert response.status_code == 415
    assert response.json()["error"]["code"] == "unsupported_media_type"


async def test_body_over_the_limit_is_refused_however_it_comes(gateway: Any) -> None:
    """S11: by what it announces, and in pieces that announce nothing."""
    client = gateway(max_body_bytes=1000)
    headers = {"content-type": "application/json"}

    async def pieces() -> Any:
        for _ in range(10):
            yield b" " * 200

    for content in (b" " * 1001, pieces()):
        response = await client.post(CHAT, content=content, headers=headers)
        assert response.status_code == 413


_NAMES = st.one_of(
    st.sampled_from(
        [
            "../../etc/passwd",
            "..\\..\\windows",
            "/etc/passwd",
            "file:///etc/passwd",
            "https://evil.example/model",
            "server/../../x",
            "server\x00",
            "~/model",
            "hf.co/evil/model",
            "s3://bucket/model",
            "%2e%2e%2fetc",
            "server;rm -rf /",
            "$(id)",
            "adapter@/tmp/x",
        ]
    ),
    st.text(min_size=1, max_size=30).filter(lambda name: name not in ("server", "coe")),
)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(name=_NAMES)
async def test_model_that_is_none_of_the_pool_reaches_nobody(
    passing: Any, upstream: Any, name: str
) -> None:
    """S12: a name is looked up and never opened; the upstream is told the operator's own."""
    client = passing()
    for route, body in ROUTES.items():
        response = await client.post(route, json={"model": name, **body})
        assert response.status_code in (400, 404)
    assert not upstream.requests


@pytest.mark.parametrize("name", ["../x", "/x", ".x", "-x", "a b", "a\\b", "a\nb", "", "a" * 129])
def test_expert_cannot_have_an_id_that_leaves_its_folder(tmp_path: Path, name: str) -> None:
    """S12: ids of the operator's own file, which name records, logs and adapters."""
    import yaml

    file = tmp_path / "experts.yaml"
    expert = {"id": name, "engine": {"kind": "scripted"}}
    file.write_text(yaml.safe_dump({"experts": [expert]}), encoding="utf-8")
    with pytest.raises(ConfigError, match="id"):
        load_config(file)


@pytest.mark.parametrize(
    "file_id", ["../keys.db", "..%2fkeys.db", "%2e%2e%2fkeys.db", "file-../../x", "/etc/passwd"]
)
async def test_id_of_a_file_does_not_leave_its_folder(gateway: Any, file_id: str) -> None:
    """S12: files are looked up by their record, and what has none is not there."""
    client = gateway()
    for path in (f"/v1/files/{file_id}", f"/v1/files/{file_id}/content"):
        assert (await client.get(path)).status_code == 404
    batch = {"input_file_id": file_id, "endpoint": CHAT, "completion_window": "24h"}
    assert (await client.post("/v1/batches", json=batch)).status_code in (400, 404)
