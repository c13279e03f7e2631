"""What goes on beside an app for as long as it is served."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from starlette.types import ASGIApp, Message, Receive, Scope, Send


def accompanied(
    app: ASGIApp, begin: Callable[[], Awaitable[None]], end: Callable[[], Awaitable[None]]
) -> ASGIApp:
    """The app with something that begins once it has started and before anybody is served, and
    ends after its requests have and before the app does.
    """

    async def served(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan":
            await app(scope, receive, send)
            return

        async def watched_receive() -> Message:
            message = await receive()
            if message["type"] == "lifespan.shutdown":
                await end()
            return message

        async def watched_send(message: Message) -> None:
            if message["type"] == "lifespan.startup.complete":
                await begin()
            await send(message)

        await app(scope, watched_receive, watched_send)

    return served
