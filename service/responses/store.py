"""Responses that a later request may go on from, or ask for again."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import orjson

from coe.service.reply import to_json
from coe.service.responses.items import ChatMessage

CAPACITY = 1000
MAX_BYTES = 64 * 1024 * 1024


class KeepsResponses(Protocol):
    """What the routes need of a store of responses; no tenant sees another's."""

    def keep(
        self, tenant: str, response: Mapping[str, Any], turns: Sequence[Mapping[str, Any]]
    ) -> bool:
        """`turns`: the conversation up to and with the answer. False: it is not kept."""
        ...

    def response(self, tenant: str, response_id: str) -> dict[str, Any] | None:
        """None for one that is unknown, forgotten or another tenant's."""
        ...

    def turns(self, tenant: str, response_id: str) -> list[ChatMessage] | None:
        """The conversation up to and with that response's answer."""
        ...

    def forget(self, tenant: str, response_id: str) -> bool:
        """Whether there was such a response."""
        ...


@dataclass(frozen=True, slots=True)
class _Kept:
    # As bytes, so that sizes are known and nobody changes what is kept.
    response: bytes
    turns: bytes

    @property
    def n_bytes(self) -> int:
        return len(self.response) + len(self.turns)


class ResponseStore:
    """The responses of each tenant that were used last, in memory; no tenant sees another's.

    Bounded twice: `capacity` responses a tenant, and `max_bytes` for all, where the tenant that
    holds the most gives way. Belongs to one event loop.
    """

    def __init__(self, capacity: int = CAPACITY, max_bytes: int = MAX_BYTES) -> None:
        self._capacity = capacity
        self._max_bytes = max_bytes
        self._tenants: dict[str, OrderedDict[str, _Kept]] = {}
        self._n_bytes: dict[str, int] = {}
        self._n_bytes_in_all = 0

    def __len__(self) -> int:
        return sum(map(len, self._tenants.values()))

    @property
    def n_bytes(self) -> int:
        return self._n_bytes_in_all

    def keep(
        self, tenant: str, response: Mapping[str, Any], turns: Sequence[Mapping[str, Any]]
    ) -> bool:
        """`turns`: the conversation up to and with the answer. False: too large to be kept."""
        kept = _Kept(to_json(response), to_json(turns))
        self.forget(tenant, response["id"])
        if kept.n_bytes > self._max_bytes:
            return False
        self._tenants.setdefault(tenant, OrderedDict())[response["id"]] = kept
        self._count(tenant, kept.n_bytes)
        if len(self._tenants[tenant]) > self._capacity:
            self._drop_oldest(tenant)
        while self._n_bytes_in_all > self._max_bytes:
            self._drop_oldest(max(self._n_bytes, key=self._n_bytes.__getitem__))
        return response["id"] in self._tenants.get(tenant, ())

    def response(self, tenant: str, response_id: str) -> dict[str, Any] | None:
        """None for one that is unknown, forgotten or another tenant's."""
        kept = self._find(tenant, response_id)
        return None if kept is None else orjson.loads(kept.response)

    def turns(self, tenant: str, response_id: str) -> list[ChatMessage] | None:
        """The conversation up to and with that response's answer."""
        kept = self._find(tenant, response_id)
        return None if kept is None else orjson.loads(kept.turns)

    def forget(self, tenant: str, response_id: str) -> bool:
        """Whether there was such a response."""
        kept = self._tenants.get(tenant, OrderedDict()).pop(response_id, None)
        if kept is not None:
            self._count(tenant, -kept.n_bytes)
        return kept is not None

    def _find(self, tenant: str, response_id: str) -> _Kept | None:
        of_tenant = self._tenants.get(tenant)
        if of_tenant is None or response_id not in of_tenant:
            return None
        of_tenant.move_to_end(response_id)
        return of_tenant[response_id]

    def _drop_oldest(self, tenant: str) -> None:
        self.forget(tenant, next(iter(self._tenants[tenant])))

    def _count(self, tenant: str, n_bytes: int) -> None:
        self._n_bytes_in_all += n_bytes
        self._n_bytes[tenant] = self._n_bytes.get(tenant, 0) + n_bytes
        if not self._tenants[tenant]:
            del self._tenants[tenant], self._n_bytes[tenant]
