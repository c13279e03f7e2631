"""What the gateway offers and how it is: models, liveness, readiness."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from dataclasses import asdict

from starlette.types import Receive, Scope, Send

from coe.composition import Composition
from coe.errors import CoeError
from coe.experts import Expert
from coe.service.errors import ModelNotFound, answer_for
from coe.service.reply import send_json
from coe.service.settings import ServiceSettings
from coe.service.tenant import key_of

_PROOF_S = 5.0


class Catalog:
    """The models a client can name: the one that routes, and every expert.

    What OpenAI's list has no place for is under the extra key `coe`.
    """

    def __init__(self, composition: Composition, settings: ServiceSettings) -> None:
        self._composition = composition
        self._router_model = settings.model_name
        self._created = int(time.time())

    async def list_models(self, scope: Scope, receive: Receive, send: Send) -> None:
        models = [self._routing(scope), *(self._expert(expert) for expert in self._shown(scope))]
        await send_json(send, {"object": "list", "data": models})

    async def show_model(self, scope: Scope, receive: Receive, send: Send) -> None:
        model = str(scope["path_params"]["model"])
        experts = {expert.id: expert for expert in self._shown(scope)}
        if model == self._router_model:
            await send_json(send, self._routing(scope))
        elif model in experts:
            await send_json(send, self._expert(experts[model]))
        else:
            raise ModelNotFound(model[:256], (self._router_model, *experts))

    def _shown(self, scope: Scope) -> list[Expert]:
        """The experts that whoever asks may name."""
        key = key_of(scope)
        ids = None if key is None else key.limits.experts
        return [expert for expert in self._composition.pool if ids is None or expert.id in ids]

    def _routing(self, scope: Scope) -> dict[str, object]:
        router = self._composition.router
        return self._model(
            self._router_model,
            {
                "kind": "router",
                "router": router.name,
                "experts": self._routed(scope),
            },
        )

    def _routed(self, scope: Scope) -> list[str]:
        """The experts that the router may choose and that have not been removed since."""
        there = {expert.id for expert in self._shown(scope)}
        return [id_ for id_ in self._composition.router.pool.ids if id_ in there]

    def _expert(self, expert: Expert) -> dict[str, object]:
        return self._model(
            expert.id,
            {
                "kind": "expert",
                "description": expert.description,
                "skills": list(expert.skills),
                "context_tokens": expert.context_tokens,
                "max_tokens": expert.max_tokens,
                "price": None if expert.price is None else asdict(expert.price),
                "state": self._composition.engines[expert.id].state.value,
            },
        )

    def _model(self, model: str, extra: dict[str, object]) -> dict[str, object]:
        return {
            "id": model,
            "object": "model",
            "created": self._created,
            "owned_by": "coe",
            "coe": extra,
        }


class Health:
    """Liveness and readiness.

    Ready means that the router can route, which one probe proves for the next 5 s. It does not
    mean that any expert is loaded: experts load when they are asked for.
    """

    def __init__(
        self, composition: Composition, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._composition = composition
        self._clock = clock
        self._proven_until_s = -math.inf

    async def live(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send_json(send, {"status": "ok"})

    async def ready(self, scope: Scope, receive: Receive, send: Send) -> None:
        router = self._composition.router
        report: dict[str, object] = {
            "status": "ready",
            "router": router.name,
            "experts": {
                id_: self._composition.engines[id_].state.value
                for id_ in self._composition.pool.ids
            },
        }
        try:
            await self._probe()
        except CoeError as error:
            answer = answer_for(error, scope["coe.request_id"])
            reason = answer.envelope["error"]["message"]
            await send_json(send, report | {"status": "not ready", "reason": reason}, 503)
        else:
            await send_json(send, report)

    async def _probe(self) -> None:
        """Raises what routing raises, which is never remembered."""
        if self._clock() < self._proven_until_s:
            return
        route = self._composition.router.route
        if self._composition.decides_slowly:
            await asyncio.to_thread(route, "ready?")
        else:
            route("ready?")
        self._proven_until_s = self._clock() + _PROOF_S
