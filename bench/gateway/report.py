"""What the rounds say: medians, ratios beside the goals, and a table in Markdown."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bench.gateway.loads import Figures
from bench.gateway.rounds import Round

Take = Callable[[Round], float | None]

_KEPT_UP = 0.85
"""Of the rate; the last answers come after the last request, so a short run never has all of it."""


@dataclass(frozen=True, slots=True)
class Goal:
    """A figure that each round has, and what its median must keep to."""

    name: str
    take: Take
    """None: the round has no such figure."""
    bound: float
    is_least: bool = False
    """Whether the bound is a least and not a most."""

    def judged(self, rounds: Sequence[Round]) -> dict[str, Any]:
        values = [value for one in rounds if (value := self.take(one)) is not None]
        median = round(statistics.median(values), 4) if values else None
        is_met = None
        if median is not None:
            is_met = median >= self.bound if self.is_least else median <= self.bound
        return {
            "goal": self.name,
            "bound": f"{'>=' if self.is_least else '<='} {self.bound:.4g}",
            "median": median,
            "rounds": [round(value, 4) for value in values],
            "is_met": is_met,
        }


def goals(rates: Sequence[int], concurrency: int) -> list[Goal]:
    """Those of the project, each a ratio of figures of the same round."""
    closed = f"closed_{concurrency}"
    found = [
        Goal("CPU per request / floor's", _ratio(_of(closed, "cpu_ms"), "floor"), 2.0),
        Goal("requests/s / LiteLLM's", _ratio(_of(closed, "requests_per_s"), "litellm"), 5.0, True),
        Goal("requests/s / smg's", _ratio(_of(closed, "requests_per_s"), "smg"), 0.25, True),
    ]
    for rate in rates:
        for figure, bound in (("p50_ms", 1 / 5), ("p99_ms", 1 / 3)):
            take = _ratio(_added(f"open_{rate}", figure), "litellm")
            name = f"added {figure.removesuffix('_ms')} at {rate}/s / LiteLLM's"
            found.append(Goal(name, take, bound))
    ttft = _added("streams", "ttft_p50_ms")
    memory, start = _of("start", "rss_mib"), _of("start", "first_200_s")
    return [
        *found,
        Goal("added TTFT p50 / LiteLLM's", _ratio(ttft, "litellm"), 1 / 5),
        Goal("chunks lost", _lost, 0),
        Goal("chunks merged", _ours("streams", "merged"), 0),
        # With the default encoder: asked to route, so that it is loaded.
        Goal("RSS / LiteLLM's", _ratio(memory, "litellm", "coe-routed"), 1 / 2),
        Goal("start to first 200 / LiteLLM's", _ratio(start, "litellm", "coe-routed"), 1 / 3),
    ]


def routing_goals(routing: Figures) -> list[dict[str, Any]]:
    """Of the one measurement there is: as a round with nothing else in it."""
    bounds = {"p50_ms": 2.0, "p99_ms": 10.0}
    if not routing["decides_in_a_thread"]:
        bounds["max_ms"] = 5.0  # so long nothing else in the event loop gets on
    alone: Round = {"coe": {"routing": routing}}
    goals = [
        Goal(f"routing 512 tokens, {name.replace('_', ' ')}", _ours("routing", name), bound)
        for name, bound in bounds.items()
    ]
    return [goal.judged([alone]) for goal in goals]


_Figure = Callable[[Round, str], float | None]


def _of(scene: str, figure: str) -> _Figure:
    def take(one: Round, system: str) -> float | None:
        return one.get(system, {}).get(scene, {}).get(figure)

    return take


def _ours(scene: str, figure: str) -> Take:
    of = _of(scene, figure)
    return lambda one: of(one, "coe")


def _added(scene: str, figure: str) -> _Figure:
    """Over the direct way's."""
    of = _of(scene, figure)

    def take(one: Round, system: str) -> float | None:
        with_it, direct = of(one, system), of(one, "direct")
        return None if with_it is None or direct is None else with_it - direct

    return take


