"""The routes that generate: who asks and what, within which limits, and the cache before it all."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from starlette.types import Receive, Scope, Send

from coe.errors import ConfigError, DeadlineExceeded
from coe.experts import ExpertPool
from coe.routers.policies import PolicySpec, check_spec
from coe.routers.policies.catalog import spelt_out
from coe.service.accounts import Accounts, cost_usd, guessed_usage, limit_headers
from coe.service.bounds import read_object
from coe.service.caching import Caching, Recording, send_cached
from coe.service.calls import read_call
from coe.service.control import Control, control_of
from coe.service.errors import BodyTooSlow, InvalidRequest, ModelNotFound
from coe.service.gateway import Gateway
from coe.service.hiding import with_usage
from coe.service.notes import current_notes
from coe.service.presence import while_connected
from coe.service.reply import extra_headers, read_body, require_json
from coe.service.telling import ChatTelling, Telling
from coe.service.tenant import key_of, tenant_of
from coe.service.time_limit import TimeLimit
from coe.service.visit import Listener, Receipt, Visit
from coe.service.wire import ChatCall
from coe.store import ApiKey, LoggedDecision
from coe.types import Usage
from coe.wishes import ANY, Wish

Read = Callable[[Mapping[str, Any], Control, str], tuple[ChatCall, Telling]]
"""A body within bounds, what headers say, and the tenant → the call, and how it is answered."""


def read_chat_call(
    raw: Mapping[str, Any], control: Control, tenant: str
) -> tuple[ChatCall, Telling]:
    call = read_call(raw, control, tenant)
    return call, ChatTelling(call)


class Generation:
    """The ASGI app behind such a route. Raises every error that comes before the first byte."""

    def __init__(self, gateway: Gateway, read: Read = read_chat_call) -> None:
        self._gateway = gateway
        self._read = read
        self._accounts = None if gateway.store is None else Accounts(gateway.store)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        require_json(scope)
        gateway, control = self._gateway, control_of(scope)
        in_time = TimeLimit.from_now(gateway.settings.request_timeout_s)
        body = await self._body(receive, in_time)
        raw = read_object(body, gateway.settings.limits)
        call, telling = self._read(raw, control, tenant_of(scope))
        if (key := key_of(scope)) is not None:
            call, telling = _allowed(gateway, key, call, telling)
        if call.timeout_s is not None:
            call = _due_at(call, in_time.arrived_s + call.timeout_s)
            in_time = in_time.for_client(call.timeout_s)
        composition, receipt = gateway.composition, Receipt()
        guess = Usage() if key is None else guessed_usage(raw, len(body), composition.pool)
        wish = wish_of(call.control, gateway.settings.limits.max_recruited)
        caching, lookup = self._caching(), None
        if caching is not None:
            lookup = await caching.find(scope["path"], raw, call, tenant_of(scope))
        if lookup is not None:
            current_notes().looked_up(lookup.how)
        if lookup is not None and lookup.response is not None:
            known = partial(send_cached, send, lookup.response, lookup.how)
            await self._charged(scope, Usage(), Receipt(), known)
            return
        recording = None if lookup is None else Recording(extra_headers(scope), send)
        wanted = send if recording is None else recording.send
        headers, request_id = extra_headers(scope), scope["coe.request_id"]
        listener = Listener(wanted, request_id, headers, in_time, telling, aside=send)
        visit = Visit(gateway, composition, call, wish, listener, receipt)

        async def serve() -> None:
            async with while_connected(receive):
                await visit.serve()

        await self._charged(scope, guess, receipt, serve)
        if caching is not None and lookup is not None and recording is not None:
            # Out of reach of a client that goes, who ends its answer and not what is kept of it.
            await caching.keep(lookup, recording.response)

    async def _body(self, receive: Receive, in_time: TimeLimit) -> bytes:
        try:
            async with in_time():
                return await read_body(receive)
        except DeadlineExceeded:
            raise BodyTooSlow(self._gateway.settings.request_timeout_s) from None

    def _caching(self) -> Caching | None:
        gateway = self._gateway
        if gateway.store is None or not gateway.settings.caches:
            return None
        return Caching(gateway.store.cache, gateway.composition, gateway.similar)

    async def _charged(
        self, scope: Scope, guess: Usage, receipt: Receipt, serve: Callable[[], Awaitable[None]]
    ) -> None:
        """Takes a request and what it may cost from its key; afterwards logs what came of it."""
        key, store, pool = key_of(scope), self._gateway.store, self._gateway.composition.pool
        began_s = time.monotonic()
        try:
            if key is None or self._accounts is None:
                await serve()
            else:
                async with self._accounts.charged(key, guess, pool, receipt) as allowance:
                    extra_headers(scope).extend(limit_headers(key, allowance))
                    await serve()
        finally:
            if store is not None and receipt.experts:
                store.decisions.add(_logged(scope, receipt, time.monotonic() - began_s, pool))


def _allowed(
    gateway: Gateway, key: ApiKey, call: ChatCall, telling: Telling
) -> tuple[ChatCall, Telling]:
    """The call within what its key may ask. Raises `ModelNotFound` for an expert beyond it."""
    call = within_key(call, key, gateway.settings.model_name, gateway.composition.pool.ids)
    if key.limits.tpm is not None or key.limits.budget_usd is not None:
        return with_usage(call, telling)
    return call, telling


def within_key(call: ChatCall, key: ApiKey, routed_model: str, known: Collection[str]) -> ChatCall:
    """The call to no other experts than its key may ask of those that are there, and no more
    urgent than that may be. Raises `ModelNotFound`, which names no others.
    """
    call = capped(call, key.limits.max_priority)
    if key.limits.experts is None:
        return call
    ids = tuple(id_ for id_ in key.limits.experts if id_ in known)
    if call.model != routed_model and call.model not in ids:
        raise ModelNotFound(call.model, (routed_model, *ids))
    wished = call.control.experts
    left = ids if wished is None else tuple(id_ for id_ in wished if id_ in ids)
    if not left:
        raise InvalidRequest("this key may ask none of these experts", param="coe.experts")
    return replace(call, control=replace(call.control, experts=left))


def capped(call: ChatCall, most: int | None) -> ChatCall:
    """The call at no higher a priority; None: at its own."""
    if most is None or call.generation.priority <= most:
        return call
    return replace(call, generation=replace(call.generation, priority=most))


def _logged(scope: Scope, receipt: Receipt, latency_s: float, pool: ExpertPool) -> LoggedDecision:
    usage, experts = receipt.usage, tuple(receipt.experts)
    router, _, policy = receipt.router.partition("/")
    return LoggedDecision(
        scope["coe.request_id"],
        tenant_of(scope),
        router,
        policy,
        experts,
        latency_s,
        None if usage is None else usage.prompt_tokens,
        None if usage is None else usage.completion_tokens,
        cost_usd(receipt, pool),
    )


def wish_of(control: Control, max_recruited: int) -> Wish:
    """Raises `InvalidRequest` for a policy that is none, or asks for more experts than that."""
    if control.experts is None and control.policy is None:
        return ANY
    spec = None
    if control.policy is not None:
        try:
            spec = PolicySpec.parsed(control.policy)
            check_spec(spec)
        except ConfigError as error:
            raise InvalidRequest(f"coe.policy: {error.problem}", param="coe.policy") from None
        if (k := spelt_out(spec).k) > max_recruited:
            told = f"coe.policy: k is {max_recruited} at most, not {k}"
            raise InvalidRequest(told, param="coe.policy")
    return Wish(control.experts, spec, max_recruited)


def _due_at(call: ChatCall, deadline_s: float) -> ChatCall:
    """The call with a deadline that experts are held to where they have to be waited for.

    Only a client's own: the gateway's limit bounds how long a request is served, and must not
    have an expert refused because it once took longer to load than that.
    """
    return replace(call, generation=replace(call.generation, deadline_s=deadline_s))
