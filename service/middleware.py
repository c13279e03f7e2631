"""What surrounds every HTTP request: its id, its errors, its size. Plain ASGI, outermost first.

An error before the response has started becomes an envelope. After that nothing can be told
any more: the response is left unfinished, and the server closes the connection.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from coe.ids import new_id
from coe.service.errors import SHUTTING_DOWN, BodyTooLarge, EncodedBody, ErrorAnswer, answer_for
from coe.service.notes import notes_of
from coe.service.reply import extra_headers, request_header, send_json

_SANE_ID = re.compile(rb"[!-~]{1,128}")


class Envelope:
    """Names every request, and turns whatever is raised below into an OpenAI error envelope.

    The response carries the name, the client's own if it is sane ASCII, and the `extra_headers`.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = _given_id(scope) or new_id().encode()
        scope["coe.request_id"] = request_id.decode("ascii")
        extra = extra_headers(scope)
        extra.append((b"x-request-id", request_id))
        is_started = False

        async def told(message: Message) -> None:
            nonlocal is_started
            is_started = True
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *extra]
            await send(message)

        try:
            await self._app(scope, receive, told)
        except ClientDisconnect:
            pass
        except asyncio.CancelledError:
            if not is_started:
                await _send_answer(told, SHUTTING_DOWN)
            raise
        except Exception as error:  # noqa: BLE001  the last place before the client
            notes_of(scope).failed(error)
            answer = answer_for(error, scope["coe.request_id"])
            if not is_started:
                await _send_answer(told, answer)


class BodyLimit:
    """Refuses a body over the limit, by its announced length or as soon as it has grown past it.

    And one that is compressed, of which nobody knows how large it is.
    """

    def __init__(
        self, app: ASGIApp, max_body_bytes: int, by_path: Mapping[str, int] | None = None
    ) -> None:
        """`by_path`: paths with a limit of their own."""
        self._app = app
        self._max_body_bytes = max_body_bytes
        self._by_path = by_path or {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        encoding = request_header(scope, b"content-encoding") or b"identity"
        if encoding.strip().lower() != b"identity":
            raise EncodedBody
        most = self._by_path.get(scope["path"], self._max_body_bytes)
        announced = request_header(scope, b"content-length") or b""
        if announced.isdigit():
            if int(announced[:20]) > most:
                raise BodyTooLarge(most)
            await self._app(scope, receive, send)  # the server reads no more than was announced
            return
        n_bytes = 0

        async def counted_receive() -> Message:
            nonlocal n_bytes
            message = await receive()
            n_bytes += len(message.get("body", b""))
            if n_bytes > most:
                raise BodyTooLarge(most)
            return message

        await self._app(scope, counted_receive, send)


async def _send_answer(send: Send, answer: ErrorAnswer) -> None:
    await send_json(send, answer.envelope, answer.status, answer.headers)


def _given_id(scope: Scope) -> bytes | None:
    given = request_header(scope, b"x-request-id")
    return given if given is not None and _SANE_ID.fullmatch(given) else None
