"""The dashboard asks only for what a gateway that was used tells, and a hosted pool tells more."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from coe.assembly import load_operated
from coe.service.app import gateway_app
from coe.service.gateway import Gateway

POOL = """
experts:
  - {id: a, engine: {kind: scripted, default: a}, footprint: {gib: 1}}
  - {id: b, engine: {kind: scripted, default: b}, footprint: {gib: 1}}
router: {scorer: random}
local_memory_gib: 1
"""
_WORD = re.compile(r"(?<![\w.])[a-zA-Z_:][a-zA-Z0-9_:]*")
_QUOTED = re.compile(r'"[^"]*"')
_BRACES = re.compile(r"\{[^}]*\}")
_GROUPING = re.compile(r"\b(?:by|without|on|ignoring)\s*\([^)]*\)")
_RANGE = re.compile(r"\[[^\]]*\]")
_LABEL_VALUES = re.compile(r"label_values\(([^,)]+),\s*\w+\)")
_PROMQL = {"sum", "rate", "increase", "histogram_quantile", "max", "or", "clamp_min", "topk"}


@pytest.fixture(scope="module")
def dashboard(repository: Path) -> dict[str, Any]:
    path = repository / "examples" / "grafana" / "coe-dashboard.json"
    told: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return told


@pytest.fixture
async def scraped(tmp_path: Path) -> str:
    """Of a hosted pool whose second expert had to wait for the first one's memory."""
    file = tmp_path / "experts.yaml"
    file.write_text(POOL, encoding="utf-8")
    composition, operator = load_operated(file)
    app = gateway_app(Gateway(composition, site=operator.site))
    async with _client(app) as client:
        for model in ("a", "b", "a"):
            body = {"model": model, "messages": [{"role": "user", "content": "hi"}]}
            assert (await client.post("/v1/chat/completions", json=body)).status_code == 200
    async with _client(app) as client:
        text = (await client.get("/metrics")).text
    await composition.stop(1.0)
    return text


def _client(app: Any) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://coe")


def _queries(dashboard: dict[str, Any]) -> Iterator[str]:
    for panel in dashboard["panels"]:
        for target in panel.get("targets", ()):
            yield target["expr"]
    for variable in dashboard["templating"]["list"]:
        if variable["type"] == "query":
            yield from _LABEL_VALUES.findall(variable["definition"])


def _metrics_in(query: str) -> set[str]:
    for noise in (_QUOTED, _BRACES, _GROUPING, _RANGE):
        query = noise.sub(" ", query)
    return set(_WORD.findall(query)) - _PROMQL


def _names(text: str) -> set[str]:
    """Every name that can be asked for, also of families that have no sample yet."""
    names = set()
    for family in text_string_to_metric_families(text):
        suffixes = {"counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"]}
        names |= {family.name + suffix for suffix in suffixes.get(family.type, [""])}
    return names


async def test_dashboard_asks_only_for_metrics_that_exist(
    dashboard: dict[str, Any], scraped: str
) -> None:
    asked = {name for query in _queries(dashboard) for name in _metrics_in(query)}
    assert len(asked) > 20
    assert asked - _names(scraped) == set()


def test_dashboard_can_be_imported(dashboard: dict[str, Any]) -> None:
    assert dashboard["id"] is None
    assert dashboard["uid"] == "coe-gateway"
    assert dashboard["schemaVersion"] >= 39
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(set(ids)) == len(ids)
    assert dashboard["templating"]["list"][0]["type"] == "datasource"
    for panel in dashboard["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        if panel["type"] != "row":
            assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
            assert panel["title"]
            assert panel["fieldConfig"]["defaults"]["unit"]


def test_metrics_are_found_in_a_query() -> None:
    query = 'sum by (le) (rate(coe_x_bucket{a=~"$b"}[$__rate_interval])) / clamp_min(coe_y, 1e-9)'
    assert _metrics_in(query) == {"coe_x_bucket", "coe_y"}


async def test_metrics_of_a_hosted_pool_tell_residency_and_moves(scraped: str) -> None:
    samples = {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(scraped)
        for sample in family.samples
    }
    assert samples["coe_expert_residency", "a", "awake"] == 1
    assert samples["coe_expert_residency", "b", "awake"] == 0
    assert samples["coe_expert_residency", "b", "disk"] == 1
    assert samples["coe_expert_moves_total", "a", "load"] == 2
    assert samples["coe_expert_moves_total", "a", "evict"] == 1
    assert samples["coe_expert_moves_total", "b", "sleep"] == 0
    assert samples["coe_expert_move_seconds_total", "a", "load"] > 0
    assert samples["coe_expert_move_seconds_total", "a", "wake"] == 0
    assert samples["coe_device_memory_budget_bytes", "cpu"] == 1024**3
    assert samples["coe_device_memory_used_bytes", "cpu"] == 1024**3
    assert samples["coe_scheduler_requests_total", "finished"] == 3
    assert samples["coe_expert_waiting_requests", "a"] == 0
    assert 'gen_ai_provider_name="scripted"' in scraped
