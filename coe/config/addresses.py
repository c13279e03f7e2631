"""Addresses in the file: what can be asked, and nothing that should be secret."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

from coe.errors import ConfigError


def checked_url(url: str, file: Path, key: str) -> None:
    """Raises `ConfigError`, which does not repeat the address: a password may be in it."""
    try:
        parts = urlsplit(url)
        is_complete = bool(parts.hostname) and parts.port != 0
    except ValueError:  # half a bracket, or no number for a port
        is_complete = False
    if not is_complete:
        raise ConfigError("must be an address like http://host:8000/v1", file=str(file), key=key)
    if parts.username is not None:
        raise ConfigError(
            "passwords are not written in the file; name an environment variable in `api_key_env`",
            file=str(file),
            key=key,
        )
