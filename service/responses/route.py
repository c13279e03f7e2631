"""`/v1/responses`: asked as a chat, told as a response, kept for what goes on from it."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from starlette.types import Receive, Scope, Send

from coe.service.calls import read_call
from coe.service.chat_chunks import ChatChunks, parsed_answer
from coe.service.control import Control
from coe.service.errors import InvalidRequest, ResponseNotFound
from coe.service.reply import send_json, to_json
from coe.service.responses.request import ResponsesCall, read_responses
from coe.service.responses.store import KeepsResponses, ResponseStore
from coe.service.responses.writer import RESPONSE_PREFIX, ResponseWriter, sse, whole_response
from coe.service.telling import Telling
from coe.service.tenant import tenant_of
from coe.service.wire import ChatCall
from coe.types import Completion, Delta


class Responses:
    """What the routes share: the responses kept."""

    def __init__(self, store: KeepsResponses | None = None) -> None:
        self._store = ResponseStore() if store is None else store

    def read(
        self, raw: Mapping[str, Any], control: Control, tenant: str
    ) -> tuple[ChatCall, Telling]:
        """For `Generation`."""
        told = read_responses(raw, partial(self._store.turns, tenant))
        body = {**told.chat, "coe": raw["coe"]} if raw.get("coe") is not None else told.chat
        return read_call(body, control, tenant), _ResponsesTelling(told, tenant, self._store)

    def read_line(
        self, raw: Mapping[str, Any], control: Control, tenant: str
    ) -> tuple[ChatCall, Telling]:
        """For a line of a batch, whose responses are in its output and nowhere else."""
        if raw.get("previous_response_id") is not None:
            told = "a batch goes on from no response; send the conversation as input"
            raise InvalidRequest(told, param="previous_response_id")
        if raw.get("store") is True:
            told = "store cannot be true in a batch, whose responses are in its output"
            raise InvalidRequest(told, param="store")
        return self.read({**raw, "store": False}, control, tenant)

    async def show(self, scope: Scope, receive: Receive, send: Send) -> None:
        """`GET /v1/responses/{id}`."""
        response_id = str(scope["path_params"]["response_id"])
        response = self._store.response(tenant_of(scope), response_id)
        if response is None:
            raise ResponseNotFound(response_id)
        await send_json(send, response)

    async def forget(self, scope: Scope, receive: Receive, send: Send) -> None:
        """`DELETE /v1/responses/{id}`."""
        response_id = str(scope["path_params"]["response_id"])
        if not self._store.forget(tenant_of(scope), response_id):
            raise ResponseNotFound(response_id)
        await send_json(send, {"id": response_id, "object": "response", "deleted": True})


class _ResponsesTelling:
    def __init__(self, call: ResponsesCall, tenant: str, store: KeepsResponses) -> None:
        self._call = call
        self._tenant = tenant
        self._store = store
        self._chunks = ChatChunks()
        self._writer = ResponseWriter(call, RESPONSE_PREFIX, call.model)

    def whole(self, answer: bytes | Completion, decision_id: str, model: str) -> bytes:
        response_id = RESPONSE_PREFIX + decision_id
        writer = whole_response(self._call, response_id, model, parsed_answer(answer))
        self._keep(writer)
        return to_json(writer.response)

    def begin(self, decision_id: str, model: str) -> bytes:
        self._writer = ResponseWriter(self._call, RESPONSE_PREFIX + decision_id, model)
        return sse(self._writer.begin())

    def piece(self, delta: Delta) -> bytes:
        return b"".join(sse(self._writer.chunk(chunk)) for chunk in self._chunks.read(delta))

    def end(self) -> bytes:
        events = sse(self._writer.end())
        self._keep(self._writer)
        return events

    def fail(self, envelope: Mapping[str, object]) -> bytes:
        error = envelope.get("error")
        return sse(self._writer.fail(error if isinstance(error, Mapping) else {}))

    def _keep(self, writer: ResponseWriter) -> None:
        if self._call.is_stored and writer.response["status"] != "failed":
            self._store.keep(self._tenant, writer.response, writer.turns)
