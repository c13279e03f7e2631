"""Responses that all processes of one gateway know."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from coe.service.reply import to_json
from coe.service.responses.items import ChatMessage
from coe.service.responses.store import KeepsResponses, ResponseStore
from coe.store import LedgerResponses, Store


class SharedResponseStore:
    """As `ResponseStore`, but that those used last are no better off than others."""

    def __init__(self, kept: LedgerResponses) -> None:
        self._kept = kept

    def keep(
        self, tenant: str, response: Mapping[str, Any], turns: Sequence[Mapping[str, Any]]
    ) -> bool:
        return self._kept.keep(tenant, response["id"], to_json(response), to_json(turns))

    def response(self, tenant: str, response_id: str) -> dict[str, Any] | None:
        found = self._kept.find(tenant, response_id)
        return None if found is None else orjson.loads(found[0])

    def turns(self, tenant: str, response_id: str) -> list[ChatMessage] | None:
        found = self._kept.find(tenant, response_id)
        return None if found is None else orjson.loads(found[1])

    def forget(self, tenant: str, response_id: str) -> bool:
        return self._kept.forget(tenant, response_id)


def kept_in(store: Store | None) -> KeepsResponses:
    """Where a gateway keeps responses: in memory, where it is the only process."""
    if store is None or store.responses is None:
        return ResponseStore()
    return SharedResponseStore(store.responses)
