"""The least a Python gateway can do: one pass-through, without checks, names or errors.

    python -m bench.gateway.floor --port 8200 --expert http://127.0.0.1:8100

Every gateway's cost is told as a multiple of this one's.
"""

from __future__ import annotations

import argparse

import aiohttp
import orjson
import uvicorn
from starlette.types import Receive, Scope, Send

from bench.gateway.mock import MODEL


class Floor:
    """Reads `model` and puts the expert's in its place; bytes go through in both directions."""

    def __init__(self, expert_url: str) -> None:
        self._url = f"{expert_url}/v1/chat/completions"
        self._session: aiohttp.ClientSession | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._session is None:
            self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
        body, more = b"", True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        request = orjson.loads(body)
        request["model"] = MODEL
        async with self._session.post(
            self._url, data=orjson.dumps(request), headers={"content-type": "application/json"}
        ) as response:
            headers = [(b"content-type", response.headers["content-type"].encode())]
            if (length := response.content_length) is not None:
                headers.append((b"content-length", b"%d" % length))
            await send(
                {"type": "http.response.start", "status": response.status, "headers": headers}
            )
            if length is not None:
                await send({"type": "http.response.body", "body": await response.read()})
                return
            async for piece in response.content.iter_any():
                await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b""})


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=8200)
    parser.add_argument("--expert", default="http://127.0.0.1:8100", help="without /v1")
    given = parser.parse_args()
    uvicorn.run(
        Floor(given.expert),
        port=given.port,
        loop="uvloop",
        http="httptools",
        ws="none",
        lifespan="off",
        access_log=False,
        log_level="warning",
    )
