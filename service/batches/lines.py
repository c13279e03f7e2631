"""Lines of OpenAI's batch format: the requests of a file, checked. `written` has the answers.

https://platform.openai.com/docs/guides/batch: a request is `{"custom_id", "method": "POST", "url":
"/v1/chat/completions", "body"}`, an answer `{"id", "custom_id", "response": {"status_code",
"request_id", "body"}, "error"}`, and answers may come in any order.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO

import orjson

from coe.errors import DatasetError, nearest
from coe.service.bounds import check_bounds, check_nesting
from coe.service.completions import read_completions_call
from coe.service.control import UNSAID, Control
from coe.service.embeddings import read_embeddings_call
from coe.service.errors import InvalidRequest
from coe.service.generation import Read, capped, read_chat_call, wish_of
from coe.service.request_limits import RequestLimits
from coe.service.responses.route import Responses
from coe.service.telling import Telling
from coe.service.wire import ChatCall
from coe.wishes import Wish

URL = "/v1/chat/completions"
READS: Mapping[str, Read] = {
    URL: read_chat_call,
    "/v1/completions": read_completions_call,
    "/v1/embeddings": read_embeddings_call,
    "/v1/responses": Responses().read_line,
}
"""How the body of a line is read, by its url."""
_MOST_TOLD = 5
_MOST_ID_CHARS = 512
_KEYS = ("custom_id", "method", "url", "body")

Passing = Callable[[str], Collection[str]]
"""A route → the experts that take its requests as they come."""


@dataclass(frozen=True, slots=True)
class LineRules:
    """What the lines of a file may say."""

    models: Sequence[str] | None
    """The first of them routes. None: nobody looks whether there is such a model."""
    urls: Collection[str] = tuple(READS)
    passing: Passing | None = None
    """None: nobody looks whether there is an expert for what only its own server understands."""
    limits: RequestLimits = field(default_factory=RequestLimits)
    tenant: str = ""
    """Who asks."""
    experts: tuple[str, ...] | None = None
    """Whom alone they may ask; None: all."""
    max_priority: int | None = None
    """The highest that they go at among the lines of batches."""


@dataclass(frozen=True, slots=True)
class BatchRequest:
    """One line of the input, checked."""

    custom_id: str
    request_id: str
    """Of the line: the same each time it is run, and another if anything of it is changed."""
    call: ChatCall
    telling: Telling
    wish: Wish
    n_bytes: int
    """Of the line."""


@dataclass(frozen=True, slots=True)
class WrongLine:
    """What is wrong with a line; `code` and `param` as OpenAI's API tells errors."""

    number: int
    """From 1."""
    message: str
    code: str
    param: str | None = None

    def __str__(self) -> str:
        return f"line {self.number}: {self.message}"


class BatchFile:
    """The requests of a file that was checked, in order. In memory are only their places."""

    def __init__(self, file: Path, rules: LineRules, places: Mapping[str, tuple[int, str]]) -> None:
        """`places`: by custom id, where its line begins, and its request id."""
        self._file = file
        self._rules = rules
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
        return _request(line, self._rules)


def read_requests(file: Path, models: Sequence[str], passing: Passing | None = None) -> BatchFile:
    """Checks every request of the file; blank lines are passed over.

    Nothing is asked of a file with a wrong line in it: raises `DatasetError` that names the first
    few of them by number.
    """
    requests, wrong = check_requests(file, LineRules(models, passing=passing), _MOST_TOLD)
    if wrong:
        raise DatasetError(f"{file}: " + "; ".join(map(str, wrong)))
    if not len(requests):
        raise DatasetError(f"{file}: holds no request")
    return requests


def check_requests(
    file: Path, rules: LineRules, most_wrong: int, most_requests: int | None = None
) -> tuple[BatchFile, list[WrongLine]]:
    """The requests that are right, and the first lines that are wrong; a request too many is one.

    Raises `DatasetError` if the file cannot be read.
    """
    wrong: list[WrongLine] = []
    places: dict[str, tuple[int, str]] = {}
    for number, begin, line in _lines(file):
        try:
            request = _request(line, rules)
            _check_model(request.call, rules)
            if request.custom_id in places:
                told = f"custom_id {request.custom_id!r} was used before"
                raise InvalidRequest(told, param="custom_id", code="duplicate_custom_id")
            if len(places) == most_requests:
                told = f"is one request too many: a batch has at most {most_requests}; split it"
                raise InvalidRequest(told, code="too_many_requests")
            places[request.custom_id] = (begin, request.request_id)
        except InvalidRequest as error:
            wrong.append(WrongLine(number, str(error), error.code, error.param))
            if len(wrong) == most_wrong or error.code == "too_many_requests":
                break
    return BatchFile(file, rules, places), wrong


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


