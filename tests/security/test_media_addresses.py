"""S1 by proxy: what an expert's server would be told to fetch, load or decode."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coe.service.bounds import check_bounds
from coe.service.errors import InvalidRequest
from coe.service.media import is_public
from coe.service.request_limits import RequestLimits

LIMITS = RequestLimits()
REFUSED = (
    "file:///etc/passwd",
    "FILE:///etc/passwd",
    " file:///etc/passwd",
    "/etc/passwd",
    "ftp://example.com/a",
    "gopher://example.com/",
    "unix:/run/docker.sock",
    "http://localhost/",
    "http://LOCALHOST:8000/sleep",
    "http://localhost./",
    "http://a.localhost/",
    "http://127.0.0.1/",
    "http://127.1/",
    "http://2130706433/",
    "http://0x7f000001/",
    "http://0x7f.0.0.1/",
    "http://0177.0.0.1/",
    "http://0.0.0.0/",
    "http://10.0.0.1/",
    "http://172.16.3.4/",
    "http://192.168.1.1/",
    "http://100.64.0.1/",
    "http://169.254.169.254/latest/meta-data/",
    "http://metadata.google.internal/",
    "http://vllm/v1/models",
    "http://vllm.corp/",
    "http://printer.local/",
    "http://[::1]/",
    "http://[::]/",
    "http://[fe80::1]/",
    "http://[fd00::1]/",
    "http://[::ffff:127.0.0.1]/",
    "http://[::ffff:7f00:1]/",
    "http://[64:ff9b::7f00:1]/",
    "http://[2002:7f00:1::]/",
    "http://[::127.0.0.1]/",
    "http://example.com@127.0.0.1/",
    "http://127.0.0.1#@example.com/",
    "http://example.com\\@127.0.0.1/",
    "http://example.com?@127.0.0.1/",
    "http:127.0.0.1/",
    "http:///127.0.0.1/",
    "//127.0.0.1/",
    "http://127。0。0。1/",
    "http://①②⑦.0.0.1/",
    "http://%6c%6f%63alhost/",
    "http://example.com\n.localhost/",
    "http://ex ample.com/",
    "\thttp://example.com/",
    "javascript:1",
    "",
)
LET_THROUGH = (
    "https://example.com/a.png",
    "http://example.com:8080/a?b=c#d",
    "https://93.184.216.34/a",
    "https://[2606:4700::6810:85e5]/a",
    "https://xn--bcher-kva.example.com/ü.png",
    "data:image/png;base64,AA==",
    "DATA:image/png;base64,AA==",
)


def _chat(part: dict[str, Any]) -> dict[str, Any]:
    text = {"type": "text", "text": "what is it?"}
    return {"messages": [{"role": "user", "content": [text, part]}]}


def _spellings(url: str) -> list[dict[str, Any]]:
    """Every way in which servers take the address of something to look at."""
    return [
        _chat({"type": "image_url", "image_url": {"url": url}}),
        _chat({"type": "image_url", "image_url": url}),
        _chat({"image_url": url}),
        _chat({"type": "video_url", "video_url": {"url": url}}),
        _chat({"type": "audio_url", "audio_url": {"url": url}}),
        _chat({"type": "input_image", "image_url": url}),
        _chat({"type": "image", "source": {"type": "url", "url": url}}),
        _chat({"type": "image", "image": url}),
        _chat({"type": "video", "video": [url]}),
        _chat({"type": "x", "IMAGE_URL": {"URL": url}}),
        {"messages": [{"role": "user", "content": {"type": "image_url", "image_url": url}}]},
        {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": url}]}]},
        {"input": [{"type": "function_call_output", "output": [{"image_url": url}]}]},
        {"input": [{"image": url}]},
        {"extra_body": _chat({"image_url": {"url": url}})},
    ]


@pytest.mark.parametrize("url", REFUSED)
def test_address_of_a_file_or_of_an_inner_host_is_refused(url: str) -> None:
    """S1: the expert's server is not sent to read what its client could not."""
    for raw in _spellings(url):
        with pytest.raises(InvalidRequest) as refusal:
            check_bounds(raw, LIMITS)
        assert refusal.value.param
        assert len(url) < 5 or url not in str(refusal.value)


@pytest.mark.parametrize("url", LET_THROUGH)
def test_public_and_carried_media_are_let_through(url: str) -> None:
    for raw in _spellings(url):
        check_bounds(raw, LIMITS)


def test_text_is_no_address_whatever_it_says() -> None:
    raw = _chat({"type": "text", "text": "see http://127.0.0.1/ and file:///etc/passwd"})
    check_bounds({**raw, "tools": [{"parameters": {"properties": {"url": {}}}}]}, LIMITS)


def test_operator_names_the_hosts_of_media() -> None:
    own = RequestLimits(media_hosts=("images.corp", "127.0.0.1"))
    for url in ("http://images.corp/a.png", "http://IMAGES.corp:81/", "http://127.0.0.1:9/"):
        check_bounds(_chat({"image_url": url}), own)
    for url in ("https://example.com/a.png", "http://a.images.corp/", "file://images.corp/a"):
        with pytest.raises(InvalidRequest):
            check_bounds(_chat({"image_url": url}), own)
    with pytest.raises(InvalidRequest, match="on no host"):
        check_bounds(_chat({"image_url": "https://example.com/"}), RequestLimits(media_hosts=()))


def test_carried_media_are_bounded() -> None:
    """S11: one image is bounded by itself, and not only by the body that it is in."""
    limits = RequestLimits(max_media_chars=100)
    long = "data:image/png;base64," + "A" * 100
    for part in ({"image_url": {"url": long}}, {"input_audio": {"data": long}}):
        with pytest.raises(InvalidRequest, match="100 is the most"):
            check_bounds(_chat(part), limits)


@pytest.mark.parametrize("name", ["image_embeds", "audio_embeds", "IMAGE_EMBEDS"])
def test_tensors_are_refused(name: str) -> None:
    """S8: loading a tensor is deserialising what the client wrote (vLLM CVE-2025-62164)."""
    with pytest.raises(InvalidRequest) as refusal:
        check_bounds(_chat({"type": name.lower(), name: "gAR9lC4="}), LIMITS)
    assert refusal.value.code == "unsupported_parameter"


@given(st.ip_addresses(v=4))
def test_host_that_is_an_address_is_public_only_if_it_is_routed_everywhere(address: Any) -> None:
    assert is_public(str(address)) == (address.is_global and not address.is_multicast)
    mapped = f"::ffff:{address}"
    assert is_public(mapped) == is_public(str(address))


async def test_inner_address_does_not_reach_the_expert(passing: Any, upstream: Any) -> None:
    client = passing()
    part = {"type": "image_url", "image_url": {"url": "http://127.0.0.1/"}}
    body = {"model": "server", **_chat(part)}
    response = await client.post("/v1/chat/completions", json=body)
    assert (response.status_code, response.json()["error"]["code"]) == (400, "host_refused")
    item = {"role": "user", "content": [{"type": "input_image", "image_url": "file:///etc/a"}]}
    told = await client.post("/v1/responses", json={"model": "server", "input": [item]})
    assert (told.status_code, told.json()["error"]["code"]) == (400, "invalid_url")
    assert not upstream.requests
