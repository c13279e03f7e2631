"""`coe experts` and `coe top` against a gateway on a real port."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.applications import Starlette
from typer.testing import CliRunner, Result

from coe.assembly import load_operated
from coe.cli import app
from coe.cli.frames import state_of
from coe.errors import CoeError
from coe.service.admin.access import AdminKey
from coe.service.admin.app import create_admin_app
from coe.service.app import create_app
from coe.service.server import bind, server_for
from coe.service.side_door import SideDoor

KEY = "a key that nobody guesses"
POOL = """
experts:
  - {id: a, engine: {kind: scripted, default: a}, footprint: {gib: 1}}
  - {id: far, engine: {kind: scripted, default: far}}
router: {scorer: random}
local_memory_gib: 1
"""
NEW = "id: new\nengine: {kind: scripted, default: new}\nfootprint: {gib: 0.5}\n"


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    file = tmp_path / "experts.yaml"
    file.write_text(POOL, encoding="utf-8")
    return file


@pytest.fixture
def admin_url(pool: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The admin API beside its gateway, served in a thread; the environment names both."""
    composition, operator = load_operated(pool)
    admin = create_admin_app(operator, AdminKey(KEY))
    gateway: Starlette = create_app(composition)
    told: list[str] = []
    ready = threading.Event()
    with bind("127.0.0.1", 0) as listener, bind("127.0.0.1", 0) as side:
        door = SideDoor(gateway, admin, side, told.append)
        server = server_for(door, on_ready=ready.set)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            assert ready.wait(20)
            monkeypatch.setenv("COE_ADMIN_URL", told[0])
            monkeypatch.setenv("COE_ADMIN_KEY", KEY)
            yield told[0]
        finally:
            server.should_exit = True
            thread.join(20)
            assert not thread.is_alive()


def _run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [*map(str, arguments)])


@pytest.mark.usefixtures("admin_url")
def test_experts_of_a_running_gateway_are_listed_and_operated(tmp_path: Path) -> None:
    assert _run("experts", "warm", "a").output == "a is warm\n"
    listed = _run("experts").output.splitlines()
    assert listed[0].split() == [
        "expert", "kind", "state", "devices", "GiB", "waiting", "running", "answers",
    ]  # fmt: skip
    assert listed[1].split()[:4] == ["a", "scripted", "awake", "cpu"]
    assert _run("experts", "stop", "a").output == "a was stopped\n"
    told = json.loads(_run("experts", "--json").output)
    assert [(one["id"], one["hosting"] and one["hosting"]["residency"]) for one in told] == [
        ("a", "disk"),
        ("far", None),
    ]
    file = tmp_path / "new.yaml"
    file.write_text(NEW, encoding="utf-8")
    added = _run("experts", "add", file)
    assert added.output.startswith("new was added\n")
    assert "coe fit" in added.output
    assert _run("experts", "sleep", "new").exit_code == 0
    assert _run("experts", "remove", "new").output.startswith("new was removed\n")


@pytest.mark.usefixtures("admin_url")
def test_experts_tells_what_the_gateway_objects_to(tmp_path: Path) -> None:
    unknown = _run("experts", "warm", "b")
    assert isinstance(unknown.exception, CoeError)
    assert "no expert 'b'" in str(unknown.exception)
    file = tmp_path / "big.yaml"
    file.write_text(NEW.replace("0.5", "9"), encoding="utf-8")
    assert "fits nowhere" in str(_run("experts", "add", file).exception)


@pytest.mark.usefixtures("admin_url")
def test_files_of_an_added_expert_are_looked_for_beside_its_own(tmp_path: Path) -> None:
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    (folder / "answers.jsonl").write_text('{"id": "q", "completion": "x"}\n', encoding="utf-8")
    file = folder / "several.yaml"
    engine = "{kind: replay, path: answers.jsonl}"
    file.write_text(f"experts: [{{id: old, engine: {engine}}}]\n", encoding="utf-8")
    assert _run("experts", "add", file).output.startswith("old was added\n")


@pytest.mark.usefixtures("admin_url")
def test_top_prints_one_frame() -> None:
    _run("experts", "warm", "a")
    shown = _run("top", "--once").output
    assert "random/top-1 · up 0:00:0" in shown
    assert "1 loads" in shown
    assert "cpu" in shown
    assert "1 of 1 GiB" in shown
    assert "█" in shown
    assert [line.split()[:3] for line in shown.splitlines() if line.startswith("a ")] == [
        ["a", "scripted", "awake"]
    ]


def test_experts_without_a_gateway_lists_the_file(
    pool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("COE_ADMIN_KEY", raising=False)
    told = CliRunner().invoke(app, ["experts", "-c", str(pool)])
    assert "set COE_ADMIN_KEY" in told.stderr
    assert f"these are the experts of {pool}" in told.stderr
    assert told.stdout.splitlines()[1].split() == ["a", "scripted", "1", "any", "no"]
    offline = CliRunner().invoke(app, ["experts", "-c", str(pool), "--offline", "--json"])
    assert offline.stderr == ""
    assert [one["id"] for one in json.loads(offline.stdout)] == ["a", "far"]


def test_unreachable_gateway_is_told_from_a_wrong_key(
    admin_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COE_ADMIN_KEY", "another key, not the right one")
    for command in (["top", "--once"], ["experts"], ["experts", "warm", "a"]):
        assert "does not take the key in COE_ADMIN_KEY" in str(_run(*command).exception)
    with bind("127.0.0.1", 0) as unused:
        port = unused.getsockname()[1]
    told = str(_run("top", "--admin-url", f"http://127.0.0.1:{port}").exception)
    assert told.startswith(f"no admin API answers at http://127.0.0.1:{port} (")
    assert "coe serve --admin-port" in told


def test_state_is_told_in_words() -> None:
    hosting = {"residency": "loading", "moving_s": 3.2, "departure": None, "retry_in_s": None}
    one = {"is_removed": False, "state": "loading", "hosting": hosting}
    assert state_of(one) == "loading 3 s"
    failed = {**hosting, "residency": "disk", "moving_s": None, "retry_in_s": 4.4}
    assert state_of({**one, "hosting": failed}) == "disk, failed (next try in 4 s)"
    told = {**hosting, "residency": "awake", "moving_s": None, "departure": "disk"}
    assert state_of({**one, "hosting": told}) == "awake, told to leave"
    assert state_of({**one, "is_removed": True}) == "leaving for good"
    assert state_of({**one, "hosting": None, "state": "ready"}) == "ready"
