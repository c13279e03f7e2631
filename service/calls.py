"""A chat request as this gateway serves it: what decides the routing, and what is sent on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from coe.service.control import Control
from coe.service.errors import InvalidRequest
from coe.service.human_ask import conversation_key, human_ask
from coe.service.unsupported import refuse_unsupported
from coe.service.wire import ChatCall, plain_messages, read_fields
from coe.types import Message, RawRequest

CHAT_ROUTE = "chat/completions"
NO_AFFINITY = "none"


def read_call(raw: Mapping[str, Any], control: Control, tenant: str = "") -> ChatCall:
    """The call of a chat body that is within bounds. Raises `InvalidRequest`.

    What only the expert's own server can understand is no error: it is the call's complaint,
    for experts that are not servers. Conversations are told apart by tenant.
    """
    call = read_fields(raw, control)
    ask = human_ask(raw["messages"])
    complaint: InvalidRequest | None = None
    try:
        refuse_unsupported(raw)
        messages = plain_messages(raw)
    except InvalidRequest as error:
        complaint = error
        messages = (Message("user", ask),)
    generation = replace(
        call.generation,
        messages=messages,
        ask=ask,
        session=_session(call, raw["messages"], tenant),
        raw=RawRequest(own_fields(raw), CHAT_ROUTE, call.is_streamed, complaint is not None),
    )
    return replace(call, generation=generation, complaint=complaint)


def _session(call: ChatCall, messages: object, tenant: str) -> str | None:
    """The name given, or else what the conversation began with."""
    named = call.generation.session
    if call.control.affinity == NO_AFFINITY:
        return None
    if named is not None:
        return f"{tenant}\x1f{named}"
    return conversation_key(messages, tenant)


def own_fields(raw: Mapping[str, Any]) -> Mapping[str, Any]:
    """Without what is meant for this gateway alone."""
    if "coe" not in raw:
        return raw
    return {name: value for name, value in raw.items() if name != "coe"}
