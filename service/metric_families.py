"""What a composition and its scheduler count, under the names that Prometheus knows it by."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial

from prometheus_client.core import Metric

from coe.engines.breaker import BreakerState
from coe.scheduling.report import HostingReport, SiteReport
from coe.scheduling.terms import Residency
from coe.service.instruments import Values, counters, gauges
from coe.telemetry import Counts, ExpertCounts

_GIB = 1024**3
_EXPERT = ("expert",)


def pool_families(counts: Counts) -> Iterator[Metric]:
    """Clients' requests, and what became of them at each expert."""
    yield counters("coe_requests", "Requests that were routed.", (), [((), counts.requests)])
    yield counters("coe_answers", "Requests answered to their end.", (), [((), counts.answers)])
    yield counters(
        "coe_abandoned_requests", "Requests whose client left.", (), [((), counts.abandoned)]
    )
    failures = [((kind,), float(n)) for kind, n in counts.failures.items()]
    yield counters("coe_request_failures", "Requests that failed, by kind.", ("kind",), failures)
    yield from _expert_counters(counts.experts)
    yield from _breakers(counts.experts)


def _expert_counters(experts: Mapping[str, ExpertCounts]) -> Iterator[Metric]:
    each = partial(_each, counters, experts)
    yield each("requests", "Requests that an expert was asked.", "requests")
    yield each("answers", "Whole answers of an expert.", "answers")
    yield each("abandoned", "Answers left before their end.", "abandoned")
    yield each("failovers", "Requests that went on from it to another expert.", "failovers")
    yield each("retries", "Requests to an expert's server tried again.", "retries")
    yield each("uncounted_answers", "Answers whose tokens nobody told.", "uncounted_answers")
    yield each("breaker_openings", "Times a circuit breaker opened.", "breaker_openings")
    failures = [
        ((id_, kind), float(n))
        for id_, counts in experts.items()
        for kind, n in counts.failures.items()
    ]
    text = "Requests that an expert failed or refused, by kind."
    yield counters("coe_expert_failures", text, ("expert", "kind"), failures)
    tokens: list[tuple[tuple[str, ...], float]] = []
    for id_, counts in experts.items():
        tokens.append(((id_, "input"), counts.prompt_tokens))
        tokens.append(((id_, "output"), counts.completion_tokens))
    yield counters("coe_expert_tokens", "Tokens of whole answers.", ("expert", "type"), tokens)


def _each(
    family: Callable[[str, str, tuple[str, ...], Values], Metric],
    reports: Mapping[str, object],
    name: str,
    text: str,
    field: str,
) -> Metric:
    """One field of every expert's report."""
    values = [((id_,), float(getattr(report, field))) for id_, report in reports.items()]
    return family(f"coe_expert_{name}", text, _EXPERT, values)


def _breakers(experts: Mapping[str, ExpertCounts]) -> Iterator[Metric]:
    states = [
        ((id_, state.value), float(counts.breaker == state.value))
        for id_, counts in experts.items()
        if counts.breaker is not None
        for state in BreakerState
    ]
    text = "1 for the state that an expert's circuit breaker is in, else 0."
    yield gauges("coe_expert_breaker_state", text, ("expert", "state"), states)


def admission_families(refused: Mapping[str, int], n_in_flight: int) -> Iterator[Metric]:
    """Requests that were let in, and those that nobody has read."""
    text = "Requests that were not let in, by what there was too much of."
    told = [((reason,), float(n)) for reason, n in refused.items()]
    yield counters("coe_admission_refusals", text, ("reason",), told)
    text = "Requests that were let in and are not over."
    yield gauges("coe_admission_in_flight", text, (), [((), float(n_in_flight))])


def site_families(site: SiteReport) -> Iterator[Metric]:
    """Of experts that are hosted here. An adapter's numbers are in its base's."""
    yield from _memory(site)
    counts = site.counts
    tickets = {
        "granted": counts.granted,
        "refused": counts.refused,
        "cancelled": counts.cancelled,
        "finished": counts.finished,
        "lost": counts.lost,
    }
    text = "Requests for hosted experts by what became of them; a granted one ends later."
    told = [((outcome,), float(n)) for outcome, n in tickets.items()]
    yield counters("coe_scheduler_requests", text, ("outcome",), told)
    hosts = {id_: report for id_, report in site.experts.items() if report.base is None}
    yield from _queues(hosts)
    yield from _moves(hosts)


def _memory(site: SiteReport) -> Iterator[Metric]:
    devices = (*site.devices, site.host)
    budget = [((device.id,), device.budget_gib * _GIB) for device in devices]
    used = [((device.id,), device.used_gib * _GIB) for device in devices]
    text = "Memory that experts may take on a device."
    yield gauges("coe_device_memory_budget_bytes", text, ("device",), budget)
    text = "Memory that experts take on a device, as planned."
    yield gauges("coe_device_memory_used_bytes", text, ("device",), used)


def _queues(hosts: Mapping[str, HostingReport]) -> Iterator[Metric]:
    each = partial(_each, gauges, hosts)
    yield each("waiting_requests", "Requests that wait for a hosted expert.", "waiting")
    yield each("oldest_wait_seconds", "How long the first in line has waited.", "oldest_wait_s")
    yield each("running_requests", "Requests that a hosted expert works on.", "running")
    yield each("load_estimate_seconds", "A load from disk, as lately measured.", "load_s")
    yield each("wake_estimate_seconds", "A wake, as lately measured.", "wake_s")
    yield each("sleep_estimate_seconds", "A sleep, as lately measured.", "sleep_s")
    yield each("service_estimate_seconds", "One request, as lately measured.", "service_s")
    states = [
        ((id_, residency.value), float(report.residency is residency))
        for id_, report in hosts.items()
        for residency in Residency
    ]
    text = "1 for where an expert's weights are, else 0."
    yield gauges("coe_expert_residency", text, ("expert", "state"), states)


def _moves(hosts: Mapping[str, HostingReport]) -> Iterator[Metric]:
    moves = {"load": "loads", "wake": "wakes", "sleep": "sleeps", "evict": "evictions"}
    begun: Values = [
        ((id_, move), float(getattr(report.moves, field)))
        for id_, report in hosts.items()
        for move, field in moves.items()
    ]
    text = "Moves of an expert's weights that have begun."
    yield counters("coe_expert_moves", text, ("expert", "move"), begun)
    spent = [((id_, move), report.moved_s[move]) for id_, report in hosts.items() for move in moves]
    text = "Time spent on an expert's moves that succeeded."
    yield counters("coe_expert_move_seconds", text, ("expert", "move"), spent)
    failed = [((id_,), float(report.moves.failures)) for id_, report in hosts.items()]
    yield counters("coe_expert_move_failures", "Moves that failed, and crashes.", _EXPERT, failed)
    ahead = [((id_,), float(report.moves.prefetches)) for id_, report in hosts.items()]
    text = "Loads and wakes that nobody waited for when they began."
    yield counters("coe_expert_prefetches", text, _EXPERT, ahead)
