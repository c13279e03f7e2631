"""S2, S3, S6, S7 and S9: who comes in, by which door, whatever the headers say."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.types import Receive, Scope, Send

from coe.assembly import load_operated
from coe.errors import ConfigError, StoreError
from coe.service.admin.access import AdminKey, is_address
from coe.service.admin.app import create_admin_app
from coe.service.app import create_app
from coe.service.door import Door
from coe.service.errors import KeyRefused
from coe.service.settings import ServiceSettings
from coe.store import ApiKey, KeyLimits, Keys, Store, StoreSettings, open_store
from coe.store.keys import token_in

CHAT = "/v1/chat/completions"
BODY = {"model": "coe", "messages": [{"role": "user", "content": "cheap"}]}
ADMIN_KEY = "an admin key that nobody guesses"
HOSTS = (
    "a/?x=",
    "a/#",
    "a/?/healthz",
    "healthz",
    "/healthz",
    "c/healthz?",
    "c\\healthz",
    "127.0.0.1:80@c",
    "",
)


@pytest.mark.parametrize("host", HOSTS)
async def test_host_header_opens_no_door(gateway: Any, host: str) -> None:
    """S2: the path as it was sent decides, never a URL put together from the Host header."""
    client = gateway(needs_key=True)
    for path in (CHAT, "/v1/models", "/metrics"):
        method = "POST" if path == CHAT else "GET"
        response = await client.request(method, path, json=BODY, headers={"host": host})
        assert response.status_code == 401


@pytest.mark.parametrize(
    "path",
    [
        "healthz",
        "*",
        "http://c/healthz",
        "//healthz",
        "/healthz/",
        "/healthz/../v1/models",
        "/v1/models?/healthz",
        "/v1/models#/healthz",
        "/HEALTHZ",
        "/openapi.json/../v1/models",
        "/openapi.json/",
        "",
    ],
)
async def test_path_that_only_looks_open_needs_a_key(compose: Any, store: Store, path: str) -> None:
    """S2: paths without their slash, absolute forms and the like are none of the open ones."""
    app = create_app(compose(), ServiceSettings(needs_key=True), store=store)
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "GET", "path": path, "headers": [], "query_string": b""}
    await app(
        {**scope, "http_version": "1.1", "scheme": "http", "server": ("c", 80)}, receive, send
    )
    assert sent[0]["status"] == 401


HEADERS = st.one_of(
    st.binary(max_size=200),
    st.binary(max_size=80).map(lambda token: b"Bearer " + token),
    st.text("'\";-= ORUNIONSELECT1%_*()x", max_size=60).map(
        lambda text: b"Bearer coe-" + text.encode()
    ),
    st.text("abcAB01_-", min_size=43, max_size=43).map(lambda t: b"bearer  coe-" + t.encode()),
)


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(header=HEADERS)
async def test_no_authorization_header_is_more_than_a_wrong_key(
    gateway: Any, store: Store, header: bytes
) -> None:
    """S3: keys are looked up by their digest; nothing of a header reaches a statement of SQL."""
    found = await store.keys.find(header)
    assert found is None
    sane = bytes(byte for byte in header if 32 <= byte < 127)
    response = await gateway(needs_key=True).post(CHAT, json=BODY, headers={"authorization": sane})
    assert (response.status_code, response.json()["error"]["code"]) == (401, "invalid_api_key")


async def test_key_in_any_other_place_is_none(gateway: Any, key: Any) -> None:
    """S3: one header alone is looked at, and only as a bearer."""
    client, headers = gateway(needs_key=True), await key()
    assert (await client.post(CHAT, json=BODY, headers=headers)).status_code == 200
    secret = headers["authorization"].removeprefix("Bearer ")
    for other in (
        {"x-api-key": secret},
        {"api-key": secret},
        {"cookie": f"key={secret}"},
        {"proxy-authorization": f"Bearer {secret}"},
        {"authorization": f"Basic {secret}"},
        {"authorization": f"Bearer {secret}x"},
        {"authorization": f"Bearer {secret[:-1]}"},
        {"authorization": f"Bearer {secret.upper()}"},
    ):
        assert (await client.post(CHAT, json=BODY, headers=other)).status_code == 401
    assert (await client.post(f"{CHAT}?api_key={secret}", json=BODY)).status_code == 401


class _BrokenKeys:
    """Keys of which every look-up fails in its own way."""

    def __init__(self, error: BaseException) -> None:
        self._error = error

    async def create(
        self, name: str, limits: KeyLimits, lifetime_s: float | None = None
    ) -> tuple[str, ApiKey]:
        raise NotImplementedError

    async def revoke(self, name_or_id: str) -> ApiKey:
        raise NotImplementedError

    async def all(self) -> tuple[ApiKey, ...]:
        return ()

    async def find(self, authorization: bytes | None) -> ApiKey | None:
        raise self._error


@pytest.mark.parametrize(
    "error",
    [
        KeyError("x"),
        TypeError("x"),
        OSError("x"),
        MemoryError(),
        RecursionError(),
        StoreError("x"),
        TimeoutError(),
        AttributeError("x"),
        UnicodeDecodeError("utf-8", b"x", 0, 1, "x"),
        AssertionError(),
    ],
)
async def test_look_up_that_fails_lets_nobody_in(error: Exception) -> None:
    """S7: any exception while a key is looked up keeps the door shut."""

    async def inside(scope: Scope, receive: Receive, send: Send) -> None:
        pytest.fail("somebody got in")

    keys: Keys = _BrokenKeys(error)

    async def nothing(*_: Any) -> Any:
        return {}

    with pytest.raises(StoreError):
        await Door(inside, keys)({"type": "http", "path": CHAT, "headers": []}, nothing, nothing)


async def test_key_that_nobody_has_is_refused_before_the_app() -> None:
    """S7: no key found is a refusal, too, and not a missing attribute further in."""

    async def inside(scope: Scope, receive: Receive, send: Send) -> None:
        pytest.fail("somebody got in")

    class Nobody(_BrokenKeys):
        async def find(self, authorization: bytes | None) -> ApiKey | None:
            return None

    async def nothing(*_: Any) -> Any:
        return {}

    door = Door(inside, Nobody(ValueError()))
    with pytest.raises(KeyRefused):
        await door({"type": "http", "path": CHAT, "headers": []}, nothing, nothing)


class Doors:
    """A gateway with keys and its admin API."""

    def __init__(self, folder: Path) -> None:
        file = folder / "experts.yaml"
        file.write_text(
            "experts: [{id: cheap, engine: {kind: scripted, default: cheap}}]\n"
            "router: {scorer: random}\n",
            encoding="utf-8",
        )
        self.store = open_store(StoreSettings(folder / "store"))
        self.composition, operator = load_operated(file)
        settings = ServiceSettings(needs_key=True)
        self.apps = {
            "client": create_app(self.composition, settings, store=self.store),
            "admin": create_admin_app(operator, AdminKey(ADMIN_KEY)),
        }

    def ask(self, door: str, host: str = "127.0.0.1") -> httpx.AsyncClient:
        transport = httpx.ASGITransport(self.apps[door])
        return httpx.AsyncClient(transport=transport, base_url=f"http://{host}")


@pytest.fixture
async def doors(tmp_path: Path) -> AsyncIterator[Doors]:
    doors = Doors(tmp_path)
    yield doors
    await doors.composition.stop(1.0)
    await doors.store.close()


ADMIN_CALLS = (
    ("GET", "/admin/state"),
    ("GET", "/admin/experts"),
    ("POST", "/admin/experts"),
    ("GET", "/admin/experts/cheap"),
    ("DELETE", "/admin/experts/cheap"),
    ("POST", "/admin/experts/cheap/warm"),
    ("POST", "/admin/experts/cheap/sleep"),
    ("POST", "/admin/experts/cheap/stop"),
    ("PUT", "/admin/experts/cheap"),
    ("GET", "/nowhere"),
)


async def test_every_role_opens_its_own_door_alone(doors: Doors) -> None:
    """S6: nobody, a client and the admin, at each call of each door."""
    secret, _ = await doors.store.keys.create("team", KeyLimits())
    bearers = {"nobody": None, "client": secret, "admin": ADMIN_KEY}
    for role, bearer in bearers.items():
        headers = {} if bearer is None else {"authorization": f"Bearer {bearer}"}
        async with doors.ask("client") as client, doors.ask("admin") as admin:
            for method, path in ADMIN_CALLS:
                if role != "admin":
                    response = await admin.request(method, path, headers=headers, json={})
                    assert response.status_code == 401, (role, method, path)
                # The client's door has no such path for anybody.
                response = await client.request(method, path, headers=headers, json={})
                assert response.status_code == (404 if role == "client" else 401)
            asked = await client.post(CHAT, json=BODY, headers=headers)
            assert asked.status_code == (200 if role == "client" else 401)
            state = await admin.get("/admin/state", headers=headers)
            assert state.status_code == (200 if role == "admin" else 401)
            # What the admin may do does not include asking in somebody's name.
            assert (await admin.post(CHAT, json=BODY, headers=headers)).status_code != 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "127.0.0.1.evil.example",
        "localhost.evil.example",
        "",
        "[::1].evil",
        "127.0.0.1:80@evil",
        "127.0.0.1, evil",
    ],
)
async def test_page_that_points_its_name_here_does_not_reach_the_admin(
    doors: Doors, host: str
) -> None:
    """S9: DNS rebinding: a page whose name resolves to loopback still says its own name."""
    headers = {"authorization": f"Bearer {ADMIN_KEY}", "host": host}
    async with doors.ask("admin") as admin:
        for method, path in ADMIN_CALLS:
            response = await admin.request(method, path, headers=headers, json={})
            assert response.status_code == 403
    assert not is_address(host.encode())
    assert doors.composition.pool.ids == ("cheap",)


async def test_page_can_post_to_no_door_without_asking_first(doors: Doors) -> None:
    """S9: a form of a web page has no JSON type, and a preflight is not granted."""
    secret, _ = await doors.store.keys.create("team", KeyLimits())
    for door, bearer, path in (
        ("client", secret, CHAT),
        ("client", secret, "/v1/route"),
        ("client", secret, "/v1/batches"),
        ("admin", ADMIN_KEY, "/admin/experts"),
    ):
        async with doors.ask(door) as client:
            headers = {"authorization": f"Bearer {bearer}", "content-type": "text/plain"}
            form = await client.post(path, content=b"{}", headers=headers)
            assert form.status_code == 415, path
            preflight = await client.options(path, headers={"origin": "http://evil.example"})
            assert preflight.status_code in (401, 405)
            assert "access-control-allow-origin" not in preflight.headers


def test_admin_door_is_shut_where_there_is_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """S6: off by default; asked for without a key it does not open without one."""
    monkeypatch.delenv("COE_ADMIN_KEY", raising=False)
    with pytest.raises(ConfigError):
        AdminKey.taken_from_environment()
    monkeypatch.setenv("COE_ADMIN_KEY", "short")
    with pytest.raises(ConfigError, match="at least 16"):
        AdminKey.taken_from_environment()


def test_token_is_read_in_one_form_only() -> None:
    token = b"coe-" + b"a" * 43
    assert token_in(b"Bearer " + token) == token
    for header in (token, b"Bearer\t" + token, b"Bearer " + token + b"\n", b"Token " + token):
        assert token_in(header) in (None, token)
    assert token_in(b"Bearer " + token + b" " + token) is None