def _request(line: bytes, rules: LineRules) -> BatchRequest:
    """Raises `InvalidRequest`."""
    raw = _object(line, rules.limits)
    custom_id, body = raw["custom_id"], raw["body"]
    if not isinstance(custom_id, str) or not 0 < len(custom_id) <= _MOST_ID_CHARS:
        told = f"custom_id must be a string of 1 to {_MOST_ID_CHARS} characters"
        raise InvalidRequest(told, param="custom_id")
    if raw["method"] != "POST" or raw["url"] not in rules.urls:
        told = f"only POST {' or '.join(rules.urls)} is known, not {raw['method']} {raw['url']}"
        raise InvalidRequest(told, param="url", code="mismatched_endpoint")
    try:
        call, telling, wish = _read(body, raw["url"], rules)
    except InvalidRequest as error:
        param = "body" if error.param is None else f"body.{error.param}"
        raise InvalidRequest(f"body: {error}", param=param, code=error.code) from None
    generation = replace(call.generation, id=call.generation.id or custom_id)
    call = replace(call, generation=generation)
    return BatchRequest(custom_id, _request_id(line), call, telling, wish, len(line))


def _read(body: object, url: str, rules: LineRules) -> tuple[ChatCall, Telling, Wish]:
    if not isinstance(body, dict):
        raise InvalidRequest("must be a JSON object", code="invalid_type")
    check_bounds(body, rules.limits)
    call, telling = READS[url](body, UNSAID, rules.tenant)
    if call.is_streamed:
        raise InvalidRequest("stream cannot be true in a batch", param="stream")
    if call.timeout_s is not None:
        raise InvalidRequest("coe.timeout_s has no meaning in a batch", param="coe.timeout_s")
    is_named = call.control.affinity is not None or body.get("prompt_cache_key") is not None
    if not is_named:
        # Lines that begin alike are no conversation.
        call = replace(call, generation=replace(call.generation, session=None))
    wish = wish_of(_within(call.control, rules.experts), rules.limits.max_recruited)
    return capped(call, rules.max_priority), telling, wish


def _within(control: Control, experts: tuple[str, ...] | None) -> Control:
    if experts is None:
        return control
    wished = control.experts
    left = experts if wished is None else tuple(id_ for id_ in wished if id_ in experts)
    if not left:
        raise InvalidRequest("this key may ask none of these experts", param="coe.experts")
    return replace(control, experts=left)


def _check_model(call: ChatCall, rules: LineRules) -> None:
    """Whether there is somebody for it, now: not looked at again when the line is."""
    if rules.models is None:
        return
    if call.model not in rules.models:
        guess = nearest(call.model, rules.models)
        hint = f"; did you mean {guess!r}?" if guess else ""
        told = f"body: no model {call.model!r} (known: {', '.join(rules.models)}){hint}"
        raise InvalidRequest(told, param="body.model", code="model_not_found")
    if rules.passing is not None:
        try:
            check_able(call, rules.models[0], rules.passing)
        except InvalidRequest as error:
            raise InvalidRequest(
                f"body: {error}", param=f"body.{error.param}", code=error.code
            ) from None


def check_able(call: ChatCall, routed_model: str, passing: Passing) -> None:
    """Raises the call's complaint if nobody whom it may be put to can answer it as it is."""
    raw = call.generation.raw
    if call.complaint is None or raw is None:
        return
    able = passing(raw.route)
    if not able or (call.model != routed_model and call.model not in able):
        raise call.complaint


def _request_id(line: bytes) -> str:
    return "batch_req_" + hashlib.sha256(line.strip()).hexdigest()[:24]


def _object(line: bytes, limits: RequestLimits) -> dict[str, Any]:
    check_nesting(line, limits.max_depth + 1)
    try:
        raw = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise InvalidRequest(f"not JSON: {error}", code="invalid_json_line") from None
    if not isinstance(raw, dict):
        raise InvalidRequest("must be a JSON object", code="invalid_json_line")
    for key in _KEYS:
        if key not in raw:
            raise InvalidRequest(f"{key} is missing", param=key, code="missing_parameter")
    for key in raw:
        if key not in _KEYS:
            known = ", ".join(_KEYS)
            raise InvalidRequest(f"unknown key {key!r} (known: {known})", param=key)
    return raw
