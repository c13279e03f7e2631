"""Who may come in: API keys, looked at before anything else of a request.

The path decides, never the Host header; and what goes wrong while a key is looked up keeps the
door shut.
"""

from __future__ import annotations

import logging

from starlette.types import ASGIApp, Receive, Scope, Send

from coe.errors import CoeError, StoreError
from coe.service.errors import KeyRefused
from coe.service.reply import request_header
from coe.service.tenant import set_key
from coe.store import Keys

_LOG = logging.getLogger("coe.service")
_OPEN_PATHS = frozenset({"/healthz", "/readyz", "/openapi.json"})


class Door:
    """The ASGI app behind which every path but a few needs a key."""

    def __init__(self, app: ASGIApp, keys: Keys) -> None:
        self._app = app
        self._keys = keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] not in _OPEN_PATHS:
            authorization = request_header(scope, b"authorization")
            try:
                key = await self._keys.find(authorization)
            except CoeError:
                raise
            except Exception as error:
                _LOG.exception("a key could not be looked up")
                raise StoreError("keys cannot be looked up") from error
            if key is None:
                raise KeyRefused(is_given=authorization is not None)
            set_key(scope, key)
        await self._app(scope, receive, send)
