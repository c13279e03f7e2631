"""Images, sounds and clips in a message: what an expert's server would fetch, load or decode.

A server told `{"image_url": {"url": …}}` fetches it from where it stands, behind the operator's
walls, so that a client could read files and inner services through it. Let through is what the
request carries itself as a `data:` address, and what lies on a host of the public internet, or
only on those that the operator names. A public name can still point inwards: who fears that names
the hosts. Tensors are refused, because loading one runs the client's bytes through a deserialiser.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator
from typing import Any

from coe.service.errors import InvalidRequest
from coe.service.request_limits import RequestLimits, check_length, out_of_bounds

_PLAIN_KEYS = frozenset({"type", "text"})
# One reading of an address for everybody: no userinfo, no backslash, no blank, no escaped host.
_ADDRESS = re.compile(
    r"https?://(?P<host>[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::\d{1,5})?"
    r"(?:/[^\s\\]*|[?#][^\s\\@]*)?",
    re.IGNORECASE,
)
_NUMBER = re.compile(r"(?:0x[0-9a-f]*|\d+)", re.IGNORECASE)
# RFC 6761, RFC 6762, RFC 8375 and what clouds call their own.
_INNER_NAMES = ("localhost", "local", "internal", "home.arpa", "lan", "intranet", "corp", "home")
_EMBEDDING_PREFIXES = (ipaddress.IPv6Network("64:ff9b::/96"), ipaddress.IPv6Network("::/96"))


def check_parts(content: Any, place: str, limits: RequestLimits) -> None:
    """Refuses parts of one message that an expert's server must not be handed.

    Takes any JSON. Raises `InvalidRequest`, which names the place and never repeats the address.
    """
    if isinstance(content, dict):
        check_part(content, place, limits)
    if not isinstance(content, list):
        return
    check_length(len(content), limits.max_parts, place)
    for index, part in enumerate(content):
        if isinstance(part, dict | list):
            check_part(part, f"{place}[{index}]", limits)


def check_part(part: Any, place: str, limits: RequestLimits) -> None:
    """The same for one part, or for whatever else holds some."""
    if isinstance(part, dict) and part.keys() <= _PLAIN_KEYS:
        return
    for where, name, value in _fields(part, place):
        if name.endswith("_embeds"):
            raise InvalidRequest(
                f"{where} would have the expert load a tensor; send the image or sound itself",
                param=where,
                code="unsupported_parameter",
            )
        if isinstance(value, str) and _is_address(name):
            _check_address(value, where, limits)
        elif isinstance(value, str) and name in ("data", "file_data"):
            check_length(len(value), limits.max_media_chars, where)


def _fields(part: object, place: str) -> Iterator[tuple[str, str, object]]:
    """Every field at any depth: its place, its lower-case name, its value."""
    left: list[tuple[object, str]] = [(part, place)]
    while left:
        value, place = left.pop()
        if isinstance(value, dict):
            for name, inner in value.items():
                yield f"{place}.{name}", name.lower(), inner
                left.append((inner, f"{place}.{name}"))
        elif isinstance(value, list):
            # Whatever is in a list is still called what the list is.
            name = place.rpartition(".")[2]
            for index, inner in enumerate(value):
                yield f"{place}[{index}]", name.lower(), inner
                left.append((inner, f"{place}[{index}]"))


def _is_address(name: str) -> bool:
    return name in ("url", "uri", "image", "audio", "video") or name.endswith(("_url", "_uri"))


def _check_address(value: str, place: str, limits: RequestLimits) -> None:
    if value[:5].lower() == "data:":
        check_length(len(value), limits.max_media_chars, place)
        return
    read = _ADDRESS.fullmatch(value)
    if read is None:
        raise out_of_bounds(
            place,
            "must be a data: address that holds the content, or a plain http(s) address",
            "invalid_url",
        )
    host = read["host"].strip("[]").rstrip(".").lower()
    hosts = limits.media_hosts
    if hosts is not None and host not in hosts:
        told = f"only {', '.join(hosts)}" if hosts else "no host"
        raise out_of_bounds(
            place,
            f"may be on {told} (the operator's media_hosts); send the content as a data: address",
            "host_refused",
        )
    if hosts is None and not is_public(host):
        raise out_of_bounds(
            place,
            "is on a host that is not of the public internet; send the content as a data: "
            "address, or have the operator name the host in media_hosts",
            "host_refused",
        )


def is_public(host: str) -> bool:
    """Whether a host, in lower case, is an address or a name of the public internet, as far as can
    be said without asking for it.
    """
    if ":" in host:
        return _is_public_v6(host)
    labels = host.split(".")
    if _NUMBER.fullmatch(labels[-1]):
        # 127.1, 0x7f.1 and 2130706433 are loopback to some: only the usual form will do.
        try:
            address = ipaddress.IPv4Address(host)
        except ValueError:
            return False
        return address.is_global and not address.is_multicast
    if len(labels) < 2 or not all(labels):
        return False
    return not any(host == name or host.endswith(f".{name}") for name in _INNER_NAMES)


def _is_public_v6(host: str) -> bool:
    try:
        address = ipaddress.IPv6Address(host)
    except ValueError:
        return False
    inner = address.ipv4_mapped or address.sixtofour
    if inner is None and address.teredo is not None:
        inner = address.teredo[1]
    if any(address in prefix for prefix in _EMBEDDING_PREFIXES):
        inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    if inner is not None:
        return is_public(str(inner))
    return address.is_global and not address.is_multicast
