"""The admin API: how experts are, and what to do with them."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

import orjson
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from coe.assembly.operating import Operator
from coe.errors import CoeError, ConfigError
from coe.service.admin.access import AdminKey, Gate, refusal
from coe.service.errors import ErrorAnswer, InvalidRequest, answer_for, answer_for_http
from coe.service.middleware import BodyLimit, Envelope
from coe.service.presence import while_connected
from coe.service.reply import read_body, require_json, to_json
from coe.service.workers.reloads import Reply

Reload = Callable[[], Awaitable[Reply]]
_MAX_BODY_BYTES = 256 * 1024
_WAIT_S = 30.0
_LONGEST_WAIT_S = 3600.0
NOT_ROUTED = "the router does not know it until it is fitted with it (`coe fit`)"
NOT_KEPT = "this lasts until the gateway stops; to keep it, change experts.yaml as well"


def create_admin_app(
    operator: Operator, key: AdminKey, is_local: bool = True, reload: Reload | None = None
) -> Starlette:
    """The admin API as an ASGI app. `is_local`: it listens on loopback alone. `reload`: what SIGHUP
    does, too; None: nothing is read again.

    It stops nothing: the pool is the gateway's.
    """
    calls = _Calls(operator, reload)
    one = "/admin/experts/{expert_id:path}"
    app = Starlette(
        routes=[
            Route("/admin/state", calls.state, methods=["GET"]),
            Route("/admin/reload", calls.reload_file, methods=["POST"]),
            Route("/admin/experts", calls.experts, methods=["GET"]),
            Route("/admin/experts", calls.add, methods=["POST"]),
            Route(f"{one}/{{verb:str}}", calls.act, methods=["POST"]),
            Route(one, calls.expert, methods=["GET"]),
            Route(one, calls.remove, methods=["DELETE"]),
        ],
        middleware=[
            Middleware(Envelope),
            Middleware(Gate, key, is_local),
            Middleware(BodyLimit, _MAX_BODY_BYTES),
        ],
        exception_handlers={HTTPException: _no_route, CoeError: _told},
    )
    app.router.redirect_slashes = False
    return app


@dataclass(frozen=True, slots=True)
class _Calls:
    """The routes. What is asked for may take as long as `?wait_s=` says; then 202 tells that it
    goes on.
    """

    operator: Operator
    reload: Reload | None

    async def state(self, request: Request) -> Response:
        return _json(self.operator.report())

    async def reload_file(self, request: Request) -> Response:
        """Not called off by a client that goes: the experts of the file are on their way."""
        if self.reload is None:
            raise HTTPException(404)
        reply = await self.reload()
        if reply.problem is not None:
            code = "not_reloaded" if reply.reloaded is None else "partly_reloaded"
            return _answer(refusal(409, code, reply.told))
        return _json({"done": True, "reloaded": reply.reloaded})

    async def experts(self, request: Request) -> Response:
        return _json({"object": "list", "data": self.operator.report().experts})

    async def expert(self, request: Request) -> Response:
        return _json(self.operator.expert(request.path_params["expert_id"]))

    async def act(self, request: Request) -> Response:
        expert_id, verb = request.path_params["expert_id"], request.path_params["verb"]
        if verb not in ("warm", "sleep", "stop"):
            raise HTTPException(404)
        async with while_connected(request.receive):
            if verb == "warm":
                wait_s = _wait_s(request, self.operator.startup_timeout_s)
                await self.operator.warm(expert_id, wait_s)
                is_done = True
            else:
                wait_s = _wait_s(request, _WAIT_S)
                is_done = await self.operator.dismiss(expert_id, verb == "stop", wait_s)
        return self._outcome(expert_id, is_done)

    async def add(self, request: Request) -> Response:
        require_json(request.scope)
        given = _expert_in(await read_body(request.receive))
        if any(given.get("id") == one.id for one in self.operator.report().experts):
            answer = refusal(
                409, "expert_exists", f"there is an expert {given['id']!r}; remove it first"
            )
            return _answer(answer)
        added = self.operator.expert(self.operator.add(given).id)
        notes = [f'ask for it by name (model="{added.id}")', NOT_KEPT]
        if not added.is_routed:
            notes.insert(1, NOT_ROUTED)
        return _json({"done": True, "expert": added, "notes": notes}, 201)

    async def remove(self, request: Request) -> Response:
        expert_id = request.path_params["expert_id"]
        wait_s = _wait_s(request, _WAIT_S)
        async with while_connected(request.receive):
            is_done = await self.operator.remove(expert_id, wait_s)
        body = {"done": is_done, "id": expert_id, "notes": [NOT_KEPT]}
        return _json(body, 200 if is_done else 202)

    def _outcome(self, expert_id: str, is_done: bool) -> Response:
        body = {"done": is_done, "expert": self.operator.expert(expert_id)}
        return _json(body, 200 if is_done else 202)


def _expert_in(body: bytes) -> Mapping[str, object]:
    try:
        given = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise InvalidRequest(f"the body is not JSON: {error}", code="invalid_json") from None
    if not isinstance(given, dict):
        raise InvalidRequest("the body has to be one expert, as under `experts` in experts.yaml")
    return given


def _wait_s(request: Request, usual_s: float) -> float:
    told = request.query_params.get("wait_s")
    if told is None:
        return usual_s
    try:
        wait_s = float(told)
    except ValueError:
        wait_s = math.nan
    if not 0.0 <= wait_s <= _LONGEST_WAIT_S:
        raise InvalidRequest(
            f"wait_s is a number of seconds from 0 to {_LONGEST_WAIT_S:g}", param="wait_s"
        )
    return wait_s


async def _told(request: Request, error: Exception) -> Response:
    """The error in its own words: whoever has the key may know what is wrong."""
    assert isinstance(error, CoeError)
    if isinstance(error, ConfigError):
        return _answer(refusal(400, "invalid_expert", str(error), kind="invalid_request_error"))
    answer = answer_for(error, request.scope["coe.request_id"])
    envelope = {"error": {**answer.envelope["error"], "message": str(error)}}
    return _answer(ErrorAnswer(answer.status, envelope, answer.headers))


async def _no_route(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return _answer(answer_for_http(error, request.method, request.url.path))


def _answer(answer: ErrorAnswer) -> Response:
    response = _json(answer.envelope, answer.status)
    response.raw_headers.extend(answer.headers)
    return response


def _json(content: object, status: int = 200) -> Response:
    return Response(to_json(content), status, media_type="application/json")
