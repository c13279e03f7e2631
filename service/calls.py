"""A chat request as this gateway serves it: what decides the routing, and what is sent on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from coe.service.control import Control
from coe.service.human_ask import ask_and_key
from coe.service.wire import ChatCall, CheckedFields, checked_fields
from coe.types import GenerationRequest, Message, RawRequest

CHAT_ROUTE = "chat/completions"
NO_AFFINITY = "none"


def read_call(raw: Mapping[str, Any], control: Control, tenant: str = "") -> ChatCall:
    """The call of a chat body that is within bounds. Raises `InvalidRequest`.

    What only the expert's own server can understand is no error: it is the call's complaint,
    for experts that are not servers. Conversations are told apart by tenant.
    """
    checked = checked_fields(raw, control)
    ask, key = ask_and_key(raw["messages"], tenant)
    is_all = checked.complaint is not None
    return checked.call(
        GenerationRequest(
            checked.messages or (Message("user", ask),),
            checked.params,
            session=_session(checked, key, tenant),
            priority=checked.priority,
            raw=RawRequest(own_fields(raw), CHAT_ROUTE, checked.is_streamed, is_all),
            ask=ask,
        )
    )


def _session(checked: CheckedFields, key: str | None, tenant: str) -> str | None:
    """The name given, or else what the conversation began with."""
    if checked.control.affinity == NO_AFFINITY:
        return None
    return key if checked.session is None else f"{tenant}\x1f{checked.session}"


def own_fields(raw: Mapping[str, Any]) -> Mapping[str, Any]:
    """Without what is meant for this gateway alone."""
    if "coe" not in raw:
        return raw
    return {name: value for name, value in raw.items() if name != "coe"}
