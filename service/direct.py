"""The shortest way to the routes that are asked most."""

from __future__ import annotations

from collections.abc import Mapping

from starlette.types import ASGIApp, Receive, Scope, Send


class Direct:
    """Hands a POST to one of these paths to the app behind it, and all else on.

    The router would come to the same, after looking at its routes one by one.
    """

    def __init__(self, app: ASGIApp, posts: Mapping[str, ASGIApp]) -> None:
        self._app = app
        self._posts = posts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] == "POST":
            app = self._posts.get(scope["path"], self._app)
        else:
            app = self._app
        await app(scope, receive, send)
