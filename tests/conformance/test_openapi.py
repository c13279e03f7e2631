"""The gateway's description, and the gateway asked as the description says, by schemathesis."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.strategies import SearchStrategy
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.config import SchemathesisConfig
from schemathesis.core.result import Ok
from schemathesis.schemas import APIOperation
from schemathesis.specs.openapi.checks import negative_data_rejection, positive_data_acceptance
from starlette.applications import Starlette
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from coe.feedback_log import FeedbackLog
from coe.service.app import create_app
from coe.service.errors import TABLE
from coe.service.openapi.document import openapi_document
from coe.service.openapi.shapes import PASSED_ON
from coe.service.settings import ServiceSettings
from coe.store import StoreSettings, open_store

Document = dict[str, Any]
Operation = APIOperation[Any, Any, Any, Any]
Case = schemathesis.Case[Any]

FEW = 6
MANY = 700
"""Of each operation and kind; comes to more than 20,000 with the boundary cases."""
_CHECKS = {
    # The body may be over the size that the gateway takes, too.
    "negative_data_rejection": {"expected-statuses": ["4xx"]},
}
_CONFIG = {
    "generation": {"deterministic": True, "allow-extra-parameters": False},
    "checks": _CHECKS,
    # Or what is drawn would change with every word of our source.
    "analysis": {"constants": {"enabled": False}},
}
_QUICK = ("POST /v1/completions", "POST /v1/feedback", "GET /v1/batches", "GET /healthz")
"""To be drawn from in no time."""
_FORMS = ("POST /v1/files",)
"""Where what is wrong may be lost as it is written: an empty list leaves no field."""
_UNSERVED = ("POST /v1/embeddings", "POST /v1/files", "POST /v1/batches")
"""Experts that speak text have no embeddings, and a form has an order that no schema tells."""


class _Lasting:
    """An app that is begun and ended by nobody: schemathesis would do so at the process's end."""

    def __init__(self, app: Starlette) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await self._app(scope, receive, send)


@pytest.fixture(scope="module")
def app(compose: Any, tmp_path_factory: pytest.TempPathFactory) -> Starlette:
    folder: Path = tmp_path_factory.mktemp("state")
    return create_app(
        compose(),
        feedback=FeedbackLog(folder / "feedback.jsonl"),
        store=open_store(StoreSettings(folder / "store")),
    )


@pytest.fixture
def document() -> Document:
    """With the names that there are in this pool, so that requests come past the catalogue."""
    described: Document = json.loads(json.dumps(openapi_document(ServiceSettings(), True)))
    schemas = described["components"]["schemas"]
    schemas["Model"] = {"enum": ["coe", "sums", "lands"]}
    schemas["Expert"] = {"enum": ["sums", "lands"]}
    schemas["Policy"] = {"enum": ["top-1", "top-2"]}
    parameters = described["components"]["parameters"]
    parameters["x-coe-experts"]["schema"] = {"enum": ["sums", "lands,sums"]}
    return described


def _for_everybody(document: Document) -> Document:
    """Without what only experts that are servers take, and with time enough for an answer."""
    schemas = document["components"]["schemas"]
    for node in list(_objects(document)):
        if "anyOf" in node:
            node["anyOf"] = [one for one in node["anyOf"] if not _is_passed_on(one, schemas)]
        fields: Document = node.get("properties", {})
        for name, field in fields.items():
            if _is_passed_on(field, schemas):
                fields[name] = {"type": "null"}
    schemas["Model"] = {"enum": ["coe"]}  # an expert that is named has to be one that may answer
    for part in ("TextPart", "ResponseTextPart"):
        schemas[part]["additionalProperties"] = False  # one could be the address of an image
    schemas["Control"]["properties"]["timeout_s"] = {"type": "number", "minimum": 60}
    document["components"]["parameters"]["x-coe-timeout"]["schema"] = {"enum": ["60", "600.5"]}
    return document


def _is_passed_on(schema: Document, schemas: Document) -> bool:
    name = schema.get("$ref", "").rpartition("/")[2]
    return bool(schema.get(PASSED_ON) or schemas.get(name, {}).get(PASSED_ON))


def _objects(node: Any) -> Iterator[Document]:
    """Every object within, the inner before the outer."""
    if isinstance(node, dict):
        yield from _within(node.values())
        yield node
    elif isinstance(node, list):
        yield from _within(node)


def _within(nodes: Iterable[Any]) -> Iterator[Document]:
    for node in nodes:
        yield from _objects(node)


def _operations(document: Document, app: Starlette) -> Iterator[Operation]:
    config = SchemathesisConfig.from_dict(_CONFIG)
    schema = schemathesis.openapi.from_dict(document, config=config)
    schema.app = _Lasting(app)
    for operation in schema.get_all_operations():
        assert isinstance(operation, Ok), operation
        yield operation.ok()


