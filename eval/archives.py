"""Published result archives: listed and fetched from a repository, each whole or not at all.

This is the only part of evaluation that reaches into the network, and only where `coe data pull` is
asked to.
"""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from http.client import HTTPException
from pathlib import Path
from urllib.parse import urlsplit

from coe.errors import DatasetError
from coe.eval.files import replace_file

_TIMEOUT_S = 60.0
_MOST_BYTES = 1 << 30
_BLOCK = 1 << 20
_FIX = "check the network, or fetch the files by hand and name their folder as --from"


@dataclass(frozen=True, slots=True)
class Archive:
    """A file of a listing."""

    name: str
    url: str
    n_bytes: int


def listed_archives(listing_url: str) -> list[Archive]:
    """The zip files of a folder, as GitHub's contents API lists it. Raises `DatasetError`."""
    try:
        entries = json.loads(_fetched(listing_url, _MOST_BYTES))
        archives = [
            Archive(entry["name"], entry["download_url"], int(entry.get("size", 0)))
            for entry in entries
            if entry.get("type") == "file" and str(entry["name"]).endswith(".zip")
        ]
    except (ValueError, KeyError, TypeError, AttributeError):
        raise DatasetError(f"{listing_url}: is no listing of files; {_FIX}") from None
    if not archives:
        raise DatasetError(f"{listing_url}: lists no archive; {_FIX}")
    return archives


def pull(archives: Sequence[Archive], folder: Path, advance: Callable[[], None]) -> list[Path]:
    """Fetches those that are not in the folder yet, so that a pull that broke off goes on."""
    files = []
    for archive in archives:
        file = folder / Path(archive.name).name
        if not file.exists():
            replace_file(file, partial(Path.write_bytes, data=_whole(archive)))
        files.append(file)
        advance()
    return files


def _whole(archive: Archive) -> bytes:
    content = _fetched(archive.url, _MOST_BYTES)
    if archive.n_bytes and len(content) != archive.n_bytes:
        raise DatasetError(
            f"{archive.url}: {len(content)} bytes came of {archive.n_bytes}; pull again"
        )
    return content


def _fetched(url: str, most_bytes: int) -> bytes:
    if urlsplit(url).scheme not in ("http", "https"):
        raise DatasetError(f"{url}: is no address of the web")
    headers: Mapping[str, str] = {"User-Agent": "coe", "Accept": "*/*"}
    try:
        request = urllib.request.Request(url, headers=dict(headers))
        with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as answer:
            blocks: list[bytes] = []
            n_bytes = 0
            while block := answer.read(_BLOCK):
                n_bytes += len(block)
                if n_bytes > most_bytes:
                    raise DatasetError(f"{url}: is larger than {most_bytes >> 20} MiB")
                blocks.append(block)
    except (urllib.error.URLError, HTTPException, OSError) as error:
        raise DatasetError(f"{url}: cannot be fetched ({error}); {_FIX}") from None
    return b"".join(blocks)
