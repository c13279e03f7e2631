"""The routes as data: what each takes, what it answers, and with which statuses it refuses."""

from __future__ import annotations

from dataclasses import dataclass

_BODY = (400, 408, 413, 415, 503)
_GENERATION = (402, 404, 429, 500, 502, 504)


@dataclass(frozen=True, slots=True)
class Operation:
    """One method of one path."""

    path: str
    id: str
    summary: str
    answer: str | None
    """Of a success: the schema's name. None: what it answers is not JSON."""
    takes: str | None = None
    """The schema's name; None: no body."""
    refusals: tuple[int, ...] = ()
    method: str = ""
    """Where it is neither a POST with a body nor a GET without one."""
    query: tuple[str, ...] = ()
    """Names of parameters."""
    generates: bool = False
    is_form: bool = False
    """Whether the body is a form and not JSON."""
    chunk: str | None = None
    """Of a stream: the schema's name of what one event tells."""
    media: tuple[str, ...] = ("application/json",)
    """Types of a success, any of them where there are several."""
    is_open: bool = False
    """Whether it needs no key where others do."""


GENERATION = (
    Operation(
        "/v1/chat/completions",
        "createChatCompletion",
        "Answers a conversation.",
        "ChatCompletion",
        "ChatRequest",
        (*_BODY, *_GENERATION),
        generates=True,
        chunk="ChatCompletionChunk",
    ),
    Operation(
        "/v1/completions",
        "createCompletion",
        "Answers a prompt; experts that are no servers answer it as a chat.",
        "TextCompletion",
        "CompletionRequest",
        (*_BODY, *_GENERATION),
        generates=True,
        chunk="TextCompletionChunk",
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
        chunk="ResponseEvent",
    ),
)
OTHERS = (
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
        (*_BODY, 404, 500, 504),
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
    Operation(
        "/metrics",
        "metrics",
        "What the gateway counts, for Prometheus.",
        None,
        media=("text/plain", "application/openmetrics-text"),
    ),
    Operation("/openapi.json", "describe", "This document.", "Document", is_open=True),
)
FILES = (
    Operation(
        "/v1/files",
        "createFile",
        "Keeps a file of requests, for a batch.",
        "File",
        "FileForm",
        _BODY,
        is_form=True,
    ),
    Operation(
        "/v1/files",
        "listFiles",
        "The files that are kept, the newest first.",
        "FileList",
        refusals=(400, 404, 503),
        query=("file_limit", "after", "order", "purpose"),
    ),
    Operation("/v1/files/{file_id}", "getFile", "One file.", "File", refusals=(404, 503)),
    Operation(
        "/v1/files/{file_id}",
        "deleteFile",
        "Forgets a file.",
        "DeletedFile",
        refusals=(404, 503),
        method="delete",
    ),
    Operation(
        "/v1/files/{file_id}/content",
        "getFileContent",
        "What is in a file.",
        None,
        refusals=(404, 503),
        media=("application/octet-stream",),
    ),
    Operation(
        "/v1/batches",
        "createBatch",
        "Answers all requests of a file, in its own time.",
        "Batch",
        "BatchRequest",
        (*_BODY, 404, 429),
    ),
    Operation(
        "/v1/batches",
        "listBatches",
        "The batches, the newest first.",
        "BatchList",
        refusals=(400, 404, 503),
        query=("batch_limit", "after"),
    ),
    Operation("/v1/batches/{batch_id}", "getBatch", "One batch.", "Batch", refusals=(404, 503)),
    Operation(
        "/v1/batches/{batch_id}/cancel",
        "cancelBatch",
        "Ends a batch; what was answered is kept.",
        "Batch",
        refusals=(404, 409, 503),
        method="post",
    ),
)
