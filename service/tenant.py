"""Who is asking, as far as one may be told from another."""

from __future__ import annotations

from starlette.types import Scope

from coe.store import ApiKey

NOBODY = ""
"""The tenant of a gateway without keys: everybody is the same one."""
_KEY = "coe.key"


def key_of(scope: Scope) -> ApiKey | None:
    """The key that opened the door; None where the door is open."""
    key: ApiKey | None = scope.get(_KEY)
    return key


def set_key(scope: Scope, key: ApiKey) -> None:
    scope[_KEY] = key


def tenant_of(scope: Scope) -> str:
    """As the door has found it; nothing in a body changes it."""
    key = key_of(scope)
    return NOBODY if key is None else key.tenant
