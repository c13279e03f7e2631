"""One frame of `coe top`: what the admin API says, as tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

_BAR = 24
_COLUMNS = (
    "expert", "kind", "state", "devices", "GiB", "waiting", "running", "answers",
)  # fmt: skip
_LEFT = 4


def state_of(one: Mapping[str, Any]) -> str:
    """In words that say what is going on, and since when where it takes time."""
    hosting = one["hosting"]
    if one["is_removed"]:
        return "leaving for good"
    if hosting is None:
        return str(one["state"])
    state = str(hosting["residency"])
    if hosting["moving_s"] is not None:
        state += f" {hosting['moving_s']:.0f} s"
    elif hosting["departure"] is not None:
        state += ", told to leave"
    if hosting["retry_in_s"] is not None:
        state += f", failed (next try in {hosting['retry_in_s']:.0f} s)"
    return state


def expert_cells(one: Mapping[str, Any]) -> list[str]:
    """A line of the table of experts."""
    hosting = one["hosting"]
    waiting, running, gib, where = "-", str(one["running"]), "-", "-"
    if hosting is not None:
        waiting, running = str(hosting["waiting"]), str(hosting["running"])
        if hosting["oldest_wait_s"] >= 1.0:
            waiting += f" ({hosting['oldest_wait_s']:.0f} s)"
        gib = f"{hosting['held_gib'] or hosting['gib']:.3g}"
        where = "+".join(hosting["devices"]) or "-"
    name = one["id"] + ("" if one["is_routed"] else " *")
    return [name, one["kind"], state_of(one), where, gib, waiting, running, _answers(one)]


def _answers(one: Mapping[str, Any]) -> str:
    counts = one["counts"]
    failed = sum(counts["failures"].values())
    return f"{counts['answers']}" + (f" ({failed} failed)" if failed else "")


def frame(now: Mapping[str, Any], before: Mapping[str, Any] | None = None) -> RenderableType:
    """The whole view. `before`: an earlier moment, which gives rates."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    experts = Table(box=None, pad_edge=False, header_style="bold")
    for at, name in enumerate((*_COLUMNS, "swaps", "tokens/s")):
        experts.add_column(name, justify="left" if at < _LEFT else "right")
    rates = _rates(now, before)
    for one in now["experts"]:
        experts.add_row(
            *map(Text, [*expert_cells(one), _swaps(one), f"{rates.get(one['id'], 0.0):.0f}"]),
            style=_style(one),
        )
    parts: list[RenderableType] = [Text(_headline(now, before)), _devices(now), Text(), experts]
    errors = [one for one in now["experts"] if one["hosting"] and one["hosting"]["last_error"]]
    parts += [Text(f"{one['id']}: {one['hosting']['last_error']}", style="red") for one in errors]
    if not all(one["is_routed"] for one in now["experts"]):
        parts.append(Text("* answers by name only: the router does not choose it", style="dim"))
    return Group(*parts)


def _headline(now: Mapping[str, Any], before: Mapping[str, Any] | None) -> str:
    swaps = now["swaps"]
    rate = ""
    if before is not None and (passed_s := now["uptime_s"] - before["uptime_s"]) > 0:
        rate = f", {(now['answers'] - before['answers']) / passed_s:.1f}/s"
    return (
        f"{now['router']} · up {_time(now['uptime_s'])} · {now['answers']} of {now['requests']} "
        f"requests answered{rate} · {now['n_waiting']} waiting · {swaps['loads']} loads, "
        f"{swaps['wakes']} wakes, {swaps['evictions'] + swaps['sleeps']} left, "
        f"{swaps['failures']} failures"
    )


def _devices(now: Mapping[str, Any]) -> Table:
    from rich.table import Table

    table = Table.grid(padding=(0, 2))
    host: Sequence[Mapping[str, Any]] = [now["host"]] if now["host"]["budget_gib"] else []
    for device in (*now["devices"], *host):
        used, budget = device["used_gib"], device["budget_gib"]
        share = min(1.0, used / budget) if budget else 0.0
        bar = "█" * round(share * _BAR) + "░" * (_BAR - round(share * _BAR))
        table.add_row(device["id"], bar, f"{used:.3g} of {budget:.3g} GiB")
    return table


def _rates(now: Mapping[str, Any], before: Mapping[str, Any] | None) -> dict[str, float]:
    """Tokens a second of each expert since then."""
    if before is None or now["uptime_s"] <= before["uptime_s"]:
        return {}
    passed_s = now["uptime_s"] - before["uptime_s"]
    then = {one["id"]: one["counts"]["completion_tokens"] for one in before["experts"]}
    return {
        one["id"]: (one["counts"]["completion_tokens"] - then.get(one["id"], 0)) / passed_s
        for one in now["experts"]
    }


def _swaps(one: Mapping[str, Any]) -> str:
    if one["hosting"] is None:
        return "-"
    moves = one["hosting"]["moves"]
    return str(moves["loads"] + moves["wakes"])


def _style(one: Mapping[str, Any]) -> str:
    hosting = one["hosting"]
    if one["state"] == "failed" or (hosting and hosting["retry_in_s"] is not None):
        return "red"
    if hosting is None or hosting["residency"] == "awake":
        return "green" if one["running"] else ""
    return "yellow" if hosting["residency"] in ("loading", "leaving") else "dim"


def _time(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}"
