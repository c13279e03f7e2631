"""What each of several processes serves of a pool."""

from __future__ import annotations

from pathlib import Path

import pytest

from coe.assembly.sharing import share_of
from coe.config import Config, load_config
from coe.errors import ConfigError


def _config(folder: Path, *experts: str) -> Config:
    lines = "\n".join(f"  - {expert}" for expert in experts)
    file = folder / "experts.yaml"
    file.write_text(f"experts:\n{lines}\nrouter: {{scorer: random}}\n", encoding="utf-8")
    return load_config(file)


FREE = "{id: free, engine: {kind: scripted, default: hi}}"
BOUND = (
    "{id: bound, engine: {kind: scripted, default: hi}, "
    "hosting: {max_in_flight: 7, max_queued: 10}}"
)


def test_bounds_of_an_expert_are_divided_among_workers(tmp_path: Path) -> None:
    config = _config(tmp_path, FREE, BOUND)
    for n in (1, 2, 3, 7):
        shares = [share_of(config, index, n).pool for index in range(n)]
        assert sum(one.expert("bound").hosting.max_in_flight or 0 for one in shares) == 7
        assert sum(one.expert("bound").hosting.max_queued for one in shares) == 10
        assert all(one.expert("free") == config.pool.expert("free") for one in shares)
        assert min(one.expert("bound").hosting.max_in_flight or 0 for one in shares) >= 7 // n


def test_bound_that_cannot_be_divided_is_refused_with_what_can(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"'bound' answers 7 at once, .* at most 7"):
        share_of(_config(tmp_path, BOUND), 0, 8)


def test_hosted_experts_are_refused_by_name(tmp_path: Path) -> None:
    hosted = "{id: ours, engine: {kind: scripted, default: hi}, footprint: {gib: 1}}"
    with pytest.raises(ConfigError, match="ours: the gateway hosts these itself") as refused:
        share_of(_config(tmp_path, FREE, hosted), 0, 2)
    assert "kind openai" in str(refused.value)
