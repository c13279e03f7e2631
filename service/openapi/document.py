"""`GET /openapi.json`: every route of the gateway, with all that it takes and answers."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

from starlette.types import Receive, Scope, Send

from coe.errors import DISTRIBUTION
from coe.service.gateway import Gateway
from coe.service.openapi.answers import answer_schemas
from coe.service.openapi.files import file_schemas, query_components
from coe.service.openapi.headers import header_components, parameter_components
from coe.service.openapi.operations import FILES, GENERATION, OTHERS
from coe.service.openapi.paths import paths
from coe.service.openapi.requests import request_schemas
from coe.service.openapi.responses import responses_schemas
from coe.service.openapi.shapes import ANY_TEXT, OBJECT, answer
from coe.service.reply import send_body, to_json
from coe.service.settings import ServiceSettings

_ABOUT = """\
One OpenAI-compatible door to a pool of experts. The model `coe` has the gateway choose who
answers; every other model is an expert, and answers itself.

Bodies are JSON objects that nest at most {max_depth} deep. Fields that are not named here are
ignored, or go to an expert that is a server as they came; fields that would choose where a
request is sent, such as `api_base`, are refused. Whatever fails is answered with an `Error`.
"""


def openapi_document(settings: ServiceSettings, keeps_files: bool = False) -> Mapping[str, Any]:
    """The document of a gateway with these settings. `keeps_files`: whether it takes batches."""
    components: dict[str, Any] = {
        "schemas": {
            **request_schemas(settings),
            **responses_schemas(settings.limits),
            **answer_schemas(),
            "Document": answer({"openapi": ANY_TEXT, "info": OBJECT, "paths": OBJECT}),
        },
        "parameters": {**parameter_components()},
        "headers": header_components(),
    }
    operations = (*GENERATION, *OTHERS, *(FILES if keeps_files else ()))
    if keeps_files:
        components["schemas"] |= file_schemas()
        components["parameters"] |= query_components()
    if settings.needs_key:
        components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "CoE",
            "version": version(DISTRIBUTION),
            "description": _ABOUT.format(max_depth=settings.limits.max_depth),
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "paths": paths(operations, settings.needs_key),
        "components": components,
    }


class Description:
    """The route. What it tells is written once."""

    def __init__(self, gateway: Gateway) -> None:
        document = openapi_document(gateway.settings, keeps_files=gateway.store is not None)
        self._body = to_json(document)

    async def show(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send_body(send, self._body)
