"""A file that is uploaded as a form, handed on as it arrives and never held whole."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator

from python_multipart.exceptions import MultipartParseError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope

from coe.service.errors import InvalidRequest
from coe.service.files.objects import ANCHOR, LIFETIMES_S
from coe.service.reply import request_header

PURPOSE = "batch"
_FIELDS = ("purpose", "expires_after[anchor]", "expires_after[seconds]")
_FILE = "file"
_MOST_FIELD_BYTES = 1024
_MOST_BOUNDARY_BYTES = 200


class Upload:
    """One form with a file and what is said of it. `begin`, then `content` to its end."""

    def __init__(self, scope: Scope, receive: Receive) -> None:
        """Raises `InvalidRequest` if the request has no form."""
        kind, options = parse_options_header(request_header(scope, b"content-type"))
        boundary = options.get(b"boundary", b"")
        if kind != b"multipart/form-data" or not 0 < len(boundary) <= _MOST_BOUNDARY_BYTES:
            told = "send the file as multipart/form-data, as `curl -F` does"
            raise InvalidRequest(told, code="unsupported_media_type")
        self._receive = receive
        self._form = _Form(boundary)
        self._events = self._read()

    async def begin(self) -> str:
        """Reads up to the file, and says what its client calls it."""
        async for event in self._events:
            if isinstance(event, str):
                return event
        raise InvalidRequest("file is required", param=_FILE, code="missing_parameter")

    @property
    def lifetime_s(self) -> float | None:
        """How long it is to be kept, as far as said before the file. Raises `InvalidRequest`."""
        anchor, told = (self._form.fields.get(name) for name in _FIELDS[1:])
        if anchor is None and told is None:
            return None
        least, most = LIFETIMES_S
        is_whole = told is not None and told.isascii() and told.isdigit() and len(told) < 10
        if anchor != ANCHOR or not is_whole or not least <= int(told or 0) <= most:
            raise InvalidRequest(
                f"expires_after needs the anchor {ANCHOR!r} and {least} to {most} seconds",
                param="expires_after",
            )
        return float(told or 0)

    async def content(self) -> AsyncIterator[bytes]:
        """The file. Raises `InvalidRequest` if something else in the form is wrong."""
        n_said = len(self._form.fields)
        async for event in self._events:
            if isinstance(event, str):
                raise InvalidRequest("only one file can be sent at a time", param=_FILE)
            yield event
        purpose = self._form.fields.get("purpose")
        if purpose != PURPOSE:
            said = "it is missing" if purpose is None else f"not {purpose[:64]!r}"
            raise InvalidRequest(f"purpose must be {PURPOSE!r}, {said}", param="purpose")
        late = [name for name in list(self._form.fields)[n_said:] if name != "purpose"]
        if late:
            raise InvalidRequest(f"{late[0]} must come before the file", param="expires_after")

    async def _read(self) -> AsyncIterator[str | bytes]:
        """The file's name where it begins, and its pieces."""
        form = self._form
        more = True
        while more:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise ClientDisconnect
            more = message.get("more_body", False)
            form.feed(message.get("body", b""))
            while form.events:
                yield form.events.popleft()
        if not form.is_whole:
            raise InvalidRequest("the form breaks off before its end", code="invalid_multipart")


class _Form:
    """What a parser has heard so far."""

    def __init__(self, boundary: bytes) -> None:
        self.fields: dict[str, str] = {}
        self.events: deque[str | bytes] = deque()
        self.is_whole = False
        self._name, self._value = bytearray(), bytearray()
        """Of a header, or of a field."""
        self._disposition = b""
        self._field: str | None = None
        """The one that is being read; None: the file."""
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._begin,
                "on_header_field": self._header_name,
                "on_header_value": self._header_value,
                "on_header_end": self._end_header,
                "on_headers_finished": self._end_headers,
                "on_part_data": self._data,
                "on_part_end": self._end_part,
                "on_end": self._end,
            },
        )

    def feed(self, piece: bytes) -> None:
        """Raises `InvalidRequest`."""
        try:
            self._parser.write(piece)
        except MultipartParseError as error:
            raise InvalidRequest(
                f"the form cannot be read: {error}", code="invalid_multipart"
            ) from None

    def _begin(self) -> None:
        self._disposition = b""
        self._name.clear()
        self._value.clear()

    def _header_name(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _end_header(self) -> None:
        if self._name.lower() == b"content-disposition":
            self._disposition = bytes(self._value)
        self._name.clear()
        self._value.clear()

    def _end_headers(self) -> None:
        _, options = parse_options_header(self._disposition)
        name = options.get(b"name", b"").decode("utf-8", "replace")
        if name == _FILE:
            if b"filename" not in options:
                told = "file must be sent as a file, with a filename"
                raise InvalidRequest(told, param=_FILE)
            self._field = None
            self.events.append(options[b"filename"].decode("utf-8", "replace"))
        elif name in _FIELDS and name not in self.fields:
            self._field = name
        else:
            raise InvalidRequest(
                f"{name[:64]!r} is not taken, or given twice; send {_FILE}, {', '.join(_FIELDS)}",
                param=name[:64],
                code="unknown_parameter",
            )

    def _data(self, data: bytes, start: int, end: int) -> None:
        if self._field is None:
            self.events.append(data[start:end])
            return
        self._value += data[start:end]
        if len(self._value) > _MOST_FIELD_BYTES:
            raise InvalidRequest(f"{self._field} is too long", param=self._field)

    def _end_part(self) -> None:
        if self._field is not None:
            self.fields[self._field] = self._value.decode("utf-8", "replace")
        self._field = None

    def _end(self) -> None:
        self.is_whole = True
