"""What happens before an answer's first word, as comments between server-sent events.

Every client of that format passes over them, as the HTML standard wants it, so that only those who
look for them have to know them.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from starlette.types import Message, Send

from coe.progress import Progress
from coe.service.reply import to_json

KEEP_ALIVE_S = 10.0
_KEEP_ALIVE = b": coe\n\n"
_EVENT_ENDS = (b"\n\n", b"\r\r", b"\r\n\r\n")
_LOG = logging.getLogger(__name__)


class Comments(Progress):
    """Tells of an answer's progress on the response that will carry the answer.

    The first comment begins the response. While nothing else is sent, there is one at least every
    `keep_alive_s`, though never inside an event.
    """

    def __init__(
        self, send: Send, aside: Send, start: Message, keep_alive_s: float = KEEP_ALIVE_S
    ) -> None:
        """`send` is the answer's own way, which may be recorded; comments go `aside`."""
        self._send = send
        self._aside = aside
        self._start = start
        self._keep_alive_s = keep_alive_s
        self._untold: list[bytes] = []
        self._news = asyncio.Event()
        self._turn = asyncio.Lock()
        self._sent_s = asyncio.get_running_loop().time()
        self._is_between_events = True
        self.has_begun = False
        """Whether the response has."""

    def waiting(self, expert_id: str, n_before: int) -> None:
        self._tell({"waiting": expert_id, "queue": n_before})

    def asked(self, expert_ids: Sequence[str]) -> None:
        self._tell({"asked": list(expert_ids)})

    def answered(self, expert_id: str, n_answered: int, n_asked: int | None = None) -> None:
        of = {} if n_asked is None else {"of": n_asked}
        self._tell({"answered": expert_id, "n": n_answered, **of})

    def failed(self, expert_id: str) -> None:
        self._tell({"failed": expert_id})

    def writing(self, expert_id: str) -> None:
        self._tell({"writing": expert_id})

    async def send(self, message: Message) -> None:
        """A piece of the answer, after all that was told before it."""
        async with self._turn:
            await self._tell_all()
            if message["type"] == "http.response.start":
                return
            await self._send(message)
            self._sent_s = asyncio.get_running_loop().time()
            is_last = not message.get("more_body", False)
            self._is_between_events = not is_last and message["body"].endswith(_EVENT_ENDS)

    @contextmanager
    def telling(self) -> Iterator[None]:
        """Comments are sent while the block runs.

        Nothing is waited for at its end: whoever waits after the last piece of a response is told
        that its client has gone, and the answer would be taken for one that nobody heard.
        """
        teller = asyncio.create_task(self._run())
        teller.add_done_callback(_look_at)
        try:
            yield
        finally:
            teller.cancel()

    def _tell(self, said: Mapping[str, object]) -> None:
        self._untold.append(b": coe " + to_json(said) + b"\n\n")
        self._news.set()

    async def _run(self) -> None:
        clock = asyncio.get_running_loop().time
        while True:
            try:
                async with asyncio.timeout_at(self._sent_s + self._keep_alive_s):
                    await self._news.wait()
            except TimeoutError:
                if clock() < self._sent_s + self._keep_alive_s:
                    continue
                self._sent_s = clock()
                if self._is_between_events:
                    self._untold.append(_KEEP_ALIVE)
            async with self._turn:
                await self._tell_all()

    async def _tell_all(self) -> None:
        """In its turn."""
        self._news.clear()
        if not self.has_begun:
            self.has_begun = True
            await self._send(self._start)
        if self._untold and self._is_between_events:
            comments = b"".join(self._untold)
            self._untold.clear()
            await self._aside({"type": "http.response.body", "body": comments, "more_body": True})
            self._sent_s = asyncio.get_running_loop().time()


def _look_at(teller: asyncio.Task[None]) -> None:
    if not teller.cancelled() and (error := teller.exception()) is not None:
        _LOG.error("comments on an answer's progress have failed", exc_info=error)
