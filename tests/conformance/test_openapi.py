"""The gateway's description, and the gateway asked as the description says, by schemathesis."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import Case, GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.config import SchemathesisConfig
from schemathesis.core.failures import FailureGroup
from schemathesis.schemas import APIOperation
from schemathesis.specs.openapi.checks import positive_data_acceptance
from starlette.applications import Starlette
from starlette.routing import Route

from coe.feedback_log import FeedbackLog
from coe.service.app import create_app
from coe.service.errors import TABLE
from coe.service.openapi.document import openapi_document
from coe.service.openapi.shapes import PASSED_ON
from coe.service.settings import ServiceSettings
from coe.store import StoreSettings, open_store

Document = dict[str, Any]

FEW = 8
MANY = 900
"""Of each operation and kind; comes to more than 20,000 with the boundary cases."""
_CHECKS = {
    # The body may be over the size that the gateway takes, too.
    "negative_data_rejection": {"expected-statuses": ["4xx"]},
}
_CONFIG = {
    "generation": {"deterministic": True, "allow-extra-parameters": False},
    "checks": _CHECKS,
}
_TIMEOUTS = ("deadline_exceeded",)


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
