"""Who may use the admin API: whoever has the key, and no web page.

Nothing passes by mistake: what goes wrong while it is decided is a refusal, too. The decision
looks at the key and at the Host header, and never at what the Host header says is asked for.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import logging
import os
import re

from starlette.types import ASGIApp, Receive, Scope, Send

from coe.errors import ConfigError
from coe.service.errors import ErrorAnswer
from coe.service.reply import send_json

KEY_ENV = "COE_ADMIN_KEY"
LEAST_KEY_CHARS = 16
_LOG = logging.getLogger("coe.service")
# Nothing may follow the address but a port; without brackets, IPv6 has none.
_HOST = re.compile(
    r"(?:\[(?P<bracketed>[^\[\]]+)\]|(?P<name>[^:\[\]]*))(?::\d*)?|(?P<bare>[0-9A-Fa-f.:]+)"
)


def refusal(
    status: int, code: str, message: str, *headers: tuple[bytes, bytes], kind: str = "admin_error"
) -> ErrorAnswer:
    """An answer in the gateway's envelope that says no."""
    error = {"message": message, "type": kind, "param": None, "code": code}
    return ErrorAnswer(status, {"error": error}, headers)


_NO_KEY = refusal(
    401,
    "invalid_admin_key",
    "this needs the admin key, as the header 'authorization: Bearer KEY'; it is the value that "
    f"{KEY_ENV} had when the gateway was started",
    (b"www-authenticate", b"Bearer"),
)
_STRANGE_HOST = refusal(
    403,
    "host_refused",
    "ask for this by its address, as in http://127.0.0.1:8001; a name that points here may be "
    "a web page's",
)
_UNDECIDED = refusal(503, "access_undecided", "the gateway could not check the key; see its log")


class AdminKey:
    """Knows the right key when it sees it. Keeps only its SHA-256."""

    def __init__(self, key: str) -> None:
        """Raises `ConfigError` for a key that could be guessed."""
        if len(key) < LEAST_KEY_CHARS:
            raise ConfigError(
                f"an admin key has at least {LEAST_KEY_CHARS} characters; make one with "
                "`python -c 'import secrets; print(secrets.token_urlsafe(32))'`",
                key=KEY_ENV,
            )
        self._digest = hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()

    @classmethod
    def taken_from_environment(cls) -> AdminKey:
        """The key that the environment names, which forgets it: nothing started from here
        inherits it. Raises `ConfigError` if there is none.
        """
        key = os.environ.pop(KEY_ENV, "").strip()
        if not key:
            raise ConfigError(
                f"the admin API needs a key; set {KEY_ENV} to at least {LEAST_KEY_CHARS} "
                "characters that nobody can guess, or leave --admin-port out",
                key=KEY_ENV,
            )
        return cls(key)

    @classmethod
    def handed_on(cls) -> dict[str, str]:
        """What the environment of another process needs for it to have the key; this one's forgets
        it. Raises as `taken_from_environment` does.
        """
        key = os.environ.get(KEY_ENV, "")
        cls.taken_from_environment()
        return {KEY_ENV: key}

    def matches(self, given: bytes) -> bool:
        """In a time that tells nothing of how near it was."""
        return hmac.compare_digest(hashlib.sha256(given).digest(), self._digest)


class Gate:
    """Lets through whoever has the key. Where `is_local`, also the Host has to be an address or
    `localhost`: a name may be one that a page of somebody else's has pointed here.
    """

    def __init__(self, app: ASGIApp, key: AdminKey, is_local: bool) -> None:
        self._app = app
        self._key = key
        self._is_local = is_local

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        try:
            refused = self._refused(scope)
        except Exception:  # noqa: BLE001  whatever it is, it must not let anybody in
            _LOG.exception("access to the admin API could not be decided")
            refused = _UNDECIDED
        if refused is not None:
            await send_json(send, refused.envelope, refused.status, refused.headers)
            return
        await self._app(scope, receive, send)

    def _refused(self, scope: Scope) -> ErrorAnswer | None:
        """None: it may pass."""
        if self._is_local and not is_address(_only(scope, b"host")):
            return _STRANGE_HOST
        scheme, _, key = (_only(scope, b"authorization") or b"").partition(b" ")
        if scheme.lower() != b"bearer" or not self._key.matches(key.strip()):
            return _NO_KEY
        return None


def is_address(host: bytes | None) -> bool:
    """Whether a Host header is an IP address or `localhost`, with a port or without."""
    told = _HOST.fullmatch("" if host is None else host.decode("latin-1"))
    if told is None:
        return False
    name = told["bracketed"] or told["bare"] or told["name"]
    if name.lower() == "localhost":
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def is_loopback(host: str) -> bool:
    """Whether what listens there can be reached from this machine alone."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _only(scope: Scope, name: bytes) -> bytes | None:
    """The one header of that name; None where there is none, or more than one."""
    values = [bytes(value) for key, value in scope["headers"] if key == name]
    return values[0] if len(values) == 1 else None
