"""`POST /v1/route`: what would be decided for a chat request, and why. Nobody is asked."""

from __future__ import annotations

import asyncio

from starlette.types import Receive, Scope, Send

from coe.service.bounds import read_object
from coe.service.calls import read_call
from coe.service.control import control_of
from coe.service.errors import InvalidRequest
from coe.service.gateway import Gateway
from coe.service.generation import wish_of
from coe.service.reply import read_body, require_json, send_json
from coe.service.tenant import tenant_of


class DryRun:
    """The ASGI app behind the route."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        require_json(scope)
        raw = read_object(await read_body(receive), self._gateway.settings.limits)
        call = read_call(
            {"model": self._gateway.settings.model_name, **raw}, control_of(scope), tenant_of(scope)
        )
        if call.model != self._gateway.settings.model_name:
            raise InvalidRequest(
                f"only the model {self._gateway.settings.model_name!r} routes", param="model"
            )
        decision = await asyncio.to_thread(
            self._gateway.composition.explain, call.generation, wish_of(call.control)
        )
        await send_json(
            send,
            {
                "object": "routing_decision",
                "experts": decision.experts,
                "scores": decision.scores,
                "router": decision.router,
                "reasons": decision.reasons,
                "ask": call.generation.ask,
            },
        )
