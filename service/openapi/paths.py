"""The routes as OpenAPI writes them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from coe.service.errors import TABLE, UNEXPECTED
from coe.service.openapi.headers import DECIDED, EVERY, RETRY, control_refs, header_refs
from coe.service.openapi.operations import Operation
from coe.service.openapi.shapes import ANY_TEXT, Schema, any_of, one_of, record, ref

_JSON = "application/json"
_FORM = "multipart/form-data"
_STREAM = "text/event-stream"
_MEANINGS: Mapping[int, str] = {
    400: "The request is wrong; `param` names the field.",
    401: "The key is missing or unknown.",
    402: "The budget is spent.",
    404: "Not here.",
    408: "The body did not arrive in time.",
    409: "Too late for that.",
    413: "The body is too large.",
    415: "The body is not said to be JSON.",
    429: "Refused for now.",
    500: "The gateway failed.",
    502: "The expert failed.",
    503: "Not now.",
    504: "Not in time.",
    507: "No room to keep it.",
}


def paths(operations: Sequence[Operation], needs_key: bool) -> Mapping[str, Schema]:
    items: defaultdict[str, Schema] = defaultdict(dict)
    for operation in operations:
        method = operation.method or ("get" if operation.takes is None else "post")
        items[operation.path][method] = _described(operation, needs_key)
    return items


def _described(operation: Operation, needs_key: bool) -> Schema:
    asks_key = needs_key and not operation.is_open
    refusals = {*operation.refusals, *((401, 503) if asks_key else ())}
    answers = {"200": _success(operation)}
    answers |= {str(status): _refusal(status) for status in sorted(refusals)}
    if operation.id == "ready":
        answers["503"] = _answer("Not ready, and why.", operation.answer)
    described: Schema = {
        "operationId": operation.id,
        "summary": operation.summary,
        "parameters": _parameters(operation),
        "responses": answers,
    }
    if operation.takes is not None:
        kind = _FORM if operation.is_form else _JSON
        content = {kind: {"schema": ref(operation.takes)}}
        described["requestBody"] = {"required": True, "content": content}
    if asks_key:
        described["security"] = [{"key": []}]
    return described


def _parameters(operation: Operation) -> list[Schema]:
    names = [part[1:-1] for part in operation.path.split("/") if part.startswith("{")]
    in_path = [
        {"name": name, "in": "path", "required": True, "schema": {**ANY_TEXT, "minLength": 1}}
        for name in names
    ]
    in_query = [{"$ref": f"#/components/parameters/{name}"} for name in operation.query]
    takes_controls = operation.generates or operation.id == "route"
    return in_path + in_query + (control_refs() if takes_controls else [])


def _success(operation: Operation) -> Schema:
    described = _answer(operation.summary, operation.answer, operation.media)
    if operation.generates:
        described["headers"] = header_refs((*EVERY, *DECIDED))
    if operation.chunk is not None:
        described["content"][_STREAM] = {"schema": _event(operation.chunk)}
    return described


def _event(chunk: str) -> Schema:
    """Where `stream` is true, one of the server-sent events."""
    told = any_of(ref(chunk), ref("Error"))
    in_json = {**ANY_TEXT, "contentMediaType": _JSON, "contentSchema": told}
    return record({"event": ANY_TEXT, "data": any_of(one_of("[DONE]"), in_json)}, ["data"])


def _refusal(status: int) -> Schema:
    codes = _codes()[status]
    why = f" Codes: {', '.join(codes)}." if codes else ""
    described = _answer(_MEANINGS[status] + why, "Error")
    if status in (429, 503):
        described["headers"] = header_refs((*EVERY, *RETRY))
    return described


def _answer(description: str, schema: str | None, media: Sequence[str] = (_JSON,)) -> Schema:
    content: Schema = {} if schema is None else {"schema": ref(schema)}
    return {
        "description": description,
        "headers": header_refs(EVERY),
        "content": {kind: {**content} for kind in media},
    }


def _codes() -> Mapping[int, Sequence[str]]:
    """The codes that errors of a status may have."""
    codes: defaultdict[int, list[str]] = defaultdict(list)
    for kind in (*TABLE.values(), UNEXPECTED):
        if kind.code is not None and kind.code not in codes[kind.status]:
            codes[kind.status].append(kind.code)
    return codes
