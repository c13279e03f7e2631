"""Assembles the gateway: routes, what surrounds them, and the end of its life."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

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
from coe.service.catalog import Catalog, Health
from coe.service.chat import ChatCompletions
from coe.service.errors import answer_for_http
from coe.service.feedback import Feedback
from coe.service.middleware import BodyLimit, ErrorEnvelope, RequestId
from coe.service.reply import to_json
from coe.service.settings import ServiceSettings


def create_app(
    composition: Composition,
    settings: ServiceSettings = ServiceSettings(),  # noqa: B008  frozen
    feedback: FeedbackLog | None = None,
) -> Starlette:
    """The gateway as an ASGI app. Stops the composition and closes the log at shutdown.

    Raises `ConfigError` if an expert has the name of the model that routes.
    """
    if settings.model_name in composition.router.pool.ids:
        raise ConfigError(
            f"expert {settings.model_name!r} has the name of the model that routes, and could not "
            "be asked for; give the expert another id, or ServiceSettings another model_name"
        )

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        yield
        try:
            await composition.stop()
        finally:
            if feedback is not None:
                await asyncio.to_thread(feedback.close)

    app = Starlette(
        routes=_routes(composition, settings, feedback),
        middleware=[
            Middleware(RequestId),
            Middleware(ErrorEnvelope),
            Middleware(BodyLimit, settings.max_body_bytes),
        ],
        exception_handlers={HTTPException: _no_route},
        lifespan=lifespan,
    )
    # /v1/models/ is an unknown path and not a redirect, which clients would follow as a GET.
    app.router.redirect_slashes = False
    return app


class _Plain:
    """A bound method as an ASGI app, which starlette would take for a request function."""

    def __init__(self, app: Callable[[Scope, Receive, Send], Awaitable[None]]) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app(scope, receive, send)


def _routes(
    composition: Composition, settings: ServiceSettings, feedback: FeedbackLog | None
) -> list[Route]:
    catalog = Catalog(composition, settings)
    health = Health(composition)
    return [
        Route(
            "/v1/chat/completions",
            ChatCompletions(composition, settings, feedback),
            methods=["POST"],
        ),
        Route("/v1/feedback", Feedback(feedback), methods=["POST"]),
        Route("/v1/models", _Plain(catalog.list_models), methods=["GET"]),
        Route("/v1/models/{model:path}", _Plain(catalog.show_model), methods=["GET"]),
        Route("/healthz", _Plain(health.live), methods=["GET"]),
        Route("/readyz", _Plain(health.ready), methods=["GET"]),
    ]


async def _no_route(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    answer = answer_for_http(error, request.method, request.url.path)
    response = Response(to_json(answer.envelope), answer.status, media_type="application/json")
    response.raw_headers.extend(answer.headers)
    return response
