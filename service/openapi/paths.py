"""The routes: what each takes, what it answers, and with which statuses it refuses."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from coe.service.errors import TABLE, UNEXPECTED
from coe.service.openapi.headers import DECIDED, EVERY, RETRY, control_refs, header_refs
from coe.service.openapi.shapes import ANY_TEXT, Schema, ref, told

_BODY = (400, 408, 413, 415)
_GENERATION = (402, 404, 429, 500, 502, 503, 504)
_STREAM = "text/event-stream"
_MEANINGS: Mapping[int, str] = {
    400: "The request is wrong; `param` names the field.",
    401: "The key is missing or unknown.",
    402: "The budget is spent.",
    404: "Not here.",
    408: "The body did not arrive in time.",
    413: "The body is too large.",
    415: "The body is not said to be JSON.",
    429: "Refused for now.",
    500: "The gateway failed.",
    502: "The expert failed.",
    503: "Not now.",
    504: "Not in time.",
    507: "No room to keep it.",
}


@dataclass(frozen=True, slots=True)
class Operation:
    """One method of one path."""

    path: str
    id: str
    summary: str
    answer: str
    """Of a success: the schema's name."""
    takes: str | None = None
    """The schema's name; a request with a body is a POST."""
    refusals: tuple[int, ...] = ()
    method: str = ""
    """Where it is neither a POST with a body nor a GET without one."""
    generates: bool = False
    is_streamable: bool = False
    is_open: bool = False
    """Whether it needs no key where others do."""


_OPERATIONS = (
    Operation(
        "/v1/chat/completions",
        "createChatCompletion",
        "Answers a conversation.",
        "ChatCompletion",
        "ChatRequest",
        (*_BODY, *_GENERATION),
        generates=True,
        is_streamable=True,
    ),
    Operation(
        "/v1/completions",
        "createCompletion",
        "Answers a prompt; experts that are no servers answer it as a chat.",
        "TextCompletion",
        "CompletionRequest",
        (*_BODY, *_GENERATION),
        generates=True,
        is_streamable=True,
    ),
    Operation(
        "/v1/embeddings",
        "createEmbedding",
        "Passes texts on to the expert that is named.",
        "EmbeddingList",
        "EmbeddingRequest",
        (*_BODY, *_GENERATION),
        generates=True,
    ),
    Operation(
        "/v1/responses",
        "createResponse",
        "Answers in the words of the Responses API.",
        "Response",
        "ResponseRequest",
        (*_BODY, *_GENERATION),
        generates=True,
        is_streamable=True,
    ),
    Operation(
        "/v1/responses/{response_id}",
        "getResponse",
        "Tells a response that is kept again.",
        "Response",
        refusals=(404,),
    ),
    Operation(
        "/v1/responses/{response_id}",
        "deleteResponse",
        "Forgets a response.",
        "DeletedResponse",
        refusals=(404,),
        method="delete",
    ),
    Operation(
        "/v1/route",
        "route",
        "Says who would answer a conversation, and asks nobody.",
        "Decision",
        "RouteRequest",
        (*_BODY, 404, 500, 503, 504),
    ),
    Operation(
        "/v1/feedback",
        "giveFeedback",
        "Keeps what a client thought of an answer, for the next fit.",
        "Feedback",
        "FeedbackRequest",
        (*_BODY, 404, 507),
    ),
    Operation("/v1/models", "listModels", "The model that routes, and every expert.", "ModelList"),
    Operation(
        "/v1/models/{model}", "getModel", "One of the models.", "ListedModel", refusals=(404,)
    ),
    Operation("/healthz", "live", "Whether the gateway runs.", "Liveness", is_open=True),
    Operation("/readyz", "ready", "Whether the router can route.", "Readiness", is_open=True),
    Operation("/openapi.json", "describe", "This document.", "Document", is_open=True),
)


def paths(needs_key: bool) -> Mapping[str, Schema]:
    items: defaultdict[str, Schema] = defaultdict(dict)
    for operation in _OPERATIONS:
        item = items[operation.path]
        method = operation.method or ("get" if operation.takes is None else "post")
        item[method] = _described(operation, needs_key)
    return items


def _described(operation: Operation, needs_key: bool) -> Schema:
    asks_key = needs_key and not operation.is_open
    refusals = {*operation.refusals, *((401, 503) if asks_key else ())}
    answers = {"200": _success(operation)}
    answers |= {str(status): _refusal(status) for status in sorted(refusals)}
    if operation.path == "/readyz":
        answers["503"] = _json("Not ready, and why.", operation.answer)
    described: Schema = {
        "operationId": operation.id,
        "summary": operation.summary,
        "parameters": _parameters(operation),
        "responses": answers,
    }
    if operation.takes is not None:
        content = {"application/json": {"schema": ref(operation.takes)}}
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
    takes_controls = operation.generates or operation.id == "route"
    return in_path + (control_refs() if takes_controls else [])


def _success(operation: Operation) -> Schema:
    described = _json(operation.summary, operation.answer)
    if operation.generates:
        described["headers"] = header_refs((*EVERY, *DECIDED))
    if operation.is_streamable:
        events = told(ANY_TEXT, "Server-sent events, where `stream` is true.")
        described["content"][_STREAM] = {"schema": events}
    return described


def _refusal(status: int) -> Schema:
    codes = _codes().get(status, ())
    why = f" Codes: {', '.join(codes)}." if codes else ""
    described = _json(_MEANINGS[status] + why, "Error")
    if status in (429, 503):
        described["headers"] = header_refs((*EVERY, *RETRY))
    return described


def _json(description: str, schema: str) -> Schema:
    return {
        "description": description,
        "headers": header_refs(EVERY),
        "content": {"application/json": {"schema": ref(schema)}},
    }


def _codes() -> Mapping[int, Sequence[str]]:
    """The codes that errors of a status may have."""
    codes: defaultdict[int, list[str]] = defaultdict(list)
    for kind in (*TABLE.values(), UNEXPECTED):
        if kind.code is not None and kind.code not in codes[kind.status]:
            codes[kind.status].append(kind.code)
    return codes
