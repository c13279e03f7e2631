"""S15: planted keys and prompts turn up in nothing that the gateway tells or keeps."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest

from coe.assembly import load_operated
from coe.feedback_log import FeedbackLog
from coe.scheduling.trace_log import TraceLog
from coe.service.admin.access import AdminKey
from coe.service.admin.app import create_admin_app
from coe.service.app import gateway_app
from coe.service.gateway import Gateway
from coe.service.request_log import RequestLog, write_json_lines
from coe.service.settings import ServiceSettings
from coe.store import KeyLimits, StoreSettings, open_store

CHAT = "/v1/chat/completions"
UPSTREAM_KEY = "sk-canary-of-the-upstream-0b5e"
ADMIN_KEY = "canary-of-the-admin-71c9-long-enough"
PROMPT = "canary prompt: the merger is on friday"
WRONG_KEY = "coe-" + "canaryWrongKey" * 3 + "x"
UPSTREAM_WORDS = "canary words of the upstream: Traceback in /srv/secret.py"


class Watched:
    """A gateway with all that tells or keeps anything, over an upstream that misbehaves."""

    def __init__(self, folder: Path, upstream: Any, told: io.StringIO) -> None:
        self.folder = folder
        host = upstream.url.removeprefix("http://").removesuffix("/v1")
        file = folder / "experts.yaml"
        file.write_text(
            f"""
experts:
  - id: server
    engine:
      kind: openai
      base_url: http://{host}/v1
      api_key_env: CANARY_UPSTREAM
    reliability: {{retries: false, breaker: false}}
  - {{id: plain, engine: {{kind: scripted, default: said}}}}
  - {{id: gone, engine: {{kind: openai, base_url: "http://127.0.0.1:9/v1"}},
      reliability: {{retries: false, breaker: false}}}}
