"""`coe keys`: who may use the gateway, and how much. It may run while the gateway does."""

from __future__ import annotations

import asyncio
import json
import re
import time
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from coe.cli.options import DEFAULT_CONFIG, ConfigOption, JsonOption
from coe.errors import ConfigError, UnknownExpert

if TYPE_CHECKING:
    from coe.store import ApiKey, KeyLimits

keys_app = typer.Typer(help="API keys of the gateway.", no_args_is_help=True)

StateOption = Annotated[
    Path | None,
    typer.Option("--state-dir", help="Where the gateway keeps its state, if not as configured."),
]
RedisOption = Annotated[
    str | None,
    typer.Option(
        "--redis", help="Where replicas agree: redis://HOST:PORT.", envvar="COE_REDIS_URL"
    ),
]
_LIFETIME = re.compile(r"(\d{1,6})([mhdw])")
_UNITS_S = {"m": 60, "h": 3600, "d": 86_400, "w": 7 * 86_400}


@keys_app.command()
def create(
    name: Annotated[str, typer.Argument(help="Of the tenant, who may have several keys.")],
    rpm: Annotated[int | None, typer.Option(help="Most requests a minute.")] = None,
    tpm: Annotated[int | None, typer.Option(help="Most tokens a minute.")] = None,
    budget_usd: Annotated[float | None, typer.Option(help="Most dollars in a period.")] = None,
    budget_period: Annotated[str, typer.Option(help="day, month (of UTC) or total.")] = "month",
    experts: Annotated[str | None, typer.Option(help="Those it may ask: a,b")] = None,
    max_priority: Annotated[
        int | None, typer.Option(help="Highest that its requests go at, -10 to 10.")
    ] = None,
    expires: Annotated[str | None, typer.Option(help="How long it lives: 90m, 12h, 30d.")] = None,
    config: ConfigOption = DEFAULT_CONFIG,
    state_dir: StateOption = None,
    redis: RedisOption = None,
) -> None:
    """Make a key and print it, this once."""
    from coe.store import KeyLimits

    asked = None if experts is None else tuple(part.strip() for part in experts.split(","))
    limits = KeyLimits(rpm, tpm, budget_usd, budget_period, asked, max_priority)  # type: ignore[arg-type]
    folder = _folder(config, state_dir, asked)
    asyncio.run(_create(folder, redis, name, limits, _lifetime_s(expires)))


@keys_app.command("list")
def list_keys(
    config: ConfigOption = DEFAULT_CONFIG,
    state_dir: StateOption = None,
    redis: RedisOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show all keys, also those that have expired or were revoked."""
    asyncio.run(_list(_folder(config, state_dir), redis, as_json))


@keys_app.command()
def revoke(
    key: Annotated[str, typer.Argument(help="The key's id, or its name if no other has it.")],
    config: ConfigOption = DEFAULT_CONFIG,
    state_dir: StateOption = None,
    redis: RedisOption = None,
) -> None:
    """Refuse a key from now on. A gateway that runs hears of it within a second."""
    asyncio.run(_revoke(_folder(config, state_dir), redis, key))


async def _create(
    folder: Path, redis: str | None, name: str, limits: KeyLimits, lifetime_s: float | None
) -> None:
    from coe.store import open_keys

    async with open_keys(folder, redis) as keys:
        token, key = await keys.create(name, limits, lifetime_s)
        # Alone on its line, so that it can be piped; the rest is for whoever reads.
        print(token)
        typer.echo(f"{key.id} for {name}: keep the key, it is not shown again", err=True)


async def _list(folder: Path, redis: str | None, as_json: bool) -> None:
    from coe.store import open_keys

    async with open_keys(folder, redis) as keys:
        found = await keys.all()
        if as_json:
            print(json.dumps([_told(key) for key in found]))
            return
        for key in found:
            print(f"{key.id}  {key.name:<20}  {_state(key)}{_limits(key.limits)}")


async def _revoke(folder: Path, redis: str | None, name_or_id: str) -> None:
    from coe.store import open_keys

    async with open_keys(folder, redis) as keys:
        key = await keys.revoke(name_or_id)
        print(f"{key.id} for {key.name} is revoked")


def _folder(config: Path, state_dir: Path | None, experts: tuple[str, ...] | None = None) -> Path:
    """Where the gateway of this configuration keeps its store; checks that it has the experts."""
    from coe.config import load_config
    from coe.store import FOLDER

    if state_dir is not None:
        return state_dir / FOLDER
    loaded = load_config(config)
    for expert_id in experts or ():
        if expert_id not in loaded.pool.ids:
            raise UnknownExpert(expert_id, loaded.pool.ids)
    return loaded.state_dir / FOLDER


def _lifetime_s(text: str | None) -> float | None:
    if text is None:
        return None
    found = _LIFETIME.fullmatch(text)
    if found is None or int(found[1]) == 0:
        problem = f"must be minutes, hours, days or weeks, as in 90m, 12h, 30d or 2w, not {text!r}"
        raise ConfigError(problem, key="--expires")
    return float(int(found[1]) * _UNITS_S[found[2]])


def _told(key: ApiKey) -> dict[str, Any]:
    told = asdict(key)
    del told["digest"]  # who has it cannot use it, and needs it for nothing
    return told


def _state(key: ApiKey) -> str:
    if key.revoked_s is not None:
        return f"revoked {_time(key.revoked_s)}"
    if key.expires_s is None:
        return f"made {_time(key.created_s)}"
    word = "expires" if key.is_usable(time.time()) else "expired"
    return f"{word} {_time(key.expires_s)}"


def _limits(limits: KeyLimits) -> str:
    parts = []
    if limits.rpm is not None:
        parts.append(f"{limits.rpm} requests a minute")
    if limits.tpm is not None:
        parts.append(f"{limits.tpm} tokens a minute")
    if limits.budget_usd is not None:
        per = "in total" if limits.budget_period == "total" else f"a {limits.budget_period}"
        parts.append(f"${limits.budget_usd:g} {per}")
    if limits.experts is not None:
        parts.append(f"only {', '.join(limits.experts)}")
    if limits.max_priority is not None:
        parts.append(f"priority {limits.max_priority} at most")
    return "".join(f", {part}" for part in parts)


def _time(time_s: float) -> str:
    return f"{datetime.fromtimestamp(time_s, UTC):%Y-%m-%d %H:%M}Z"