def _modes(operation: Operation) -> list[GenerationMode]:
    """A path alone can have nothing wrong in it."""
    takes_anything = bool(operation.body or operation.query)
    return list(GenerationMode) if takes_anything else [GenerationMode.POSITIVE]


def _fuzzed(operation: Operation, modes: list[GenerationMode], n: int) -> Iterator[Case]:
    """As many cases of each mode."""
    for mode in modes:
        yield from _drawn(operation.as_strategy(generation_mode=mode), n)


def _drawn(strategy: SearchStrategy[Case], n: int) -> list[Case]:
    cases: list[Case] = []

    @settings(
        max_examples=n,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=strategy)
    def draw(case: Case) -> None:
        cases.append(case)

    draw()
    return cases


def _boundaries(operation: Operation, modes: list[GenerationMode]) -> Iterator[Case]:
    """Cases just within and just beyond what is described."""
    schema = operation.schema
    yield from schema.iter_coverage_cases(
        operation, generation_modes=modes, generation_config=schema.config.generation
    )


def _whole_numbers(value: Any) -> Any:
    """With 3.0 as 3: to JSON schemas they are one, to the gateway 3.0 is not whole."""
    if isinstance(value, dict):
        return {key: _whole_numbers(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_whole_numbers(inner) for inner in value]
    is_whole = isinstance(value, float) and value.is_integer() and abs(value) < 2**53
    return int(value) if is_whole else value


def _explains(case: Case) -> int:
    """Asks, and checks that the answer is one that the description foresees."""
    response = case.call()
    excluded: list[Any] = [positive_data_acceptance, not_a_server_error]
    if case.operation.label in _FORMS:
        excluded.append(negative_data_rejection)
    case.validate_response(response, excluded_checks=excluded)
    if response.status_code >= 500:
        # Only what the client gave too little time for.
        assert json.loads(response.content)["error"]["code"] == "deadline_exceeded", case
    return response.status_code


def _accepts(case: Case) -> int:
    case.body = _whole_numbers(case.body)
    response = case.call()
    case.validate_response(response)
    return response.status_code


def test_description_names_every_route_and_no_other(app: Starlette, document: Document) -> None:
    described = {
        (path, method.upper()) for path, item in document["paths"].items() for method in item
    }
    served = {
        (route.path.replace(":path", ""), method)
        for route in app.routes
        if isinstance(route, Route)
        for method in (route.methods or set()) - {"HEAD"}
    }
    assert described == served


def test_description_refers_to_what_it_has_and_to_nothing_else(document: Document) -> None:
    referred = {str(node["$ref"]) for node in _objects(document) if "$ref" in node}
    components = document["components"]
    assert referred == {
        f"#/components/{kind}/{name}" for kind in components for name in components[kind]
    }


def test_description_tells_every_code_of_an_error() -> None:
    document = openapi_document(ServiceSettings(needs_key=True), keeps_files=True)
    told = [
        answer["description"]
        for item in document["paths"].values()
        for operation in item.values()
        for answer in operation["responses"].values()
    ]
    for kind in TABLE.values():
        assert any(str(kind.code) in description for description in told), kind


def test_description_asks_for_keys_only_where_they_are_needed() -> None:
    locked = openapi_document(ServiceSettings(needs_key=True))
    assert locked["paths"]["/v1/models"]["get"]["security"]
    assert "security" not in locked["paths"]["/healthz"]["get"]
    assert "security" not in json.dumps(openapi_document(ServiceSettings())["paths"])


def test_few_requests_of_any_kind_are_answered_or_explained(
    app: Starlette, document: Document
) -> None:
    statuses = Counter[int]()
    for operation in _operations(document, app):
        if operation.label in _QUICK:
            for case in _fuzzed(operation, _modes(operation), FEW):
                statuses[_explains(case)] += 1
    assert {200, 400} <= statuses.keys() <= {200, 400, 404, 413, 504}


def test_few_requests_that_the_description_allows_are_served(
    app: Starlette, document: Document
) -> None:
    for operation in _operations(_for_everybody(document), app):
        if operation.label in _QUICK and operation.label not in _UNSERVED:
            for case in _fuzzed(operation, [GenerationMode.POSITIVE], FEW):
                _accepts(case)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_many_requests_of_any_kind_are_answered_or_explained(
    app: Starlette, document: Document
) -> None:
    statuses = Counter[int]()
    for operation in _operations(document, app):
        modes = _modes(operation)
        for case in chain(_boundaries(operation, modes), _fuzzed(operation, modes, MANY)):
            statuses[_explains(case)] += 1
    assert statuses.total() >= 20_000, statuses


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_many_requests_that_the_description_allows_are_served(
    app: Starlette, document: Document
) -> None:
    modes = [GenerationMode.POSITIVE]
    for operation in _operations(_for_everybody(document), app):
        if operation.label in _UNSERVED:
            continue
        for case in chain(_boundaries(operation, modes), _fuzzed(operation, modes, MANY)):
            _accepts(case)
