"""Feedback as it comes over the wire."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from coe.service.complaints import complaint, json_object
from coe.service.errors import InvalidRequest
from coe.service.wire import COMPLETION_PREFIX

_MAX_ID_CHARS = 256


@dataclass(frozen=True, slots=True)
class FeedbackCall:
    """What a client says of one answer, checked."""

    decision_id: str
    score: float
    """0 to 1."""
    expert_id: str | None


class _FeedbackRequest(BaseModel):
    # Unlike a chat request, nothing that is sent goes unread: a comment has no place in a fit.
    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)

    decision_id: str = Field(min_length=1, max_length=_MAX_ID_CHARS)
    thumb: Literal["up", "down"] | None = None
    score: float | None = Field(None, ge=0, le=1)
    expert: str | None = Field(None, min_length=1, max_length=_MAX_ID_CHARS)


def read_feedback_call(body: bytes) -> FeedbackCall:
    """Raises `InvalidRequest`, which names the field that is wrong, and nothing else.

    The id of a chat completion does for the id of its decision.
    """
    try:
        request = _FeedbackRequest.model_validate(json_object(body))
    except ValidationError as error:
        raise complaint(error, _FeedbackRequest.model_fields) from None
    if (request.thumb is None) == (request.score is None):
        raise InvalidRequest(
            'give either "thumb" ("up" or "down") or "score" (0 to 1)', param="score"
        )
    score = float(request.thumb == "up") if request.score is None else float(request.score)
    decision_id = request.decision_id.removeprefix(COMPLETION_PREFIX)
    return FeedbackCall(decision_id, score, request.expert)
