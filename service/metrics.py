"""What the gateway measures of its own requests, and `GET /metrics`, which tells it to Prometheus.

Counted in plain numbers while a request is served; what experts and schedulers count is fetched
at the scrape. No label holds what a client has written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Protocol

from prometheus_client.core import Metric
from prometheus_client.exposition import choose_encoder
from starlette.types import Receive, Scope, Send

from coe.composition import Composition
from coe.config.describing import kind_of
from coe.errors import UnknownExpert
from coe.scheduling.report import SiteReport
from coe.service.admission import Intake
from coe.service.instruments import Counted, Histograms, Level
from coe.service.metric_families import admission_families, pool_families, site_families
from coe.service.notes import WatchedCall
from coe.service.reply import request_header

OPERATIONS = {
    "/v1/chat/completions": "chat",
    "/v1/responses": "chat",
    "/v1/completions": "text_completion",
    "/v1/embeddings": "embeddings",
}
"""Route → what OpenTelemetry calls the operation. The other routes generate nothing."""
_PROVIDER = "coe"
# As OpenTelemetry's conventions ask for, and further up for answers that take minutes.
_DURATION_S = tuple(0.01 * 2**n for n in range(17))
_FIRST_TOKEN_S = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0),
    *(20.0, 40.0, 80.0, 160.0, 640.0),
)
_PER_TOKEN_S = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5)
_TOKENS = tuple(float(4**n) for n in range(14))
_FINE_S = (
    *(5e-5, 1e-4, 2e-4, 3e-4, 5e-4, 7.5e-4, 1e-3, 1.5e-3, 2e-3, 3e-3, 5e-3, 7.5e-3),
    *(0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5),
)
_SCORES = (0.0, 0.25, 0.5, 0.75, 1.0)
_HTTP = ("route", "status")
_CALL = ("gen_ai_operation_name", "gen_ai_provider_name", "gen_ai_request_model")
_SERVED = ("gen_ai_operation_name", "gen_ai_provider_name", "gen_ai_response_model")


class GatewayMetrics:
    """The numbers of one gateway process. On its event loop."""

    def __init__(self, provider_of: Callable[[str], str] = lambda expert_id: "coe") -> None:
        """`provider_of`: what OpenTelemetry is to know an expert's server as."""
        self._provider_of = provider_of
        self._in_flight = Level("coe_http_requests_in_flight", "Requests being served.", ("route",))
        text = "From a request's arrival to its response's end."
        self._requests = Histograms("coe_http_request_duration_seconds", text, _DURATION_S, _HTTP)
        text = "A request's time in which no expert was waited for."
        self._overhead = Histograms("coe_gateway_overhead_seconds", text, _FINE_S, ("route",))
        self._routing = Histograms("coe_routing_seconds", "Deciding whom to ask.", _FINE_S)
        text = "Times an expert was chosen, or named; several may be for one request."
        self._decisions = Counted("coe_decisions", text, ("expert",))
        text = "Requests that failed, by kind; those refused are counted apart."
        self._errors = Counted("coe_errors", text, ("route", "kind"))
        text = "Requests turned away for load, time, limits or money, by kind."
        self._refusals = Counted("coe_refusals", text, ("route", "kind"))
        text = "Look-ups in the response cache: hit, near (semantic) or miss."
        self._cache = Counted("coe_cache_lookups", text, ("outcome",))
        text = "Scores that clients gave answers."
        self._feedback = Histograms("coe_feedback_score", text, _SCORES, ("expert",))
        text = "Generative AI server request duration."
        name = "gen_ai_server_request_duration_seconds"
        self._served = Histograms(name, text, _DURATION_S, (*_SERVED, "error_type"))
        name, text = (
            "gen_ai_server_time_to_first_token_seconds",
            "Arrival to first token, streamed.",
        )
        self._first = Histograms(name, text, _FIRST_TOKEN_S, _SERVED)
        name, text = (
            "gen_ai_server_time_per_output_token_seconds",
            "Time per token after the first.",
        )
        self._paced = Histograms(name, text, _PER_TOKEN_S, _SERVED)
        name, text = "gen_ai_client_operation_duration_seconds", "One expert's call."
        self._calls = Histograms(name, text, _DURATION_S, (*_CALL, "error_type"))
        name = "gen_ai_client_operation_time_to_first_chunk_seconds"
        text = "One expert's call until its first word, loading and queueing included."
        self._heard = Histograms(name, text, _DURATION_S, _CALL)
        name, text = "gen_ai_client_token_usage", "Tokens of one expert's call."
        self._tokens = Histograms(name, text, _TOKENS, (*_CALL, "gen_ai_token_type"))

    def began(self, route: str) -> None:
        self._in_flight.add(route, by=1.0)

    def decided(self, seconds: float, experts: Sequence[str]) -> None:
        self._routing.observe(seconds)
        for expert_id in experts:
            self._decisions.add(expert_id)

    def first_byte(self, route: str, seconds: float, expert: str | None) -> None:
        """Of a streamed answer, told once it is whole. `expert` None: several answered."""
        operation = OPERATIONS.get(route)
        if operation is not None:
            self._first.observe(seconds, operation, _PROVIDER, expert or _PROVIDER)

    def paced(self, route: str, seconds: float, expert: str | None) -> None:
        """`seconds`: for each token after the first."""
        operation = OPERATIONS.get(route)
        if operation is not None:
            self._paced.observe(seconds, operation, _PROVIDER, expert or _PROVIDER)

    def ended(
        self, route: str, status: int, seconds: float, expert: str | None, failure: str | None
    ) -> None:
        """Once for every `began`. `expert` None: nobody answered, or several did together."""
        self._in_flight.add(route, by=-1.0)
        self._requests.observe(seconds, route, str(status))
        operation = OPERATIONS.get(route)
        if operation is not None:
            model = expert or ("" if failure else _PROVIDER)
            self._served.observe(seconds, operation, _PROVIDER, model, failure or "")

    def spent(self, route: str, seconds: float) -> None:
        """Of a generating request: on everything but waiting for experts."""
        self._overhead.observe(seconds, route)

    def failed(self, route: str, kind: str, is_refusal: bool = False) -> None:
        (self._refusals if is_refusal else self._errors).add(route, kind)

    def cached(self, outcome: str) -> None:
        """`outcome`: hit, near or miss."""
        self._cache.add(outcome)

    def feedback(self, expert_id: str, score: float) -> None:
        self._feedback.observe(score, expert_id)

    def called(self, call: WatchedCall, seconds: float, failure: str | None) -> None:
        """One expert's call is over; `failure` None: it came to its end."""
        labels = (call.operation, self._provider_of(call.expert_id), call.expert_id)
        self._calls.observe(seconds, *labels, failure or "")
        if call.first_s is not None:
            self._heard.observe(call.first_s, *labels)
        if call.usage is not None:
            self._tokens.observe(call.usage.prompt_tokens, *labels, "input")
            self._tokens.observe(call.usage.completion_tokens, *labels, "output")

    def families(self) -> Iterator[Metric]:
        for told in vars(self).values():
            if isinstance(told, Counted | Histograms | Level):
                yield told.family()


