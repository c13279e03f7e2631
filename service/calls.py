"""A chat request as this gateway serves it: what decides the routing, and what is sent on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from coe.service.control import Control
from coe.service.human_ask import ask_and_key
from coe.service.wire import ChatCall, read_fields
from coe.types import Message, RawRequest

CHAT_ROUTE = "chat/completions"
NO_AFFINITY = "none"


def read_call(raw: Mapping[str, Any], control: Control, tenant: str = "") -> ChatCall:
    """The call of a chat body that is within bounds. Raises `InvalidRequest`.

    What only the expert's own server can understand is no error: it is the call's complaint,
    for experts that are not servers. Conversations are told apart by tenant.
    """
    call = read_fields(raw, control)
    ask, key = ask_and_key(raw["messages"], tenant)
    is_all = call.complaint is not None
    generation = replace(
        call.generation,
        messages=call.generation.messages or (Message("user", ask),),
        ask=ask,
        session=_session(call, key, tenant),
        raw=RawRequest(own_fields(raw), CHAT_ROUTE, call.is_streamed, is_all),
    )
    return replace(call, generation=generation)


def _session(call: ChatCall, key: str | None, tenant: str) -> str | None:
    """The name given, or else what the conversation began with."""
    named = call.generation.session
    if call.control.affinity == NO_AFFINITY:
        return None
    if named is not None:
        return f"{tenant}\x1f{named}"
    return key


def own_fields(raw: Mapping[str, Any]) -> Mapping[str, Any]:
    """Without what is meant for this gateway alone."""
    if "coe" not in raw:
        return raw
    return {name: value for name, value in raw.items() if name != "coe"}
