"""Talks to the admin API of a running gateway, and says what is wrong when it does not answer."""

from __future__ import annotations

import json
import os
import urllib.error
import urllib.request
from collections.abc import Mapping
from http.client import HTTPException
from typing import Annotated, Any
from urllib.parse import quote

import typer

from coe.errors import CoeError, ConfigError

URL_ENV = "COE_ADMIN_URL"
KEY_ENV = "COE_ADMIN_KEY"
DEFAULT_URL = "http://127.0.0.1:8001"
_CONNECTED_S = 5.0

AdminUrlOption = Annotated[
    str,
    typer.Option("--admin-url", envvar=URL_ENV, help="Where the gateway's admin API is."),
]


class Unreachable(CoeError):
    """Nothing answers at the address."""


class AdminRefused(CoeError):
    """The admin API said no."""


class AdminClient:
    """One gateway. The key is the environment's."""

    def __init__(self, url: str) -> None:
        self._url = url.rstrip("/")
        # An admin key is nobody's business on the way: no proxy, whatever the environment says.
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    @property
    def url(self) -> str:
        return self._url

    def get(self, path: str) -> Any:
        return self._ask("GET", path, None, _CONNECTED_S)

    def call(
        self, method: str, path: str, body: Mapping[str, object] | None = None, wait_s: float = 0.0
    ) -> Any:
        """`wait_s`: how long the gateway may take besides."""
        return self._ask(method, path, body, wait_s + _CONNECTED_S)

    def _ask(
        self, method: str, path: str, body: Mapping[str, object] | None, timeout_s: float
    ) -> Any:
        key = os.environ.get(KEY_ENV, "").strip()
        if not key:
            raise ConfigError(f"set {KEY_ENV} to the key that the gateway was started with")
        headers = {"authorization": f"Bearer {key}"}
        if body is not None:
            headers["content-type"] = "application/json"
        content = None if body is None else json.dumps(body).encode()
        try:
            request = urllib.request.Request(
                f"{self._url}/admin/{path}", content, headers, method=method
            )
            with self._opener.open(request, timeout=timeout_s) as response:
                return json.load(response)
        except urllib.error.HTTPError as error:
            raise AdminRefused(_reason(error)) from None
        except (OSError, HTTPException, ValueError) as error:
            why = getattr(error, "reason", error)
            raise Unreachable(
                f"no admin API answers at {self._url} ({why}); is `coe serve --admin-port` "
                f"running there? {URL_ENV} or --admin-url name another address"
            ) from None


def expert_path(expert_id: str, verb: str | None = None) -> str:
    path = f"experts/{quote(expert_id)}"
    return path if verb is None else f"{path}/{verb}"


def _reason(error: urllib.error.HTTPError) -> str:
    """What the gateway says, or that it is none of ours."""
    try:
        message = str(json.load(error)["error"]["message"])
    except (ValueError, KeyError, TypeError, OSError):
        return f"{error.url} answers {error.code} and is no admin API of CoE"
    if error.code == 401:
        return f"the gateway does not take the key in {KEY_ENV}: {message}"
    return message