def kinds_in(composition: Callable[[], Composition]) -> Callable[[str], str]:
    """What kind of engine each expert has, as its file says it."""

    def kind(expert_id: str) -> str:
        try:
            return kind_of(composition().pool.expert(expert_id).engine)
        except UnknownExpert:
            return "removed"

    return kind


class PoolMetrics:
    """Everything that one process has to tell, collected anew for each scrape."""

    def __init__(
        self,
        composition: Callable[[], Composition],
        metrics: GatewayMetrics,
        site: Callable[[], SiteReport | None] | None = None,
        intake: Intake | None = None,
    ) -> None:
        """`composition`: the one at the time. `site`: its dispatcher's `report`."""
        self._composition = composition
        self._metrics = metrics
        self._site = site
        self._intake = intake

    def collect(self) -> Iterable[Metric]:
        yield from pool_families(self._composition().counters)
        yield from self._metrics.families()
        if self._intake is not None:
            yield from admission_families(self._intake.refused, self._intake.n_in_flight)
        site = None if self._site is None else self._site()
        if site is not None:
            yield from site_families(site)


class Collector(Protocol):
    """What can be scraped."""

    def collect(self) -> Iterable[Metric]: ...


class MetricsRoute:
    """The ASGI app behind the route: Prometheus text, or OpenMetrics where that is asked for."""

    def __init__(self, collector: Collector) -> None:
        self._collector = collector

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        accept = request_header(scope, b"accept") or b""
        encode, content_type = choose_encoder(accept.decode("latin-1"))
        body = encode(self._collector)
        headers = [
            (b"content-type", content_type.encode("latin-1")),
            (b"content-length", b"%d" % len(body)),
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})