def _ratio(figure: _Figure, other: str, system: str = "coe") -> Take:
    """None where the other has none, or added nothing that could be divided by."""

    def take(one: Round) -> float | None:
        ours, theirs = figure(one, system), figure(one, other)
        return None if ours is None or theirs is None or theirs <= 0 else ours / theirs

    return take


def _lost(one: Round) -> float | None:
    sent, came = (_of("streams", name)(one, "coe") for name in ("chunks_sent", "chunks"))
    return None if sent is None or came is None else abs(sent - came)


def medians(rounds: Sequence[Round]) -> dict[str, dict[str, Figures]]:
    """Of every figure over the rounds, and of what a gateway adds to the direct way's times."""
    names = {name: None for one in rounds for name in one}
    return {name: _medians(rounds, name) for name in names}


def _medians(rounds: Sequence[Round], system: str) -> dict[str, Figures]:
    taking_part = [one for one in rounds if system in one]
    found: dict[str, Figures] = {}
    for scene, figures in taking_part[0][system].items():
        found[scene] = {name: _median(taking_part, _of(scene, name), system) for name in figures}
        if system == "direct":
            continue
        for name in figures:
            if name.endswith(("p50_ms", "p99_ms")):
                added = _median(taking_part, _added(scene, name), system)
                found[scene][f"added_{name}"] = added
    return found


def _median(rounds: Sequence[Round], figure: _Figure, system: str) -> float | None:
    values = [value for one in rounds if (value := figure(one, system)) is not None]
    return round(statistics.median(values), 4) if values else None


def table(result: Mapping[str, Any]) -> str:
    """The medians and the goals, in Markdown."""
    settings, found = result["settings"], result["medians"]
    closed = f"closed_{settings['concurrency']}"
    columns = [(f"CPU ms/request, {settings['concurrency']} in flight", closed, "cpu_ms")]
    columns.append(("requests/s", closed, "requests_per_s"))
    for rate in settings["rates"]:
        columns += [(f"added p50 at {rate}/s", f"open_{rate}", "added_p50_ms")]
        columns += [(f"added p99 at {rate}/s", f"open_{rate}", "added_p99_ms")]
    columns += [
        ("added TTFT p50", "streams", "added_ttft_p50_ms"),
        ("added TTFT p99", "streams", "added_ttft_p99_ms"),
        ("added between chunks p99", "streams", "added_gap_p99_ms"),
        ("CPU µs/chunk", "streams", "cpu_us_per_chunk"),
        ("chunks merged", "streams", "merged"),
        ("RSS MiB", "start", "rss_mib"),
        ("first 200, s", "start", "first_200_s"),
    ]
    lines = [_row("gateway", [title for title, _, _ in columns])]
    lines.append(_row("---", ["---:"] * len(columns)))
    for name, scenes in found.items():
        figures = [scenes.get(scene, {}).get(figure) for _, scene, figure in columns]
        lines.append(_row(name, ["" if value is None else f"{value:g}" for value in figures]))
    lines += ["", "| goal | bound | median | |", "| --- | --- | ---: | --- |"]
    words = {True: "met", False: "not met", None: "not measured"}
    for goal in result["goals"]:
        median = "" if goal["median"] is None else f"{goal['median']:g}"
        lines.append(f"| {goal['goal']} | {goal['bound']} | {median} | {words[goal['is_met']]} |")
    lines += _overtaxed(settings["rates"], found)
    lines += [f"\n{name}: no figures, since {why}" for name, why in result["skipped"].items()]
    return "\n".join(lines)


def _overtaxed(rates: Sequence[int], found: Mapping[str, Mapping[str, Figures]]) -> list[str]:
    """Who did not keep up with a rate: the latencies there only say how long the run was."""
    lines = []
    for rate in rates:
        for name, scenes in found.items():
            done = scenes[f"open_{rate}"]["requests_per_s"] or 0.0
            if done < _KEPT_UP * rate:
                lines.append(f"\n{name} did not keep up with {rate}/s: it did {done:g}/s")
    return lines


def _row(first: str, others: Sequence[str]) -> str:
    return "| " + " | ".join([first, *others]) + " |"