router: {{scorer: random, failovers: 0}}
""",
            encoding="utf-8",
        )
        self.composition, operator = load_operated(file)
        self.store = open_store(StoreSettings(folder / "store"))
        self.feedback = FeedbackLog(folder / "feedback.jsonl")
        self.trace = TraceLog(folder / "trace.jsonl")
        gateway = Gateway(
            self.composition,
            ServiceSettings(needs_key=True),
            self.feedback,
            self.trace,
            self.store,
        )
        gateway.log = RequestLog()
        self.told = told
        self.client = _client(gateway_app(gateway))
        self.admin = _client(create_admin_app(operator, AdminKey(ADMIN_KEY)))
        self.responses: list[httpx.Response] = []

    async def ask(self, method: str, path: str, client: Any = None, **sent: Any) -> httpx.Response:
        response = await (client or self.client).request(method, path, **sent)
        self.responses.append(response)
        return response

    def everything(self) -> dict[str, bytes]:
        """All that was told to anybody or lies on the disk, but for the file the operator wrote."""
        texts = {"log": self.told.getvalue().encode()}
        for n, response in enumerate(self.responses):
            head = "\n".join(f"{name}: {value}" for name, value in response.headers.items())
            texts[f"response {n}"] = head.encode() + b"\n\n" + response.content
        for file in self.folder.rglob("*"):
            if file.is_file() and file.name != "experts.yaml":
                texts[str(file.relative_to(self.folder))] = file.read_bytes()
        return texts


def _client(app: Any) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(app)
    return httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1")


@pytest.fixture
async def watched(
    tmp_path: Path, upstream: Any, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Watched]:
    monkeypatch.setenv("CANARY_UPSTREAM", UPSTREAM_KEY)
    told = io.StringIO()
    before = logging.getLogger("coe").level
    handler = write_json_lines(told, logging.DEBUG)
    watched = Watched(tmp_path, upstream, told)
    yield watched
    await watched.client.aclose()
    await watched.admin.aclose()
    await watched.composition.stop(1.0)
    for log in (watched.feedback, watched.trace):
        log.close()
    await watched.store.close()
    logging.getLogger("coe").removeHandler(handler)
    logging.getLogger("coe").setLevel(before)
    logging.getLogger("coe").propagate = True


def _body(model: str, **fields: Any) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": PROMPT}], **fields}


async def _provoke(watched: Watched, upstream: Any, bearer: str) -> None:
    """Answers, refusals and failures of every kind."""
    headers = {"authorization": f"Bearer {bearer}"}
    echo = json.dumps({"error": {"message": f"Incorrect API key provided: {UPSTREAM_KEY}"}})
    for status, said in ((200, None), (500, UPSTREAM_WORDS), (401, echo), (400, echo), (503, echo)):
        upstream.status, upstream.said = status, said
        for fields in ({}, {"stream": True}, {"tools": [{"type": "function"}]}):
            await watched.ask("POST", CHAT, json=_body("server", **fields), headers=headers)
    for body in (
        _body("plain"),
        _body("gone"),
        _body("nobody"),
        _body("coe", coe={"experts": ["plain"]}),
        _body("plain", api_key=WRONG_KEY),
        _body("plain", n=10**6),
        _body("plain", temperature=PROMPT),
    ):
        await watched.ask("POST", CHAT, json=body, headers=headers)
    await watched.ask("POST", CHAT, content=PROMPT.encode(), headers=headers)
    wrong = {"authorization": f"Bearer {WRONG_KEY}"}
    await watched.ask("POST", CHAT, json=_body("plain"), headers=wrong)
    await watched.ask("GET", f"/v1/models?api_key={WRONG_KEY}", headers=wrong)
    for path in ("/v1/models", "/readyz", "/healthz", "/metrics", "/openapi.json"):
        await watched.ask("GET", path, headers=headers)
    admin = {"authorization": f"Bearer {ADMIN_KEY}"}
    for path in ("/admin/state", "/admin/experts/server", "/admin/experts/nobody"):
        await watched.ask("GET", path, watched.admin, headers=admin)
        await watched.ask("GET", path, watched.admin, headers=wrong)
    await watched.ask("POST", "/admin/experts/gone/warm?wait_s=0", watched.admin, headers=admin)


async def test_planted_secrets_turn_up_nowhere(watched: Watched, upstream: Any) -> None:
    """S15: logs, bodies, headers, metrics, the decision log, traces and every file of state."""
    secret, _ = await watched.store.keys.create("team", KeyLimits())
    await _provoke(watched, upstream, secret)
    await watched.store.flush()
    assert await watched.store.decisions.latest(10)
    canaries = (UPSTREAM_KEY, ADMIN_KEY, WRONG_KEY, secret, UPSTREAM_WORDS)
    found = [
        (canary, where)
        for where, text in watched.everything().items()
        for canary in canaries
        if canary.encode() in text and not _is_refusal_of_words(canary, where, text)
    ]
    assert found == []


def _is_refusal_of_words(canary: str, where: str, text: bytes) -> bool:
    """The log alone is told what an upstream said: that is the operator's to read."""
    return canary == UPSTREAM_WORDS and where == "log"


async def test_planted_prompt_is_kept_nowhere(watched: Watched, upstream: Any) -> None:
    """S15: what was asked is in no log, no metric, no trace and no file but that of feedback, which
    is kept to fit on and off unless the operator names it; nobody else on the machine reads it.
    """
    secret, _ = await watched.store.keys.create("team", KeyLimits())
    await _provoke(watched, upstream, secret)
    kept = {name: text for name, text in watched.everything().items() if "response" not in name}
    assert "log" in kept
    assert len(kept["log"]) > 1000
    found = [name for name, text in kept.items() if PROMPT.encode() in text]
    assert found == ["feedback.jsonl.recent"]
    state = [file for file in watched.folder.rglob("*") if file.name != "experts.yaml"]
    assert len(state) > 3
    assert [file for file in state if file.is_file() and file.stat().st_mode & 0o077] == []
    assert PROMPT in json.loads(upstream.requests[0][3])["messages"][0]["content"]


async def test_secrets_do_reach_whom_they_are_for(watched: Watched, upstream: Any) -> None:
    """The upstream is told its key: otherwise the tests above would look for nothing."""
    secret, _ = await watched.store.keys.create("team", KeyLimits())
    headers = {"authorization": f"Bearer {secret}"}
    await watched.ask("POST", CHAT, json=_body("server"), headers=headers)
    assert upstream.requests[-1][2]["authorization"] == f"Bearer {UPSTREAM_KEY}"
    assert secret not in str(upstream.requests)


def test_keys_are_not_shown_by_what_holds_them() -> None:
    key = AdminKey(ADMIN_KEY)
    assert ADMIN_KEY not in repr(key)
    assert ADMIN_KEY not in repr(vars(key))
