"""`coe keys` as a user types it."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from coe.cli.keys import keys_app
from coe.errors import CoeError, ConfigError, UnknownExpert
from coe.store import FOLDER, ApiKey, KeyLimits, open_keys

POOL = """
experts:
  - {id: math, engine: {kind: scripted, default: a}}
  - {id: text, engine: {kind: scripted, default: b}}
router: {scorer: random}
state_dir: state
"""


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    file = tmp_path / "experts.yaml"
    file.write_text(POOL, encoding="utf-8")
    return file


def _run(pool: Path, *arguments: str) -> str:
    """What is printed. Raises what `main` would tell in one line."""
    done = CliRunner().invoke(keys_app, [*arguments, "-c", str(pool)])
    if isinstance(done.exception, CoeError):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.stdout


def _found(pool: Path, token: str) -> ApiKey | None:
    async def find() -> ApiKey | None:
        async with open_keys(pool.parent / "state" / FOLDER) as keys:
            return await keys.find(f"Bearer {token}".encode())

    return asyncio.run(find())


def test_created_key_is_printed_alone_and_opens_the_door(pool: Path) -> None:
    out = _run(
        pool, "create", "acme", "--rpm", "60", "--tpm", "1000", "--budget-usd", "2.5",
        "--budget-period", "day", "--experts", "math, text", "--expires", "30d",
    )  # fmt: skip
    (token,) = out.splitlines()
    key = _found(pool, token)
    assert key is not None
    assert key.limits == KeyLimits(60, 1000, 2.5, "day", ("math", "text"))
    assert key.expires_s == key.created_s + 30 * 86_400


def test_keys_are_listed_and_never_shown_again(pool: Path) -> None:
    token = _run(pool, "create", "acme", "--rpm", "60", "--budget-usd", "5").strip()
    _run(pool, "create", "other", "--expires", "2w", "--experts", "math")
    out = _run(pool, "list")
    first, second = out.splitlines()
    assert first.endswith(", 60 requests a minute, $5 a month")
    assert "expires" in second
    assert second.endswith(", only math")
    told = _run(pool, "list", "--json")
    assert [key["name"] for key in json.loads(told)] == ["acme", "other"]
    assert token not in out + told
    assert "digest" not in told


def test_revoked_key_opens_nothing(pool: Path) -> None:
    token = _run(pool, "create", "acme").strip()
    assert _found(pool, token) is not None
    assert "for acme is revoked" in _run(pool, "revoke", "acme")
    assert _found(pool, token) is None
    assert "revoked" in _run(pool, "list")


@pytest.mark.parametrize("expires", ["", "30", "0d", "1.5h", "-1d", "1y"])
def test_lifetime_that_makes_no_sense_is_refused(pool: Path, expires: str) -> None:
    with pytest.raises(ConfigError, match="--expires: must be minutes, hours"):
        _run(pool, "create", "acme", "--expires", expires)


def test_expert_that_the_pool_lacks_is_refused(pool: Path) -> None:
    with pytest.raises(UnknownExpert, match="did you mean 'math'"):
        _run(pool, "create", "acme", "--experts", "maths")
    with pytest.raises(ConfigError, match="budget_period: must be one of"):
        _run(pool, "create", "acme", "--budget-period", "year")


def test_importing_the_command_loads_no_redis() -> None:
    import subprocess

    code = "import sys, coe.cli.keys; print([m for m in ('redis', 'numpy') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
