"""Lines of OpenAI's batch format: requests in, answers and errors out.

https://platform.openai.com/docs/guides/batch: a request is `{"custom_id", "method": "POST", "url":
"/v1/chat/completions", "body"}`, an answer `{"id", "custom_id", "response": {"status_code",
"request_id", "body"}, "error"}`, and answers may come in any order.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import orjson

from coe.composition import Answering
from coe.errors import DatasetError, nearest
from coe.service.chunks import completion_body
from coe.service.errors import InvalidRequest, answer_for
from coe.service.reply import to_json
from coe.service.wire import ChatCall, read_chat
from coe.types import Completion

URL = "/v1/chat/completions"
_MOST_TOLD = 5
_KEYS = ("custom_id", "method", "url", "body")


@dataclass(frozen=True, slots=True)
class BatchRequest:
    """One line of the input, checked."""

    custom_id: str
    request_id: str
    """Of the line: the same each time it is run, and another if anything of it is changed."""
    call: ChatCall


class BatchFile:
    """The requests of a file that was checked, in order. In memory are only their places."""

    def __init__(
        self, file: Path, models: Collection[str], places: Mapping[str, tuple[int, str]]
    ) -> None:
        """`places`: by custom id, where its line begins, and its request id."""
        self._file = file
        self._models = models
        self._places = places

    def __len__(self) -> int:
        return len(self._places)

    @property
    def request_ids(self) -> Mapping[str, str]:
        """By custom id, in order."""
        return {custom_id: request_id for custom_id, (_, request_id) in self._places.items()}

    def requests(self, custom_ids: Iterable[str]) -> list[BatchRequest]:
        """Read again. Raises `DatasetError` if the file is no longer the one that was checked."""
        try:
            with self._file.open("rb") as file:
                return [self._read(file, custom_id) for custom_id in custom_ids]
        except OSError as error:
            raise DatasetError(f"{self._file}: cannot be read: {error}") from None

    def _read(self, file: BinaryIO, custom_id: str) -> BatchRequest:
        begin, request_id = self._places[custom_id]
        file.seek(begin)
        line = file.readline()
        if _request_id(line) != request_id:
            raise DatasetError(f"{self._file}: was changed while it was being answered")
        return _request(line, self._models)


def read_requests(file: Path, models: Collection[str]) -> BatchFile:
    """Checks every request of the file; blank lines are passed over.

    Nothing is asked of a file with a wrong line in it: raises `DatasetError` that names the first
    few of them by number.
    """
    wrong: list[str] = []
    places: dict[str, tuple[int, str]] = {}
    for number, begin, line in _lines(file):
        try:
            request = _request(line, models)
            if request.custom_id in places:
                raise ValueError(f"custom_id {request.custom_id!r} was used before")
            places[request.custom_id] = (begin, request.request_id)
        except ValueError as error:
            wrong.append(f"line {number}: {error}")
            if len(wrong) == _MOST_TOLD:
                break
    if wrong:
        raise DatasetError(f"{file}: " + "; ".join(wrong))
    if not places:
        raise DatasetError(f"{file}: holds no request")
    return BatchFile(file, models, places)


def answer_line(request: BatchRequest, answer: Answering, model: str, whole: Completion) -> bytes:
    """The line of an answer; `coe` in its body names who gave it."""
    body = completion_body(f"chatcmpl-{request.request_id}", model, whole)
    body["coe"] = {"experts": answer.decision.experts, "router": answer.decision.router}
    return _line(request, 200, body)


def error_line(request: BatchRequest, error: Exception) -> bytes:
    """The line of a request that could not be answered, as the gateway would have told it."""
    told = answer_for(error, request.request_id)
    return _line(request, told.status, told.envelope)


def _line(request: BatchRequest, status: int, body: object) -> bytes:
    response = {"status_code": status, "request_id": request.request_id, "body": body}
    return to_json(
        {
            "id": request.request_id,
            "custom_id": request.custom_id,
            "response": response,
            "error": None,
        }
    )


def _lines(file: Path) -> Iterator[tuple[int, int, bytes]]:
    """The number of each line that is not blank, where it begins, and the line."""
    begin = 0
    try:
        with file.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    yield number, begin, line
                begin += len(line)
    except OSError as error:
        raise DatasetError(f"{file}: cannot be read: {error}") from None


def _request(line: bytes, models: Collection[str]) -> BatchRequest:
    """Raises ValueError that says what is wrong."""
    raw = _object(line)
    custom_id = raw["custom_id"]
    if not isinstance(custom_id, str) or not custom_id:
        raise ValueError("custom_id must be a string that is not empty")
    if raw["method"] != "POST" or raw["url"] != URL:
        raise ValueError(f"only POST {URL} is known, not {raw['method']} {raw['url']}")
    try:
        call = read_chat(orjson.dumps(raw["body"]))
    except InvalidRequest as error:
        raise ValueError(f"body: {error}") from None
    if call.model not in models:
        guess = nearest(call.model, models)
        hint = f"; did you mean {guess!r}?" if guess else ""
        raise ValueError(f"body: no model {call.model!r} (known: {', '.join(models)}){hint}")
    if call.is_streamed:
        raise ValueError("body: stream cannot be true in a batch")
    generation = replace(call.generation, id=call.generation.id or custom_id)
    return BatchRequest(custom_id, _request_id(line), replace(call, generation=generation))


def _request_id(line: bytes) -> str:
    return "batch_req_" + hashlib.sha256(line.strip()).hexdigest()[:24]


def _object(line: bytes) -> dict[str, Any]:
    try:
        raw = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise ValueError(f"not JSON: {error}") from None
    if not isinstance(raw, dict):
        raise ValueError("must be a JSON object")
    for key in _KEYS:
        if key not in raw:
            raise ValueError(f"{key} is missing")
    for key in raw:
        if key not in _KEYS:
            raise ValueError(f"unknown key {key!r} (known: {', '.join(_KEYS)})")
    return raw
