"""Assembles the gateway: routes, what surrounds them, and the end of its life."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match, Route

from coe.composition import Composition
from coe.errors import ConfigError
from coe.feedback_log import FeedbackLog
from coe.scheduling.trace_log import TraceLog
from coe.service.admission import Admission
from coe.service.batches.jobs import BatchJobs
from coe.service.catalog import Catalog, Health
from coe.service.completions import read_completions_call
from coe.service.direct import Direct
from coe.service.door import Door
from coe.service.dry_run import DryRun
from coe.service.embeddings import read_embeddings_call
from coe.service.errors import answer_for_http
from coe.service.feedback import Feedback
from coe.service.files.routes import FORM_BYTES, PATH, file_routes
from coe.service.gateway import Gateway
from coe.service.generation import Generation
from coe.service.metrics import (
    OPERATIONS,
    Collector,
    GatewayMetrics,
    MetricsRoute,
    PoolMetrics,
    kinds_in,
)
from coe.service.middleware import BodyLimit, Envelope
from coe.service.observing import Observed
from coe.service.openapi.document import Description
from coe.service.plain import Plain
from coe.service.reply import to_json
from coe.service.responses.route import Responses
from coe.service.responses.shared_store import kept_in
from coe.service.settings import ServiceSettings
from coe.store import Store


def create_app(
    composition: Composition,
    settings: ServiceSettings = ServiceSettings(),  # noqa: B008  frozen
    feedback: FeedbackLog | None = None,
    trace: TraceLog | None = None,
    store: Store | None = None,
) -> Starlette:
    """The gateway over a composition; see `gateway_app`."""
    return gateway_app(Gateway(composition, settings, feedback, trace, store))


def gateway_app(gateway: Gateway) -> Starlette:
    """The gateway as an ASGI app. At shutdown it stops and closes all that it works with.

    Raises `ConfigError` if an expert has the name of the model that routes, or keys are needed
    and there is nowhere to keep them.
    """
    settings = gateway.settings
    if settings.model_name in gateway.composition.router.pool.ids:
        raise ConfigError(
            f"expert {settings.model_name!r} has the name of the model that routes, and could not "
            "be asked for; give the expert another id, or ServiceSettings another model_name"
        )

    def current() -> Composition:
        return gateway.composition

    metrics = GatewayMetrics(kinds_in(current))
    numbers: Collector = PoolMetrics(current, metrics, gateway.site, gateway.intake)
    if gateway.seat is not None:
        numbers = gateway.seat.told(numbers)
    scraped = MetricsRoute(numbers)
    middleware = [
        Middleware(Admission, gateway.intake),
        Middleware(Observed, metrics, gateway.log, gateway.tracing),
        Middleware(Envelope),
        Middleware(
            BodyLimit,
            settings.max_body_bytes,
            {PATH: settings.batches.max_file_bytes + FORM_BYTES},
        ),
    ]
    if settings.needs_key:
        if gateway.store is None:
            raise ConfigError("keys are needed and there is no store that keeps them")
        middleware.append(Middleware(Door, gateway.store.keys))
    routes = [*_routes(gateway), Route("/metrics", scraped, methods=["GET"])]
    posts = {route.path: route.endpoint for route in routes if route.path in OPERATIONS}
    middleware.append(Middleware(Direct, posts))
    jobs = None
    if gateway.store is not None:
        jobs = BatchJobs(gateway, gateway.store, settings.batches)
        routes += file_routes(gateway, jobs)
    app = Starlette(
        routes=routes,
        middleware=middleware,
        exception_handlers={HTTPException: _no_route},
        lifespan=partial(_life, gateway, jobs),
    )
    # /v1/models/ is an unknown path and not a redirect, which clients would follow as a GET.
    app.router.redirect_slashes = False
    return app


@asynccontextmanager
async def _life(gateway: Gateway, jobs: BatchJobs | None, _: Starlette) -> AsyncIterator[None]:
    if jobs is not None:
        await jobs.start()
    yield
    try:
        if jobs is not None:
            await jobs.stop()  # or what its experts answer at their end would be written down
        await gateway.composition.stop()
    finally:
        for log in (gateway.feedback, gateway.trace):
            if log is not None:
                await asyncio.to_thread(log.close)
        if gateway.store is not None:
            await gateway.store.close()
        if gateway.tracing is not None:
            await asyncio.to_thread(gateway.tracing.close)


def _routes(gateway: Gateway) -> list[Route]:
    catalog = Catalog(gateway.composition, gateway.settings)
    health = Health(gateway.composition)
    responses = Responses(kept_in(gateway.store))
    return [
        Route("/v1/chat/completions", Generation(gateway), methods=["POST"]),
        Route("/v1/completions", Generation(gateway, read_completions_call), methods=["POST"]),
        Route("/v1/embeddings", Generation(gateway, read_embeddings_call), methods=["POST"]),
        Route("/v1/responses", Generation(gateway, responses.read), methods=["POST"]),
        Route("/v1/responses/{response_id}", Plain(responses.show), methods=["GET"]),
        Route("/v1/responses/{response_id}", Plain(responses.forget), methods=["DELETE"]),
        Route("/v1/route", DryRun(gateway), methods=["POST"]),
        Route("/v1/feedback", Feedback(gateway.feedback), methods=["POST"]),
        Route("/v1/models", Plain(catalog.list_models), methods=["GET"]),
        Route("/v1/models/{model:path}", Plain(catalog.show_model), methods=["GET"]),
        Route("/healthz", Plain(health.live), methods=["GET"]),
        Route("/readyz", Plain(health.ready), methods=["GET"]),
        Route("/openapi.json", Plain(Description(gateway).show), methods=["GET"]),
    ]


async def _no_route(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if error.status_code == 405:
        error.headers = {"allow": _methods(request)}
    answer = answer_for_http(error, request.method, request.url.path)
    response = Response(to_json(answer.envelope), answer.status, media_type="application/json")
    response.raw_headers.extend(answer.headers)
    return response


def _methods(request: Request) -> str:
    """Those of all routes of the path; starlette tells those of the first alone."""
    routes = [route for route in request.app.routes if isinstance(route, Route)]
    here = [route for route in routes if route.matches(request.scope)[0] is not Match.NONE]
    return ", ".join(sorted({method for route in here for method in route.methods or ()}))
