"""Assembles the gateway: routes, what surrounds them, and the end of its life."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from coe.composition import Composition
from coe.errors import ConfigError
from coe.feedback_log import FeedbackLog
from coe.scheduling.trace_log import TraceLog
from coe.service.catalog import Catalog, Health
from coe.service.completions import read_completions_call
from coe.service.door import Door
from coe.service.dry_run import DryRun
from coe.service.embeddings import read_embeddings_call
from coe.service.errors import answer_for_http
from coe.service.feedback import Feedback
from coe.service.gateway import Gateway
from coe.service.generation import Generation
from coe.service.middleware import BodyLimit, ErrorEnvelope, RequestId
from coe.service.reply import to_json
from coe.service.openapi.document import Description
from coe.service.responses.route import Responses
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
    middleware = [
        Middleware(RequestId),
        Middleware(ErrorEnvelope),
        Middleware(BodyLimit, settings.max_body_bytes),
    ]
    if settings.needs_key:
        if gateway.store is None:
            raise ConfigError("keys are needed and there is no store that keeps them")
        middleware.append(Middleware(Door, gateway.store.keys))
    app = Starlette(
        routes=_routes(gateway),
        middleware=middleware,
        exception_handlers={HTTPException: _no_route},
        lifespan=partial(_life, gateway),
    )
    # /v1/models/ is an unknown path and not a redirect, which clients would follow as a GET.
    app.router.redirect_slashes = False
    return app


@asynccontextmanager
async def _life(gateway: Gateway, _: Starlette) -> AsyncIterator[None]:
    yield
    try:
        await gateway.composition.stop()
    finally:
        for log in (gateway.feedback, gateway.trace):
            if log is not None:
                await asyncio.to_thread(log.close)
        if gateway.store is not None:
            await gateway.store.close()


class _Plain:
    """A bound method as an ASGI app, which starlette would take for a request function."""

    def __init__(self, app: Callable[[Scope, Receive, Send], Awaitable[None]]) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app(scope, receive, send)


def _routes(gateway: Gateway) -> list[Route]:
    catalog = Catalog(gateway.composition, gateway.settings)
    health = Health(gateway.composition)
    responses = Responses()
    return [
        Route("/v1/chat/completions", Generation(gateway), methods=["POST"]),
        Route("/v1/completions", Generation(gateway, read_completions_call), methods=["POST"]),
        Route("/v1/embeddings", Generation(gateway, read_embeddings_call), methods=["POST"]),
        Route("/v1/responses", Generation(gateway, responses.read), methods=["POST"]),
        Route("/v1/responses/{response_id}", _Plain(responses.show), methods=["GET"]),
        Route("/v1/responses/{response_id}", _Plain(responses.forget), methods=["DELETE"]),
        Route("/v1/route", DryRun(gateway), methods=["POST"]),
        Route("/v1/feedback", Feedback(gateway.feedback), methods=["POST"]),
        Route("/v1/models", _Plain(catalog.list_models), methods=["GET"]),
        Route("/v1/models/{model:path}", _Plain(catalog.show_model), methods=["GET"]),
        Route("/healthz", _Plain(health.live), methods=["GET"]),
        Route("/readyz", _Plain(health.ready), methods=["GET"]),
        Route("/openapi.json", _Plain(Description(gateway.settings).show), methods=["GET"]),
    ]


async def _no_route(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    answer = answer_for_http(error, request.method, request.url.path)
    response = Response(to_json(answer.envelope), answer.status, media_type="application/json")
    response.raw_headers.extend(answer.headers)
    return response
