"""S1 and S16: what a client can say to the gateway, and where it cannot get through it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from coe.service.errors import InvalidRequest
from coe.service.upstream_fields import refuse_upstream_fields

CHAT = "/v1/chat/completions"
EVIL = "http://127.0.0.1:1/evil"
NAMES = (
    "api_base",
    "base_url",
    "API_BASE",
    "Api-Key",
    "api_key",
    "user_config",
    "model_list",
    "litellm_params",
    "fallbacks",
    "headers",
    "extra_headers",
    "extra_query",
    "proxies",
    "aws_secret_access_key",
    "vertex_credentials",
    "azure_ad_token",
    "organization",
    "custom_llm_provider",
    "kv_transfer_params",
    "logits_processors",
    "media_io_kwargs",
    "prompt_embeds",
)
ROUTES: dict[str, dict[str, Any]] = {
    CHAT: {"messages": [{"role": "user", "content": "server"}]},
    "/v1/completions": {"prompt": "server"},
    "/v1/embeddings": {"input": "server"},
    "/v1/responses": {"input": "server"},
}


def _reached(upstream: Any) -> set[tuple[str, str, str]]:
    return {
        (method, path, headers.get("authorization", ""))
        for method, path, headers, _ in upstream.requests
    }


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("name", NAMES)
async def test_upstream_field_of_a_client_is_refused_on_every_route(
    passing: Any, upstream: Any, route: str, name: str
) -> None:
    """S1: no route takes a field by which other gateways let the client choose the upstream."""
    client = passing()
    for where in ({name: EVIL}, {"extra_body": {name: EVIL}}, {"extra_body": {"a": [{name: 1}]}}):
        body = {"model": "server", **ROUTES[route], **where}
        response = await client.post(route, json=body)
        assert response.status_code == 400, where
        assert EVIL not in response.text
    assert not upstream.requests


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.sampled_from([EVIL, "x"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from([*NAMES, "metadata", "model", "url"]), inner, max_size=3)
    ),
    max_leaves=8,
)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    fields=st.dictionaries(st.sampled_from([*NAMES, "metadata", "user", "coe"]), _JSON, max_size=3),
    headers=st.dictionaries(
        st.sampled_from(
            [
                "x-api-base",
                "x-litellm-api-base",
                "x-forwarded-host",
                "x-original-url",
                "x-rewrite-url",
                "x-coe-api-base",
                "x-upstream",
                "openai-organization",
                "api-key",
                "host",
                "forwarded",
                "authorization",
                "proxy-authorization",
                "cookie",
            ]
        ),
        st.sampled_from([EVIL, "Bearer stolen", "evil.example"]),
        max_size=4,
    ),
)
async def test_no_field_and_no_header_alters_the_upstream_or_its_key(
    passing: Any, upstream: Any, fields: dict[str, Any], headers: dict[str, str]
) -> None:
    """S1: whatever a client adds, at any depth, one address is called with one key or none is."""
    from_here = len(upstream.requests)
    body = {**fields, "model": "server", "messages": [{"role": "user", "content": "q"}]}
    response = await passing().post(CHAT, json=body, headers=headers)
    assert response.status_code in (200, 400, 404)
    for method, path, sent, content in upstream.requests[from_here:]:
        assert (method, path) == ("POST", "/v1/chat/completions")
        assert sent["authorization"] == "Bearer sk-canary-upstream-6f1d"
        assert not {"cookie", "proxy-authorization", "x-forwarded-host", "api-key"} & sent.keys()
        assert sent["host"] in upstream.url
        assert json.loads(content)["model"] == "served-name"


@given(
    name=st.sampled_from(NAMES),
    depth=st.integers(0, 30),
    is_list=st.booleans(),
    extension=st.sampled_from(["extra_body", "coe"]),
)
def test_upstream_field_is_found_at_any_depth(
    name: str, depth: int, is_list: bool, extension: str
) -> None:
    """S1: depth hides nothing below the fields that client libraries put their extras in."""
    value: object = {name: EVIL}
    for _ in range(depth):
        value = [value] if is_list else {"inner": value}
    with pytest.raises(InvalidRequest):
        refuse_upstream_fields({extension: value})


PATHS = (
    "/sleep",
    "/wake_up",
    "/collective_rpc",
    "/reset_prefix_cache",
    "/v1/load_lora_adapter",
    "/v1/unload_lora_adapter",
    "/invocations",
    "/tokenize",
    "/server_info",
    "/start_profile",
    "/pause",
    "/v1/files/../../sleep",
    "/v1/chat/completions/../../../sleep",
    "/v1/chat/completions/..%2f..%2f..%2fsleep",
    "/v1/chat/completions%2f..%2f..%2fsleep",
    "/v1/chat/completions;/../sleep",
    "//sleep",
    "/v1//chat/completions",
    "/%73leep",
    "/v1/models/../../sleep",
    "/v1/models/..%2f..%2fsleep",
    "/v1/models/%2e%2e/%2e%2e/sleep",
    "/.well-known/../sleep",
    "/docs",
    "/redoc",
    "/admin/state",
    "/admin/experts",
    "/v1/admin/state",
)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
async def test_paths_of_the_upstream_are_not_reached_through_the_gateway(
    passing: Any, upstream: Any, path: str, method: str
) -> None:
    """S9, S16: only listed paths are answered; /sleep and its kin get nowhere by any spelling."""
    body = {"model": "server", **ROUTES[CHAT], "level": 1, "method": "shutdown"}
    response = await passing().request(method, path, json=body)
    assert response.status_code in (404, 405)
    assert not upstream.requests


async def test_only_listed_verbs_are_answered(passing: Any, upstream: Any) -> None:
    """S9: every verb of every path is one that is documented, or is refused with what is."""
    client = passing()
    paths = (await client.get("/openapi.json")).json()["paths"]
    for path, operations in paths.items():
        if "{" in path:
            continue
        for method in ("get", "post", "put", "patch", "delete", "trace", "propfind"):
            if method in operations or (method == "head" and "get" in operations):
                continue
            response = await client.request(method.upper(), path)
            assert response.status_code in (404, 405), (method, path)
    assert not upstream.requests


async def test_only_routes_of_the_protocol_are_called_upstream(passing: Any, upstream: Any) -> None:
    """S16: what the gateway itself calls is the allow-list, whatever was asked."""
    client = passing()
    for route, body in ROUTES.items():
        await client.post(route, json={"model": "server", **body})
    paths = {path for _, path, _ in _reached(upstream)}
    assert paths <= {"/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/models"}
    assert {key for _, _, key in _reached(upstream)} == {"Bearer sk-canary-upstream-6f1d"}
