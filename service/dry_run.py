"""`POST /v1/route`: what would be decided for a chat request, and why. Nobody is asked."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from starlette.types import Receive, Scope, Send

from coe.errors import DeadlineExceeded
from coe.service.bounds import read_object
from coe.service.calls import read_call
from coe.service.control import control_of
from coe.service.errors import BodyTooSlow, InvalidRequest
from coe.service.gateway import Gateway
from coe.service.generation import wish_of, within_key
from coe.service.reply import read_body, require_json, send_json
from coe.service.tenant import key_of, tenant_of
from coe.service.time_limit import TimeLimit
from coe.store import ApiKey


class DryRun:
    """The ASGI app behind the route."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        require_json(scope)
        raw = read_object(await self._body(receive), self._gateway.settings.limits)
        call = read_call(
            {"model": self._gateway.settings.model_name, **raw}, control_of(scope), tenant_of(scope)
        )
        if call.model != self._gateway.settings.model_name:
            raise InvalidRequest(
                f"only the model {self._gateway.settings.model_name!r} routes", param="model"
            )
        key = key_of(scope)
        if key is not None:
            known = self._gateway.composition.pool.ids
            call = within_key(call, key, self._gateway.settings.model_name, known)
        wish = wish_of(call.control, self._gateway.settings.limits.max_recruited)
        decision = await asyncio.to_thread(self._gateway.composition.explain, call.generation, wish)
        await send_json(
            send,
            {
                "object": "routing_decision",
                "experts": decision.experts,
                "scores": _told(decision.scores, key),
                "router": decision.router,
                # They compare with experts that the key may not know.
                "reasons": () if _is_limited(key) else decision.reasons,
                "ask": call.generation.ask,
            },
        )

    async def _body(self, receive: Receive) -> bytes:
        timeout_s = self._gateway.settings.request_timeout_s
        try:
            async with TimeLimit.from_now(timeout_s)():
                return await read_body(receive)
        except DeadlineExceeded:
            raise BodyTooSlow(timeout_s) from None


def _told(scores: Mapping[str, float], key: ApiKey | None) -> Mapping[str, float]:
    """Those of experts that the key may ask."""
    if key is None or key.limits.experts is None:
        return scores
    return {id_: score for id_, score in scores.items() if id_ in key.limits.experts}


def _is_limited(key: ApiKey | None) -> bool:
    return key is not None and key.limits.experts is not None
