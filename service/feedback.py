"""`POST /v1/feedback`: what a client thought of an answer, kept for the next fit."""

from __future__ import annotations

import asyncio

from starlette.types import Receive, Scope, Send

from coe.feedback_log import FeedbackLog
from coe.service.errors import BodyTooSlow, FeedbackOff
from coe.service.feedback_wire import read_feedback_call
from coe.service.notes import current_notes
from coe.service.reply import read_body, require_json, send_json

_MAX_BODY_BYTES = 4096
_BODY_S = 10.0


class Feedback:
    """The ASGI app behind the route. Without a log every call is told how to have one."""

    def __init__(self, log: FeedbackLog | None) -> None:
        self._log = log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers once the feedback is on the disk, which a thread waits for."""
        if self._log is None:
            raise FeedbackOff
        require_json(scope)
        call = read_feedback_call(await _body(receive))
        recorded = await asyncio.to_thread(
            self._log.record, call.decision_id, call.score, call.expert_id
        )
        current_notes().scored(recorded.expert_id, call.score)
        await send_json(
            send,
            {
                "object": "feedback",
                "decision_id": call.decision_id,
                "expert": recorded.expert_id,
                "score": call.score,
                "replaced": recorded.is_replacement,
            },
        )


async def _body(receive: Receive) -> bytes:
    try:
        async with asyncio.timeout(_BODY_S):
            return await read_body(receive, _MAX_BODY_BYTES)
    except TimeoutError:
        raise BodyTooSlow(_BODY_S) from None
