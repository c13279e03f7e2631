"""The GPU benchmarks run against the fake and write what they promise."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


def _dry(repository: Path, name: str, output: Path) -> Mapping[str, Any]:
    command = [sys.executable, "-m", f"bench.gpu.{name}", "--dry-run", "--output", str(output)]
    subprocess.run(command, cwd=repository, check=True, capture_output=True, timeout=240)
    result: dict[str, Any] = json.loads(output.read_text())
    assert result["benchmark"] == name
    assert result["is_dry_run"] is True
    assert result["gpu"] is None, "a dry run is never taken for a measurement"
    return result


def test_p1_measures_wakes_and_first_tokens(repository: Path, tmp_path: Path) -> None:
    result = _dry(repository, "p1", tmp_path / "p1.json")
    # The fake takes 0.02 s to wake and 0.01 s to sleep.
    assert 0.02 <= result["wake_s"]["p50"] < result["cold_start_s"]
    assert result["sleep_s"]["p50"] >= 0.01
    assert result["meets_wake_target"] is None, "without a GPU there is no floor"


def test_p2_has_a_row_for_every_loader(repository: Path, tmp_path: Path) -> None:
    result = _dry(repository, "p2", tmp_path / "p2.json")
    assert set(result["loaders"]) == {"auto", "fastsafetensors", "instanttensor", "runai_streamer"}
    assert result["best"] in result["loaders"]
    assert 0 < result["best_of_default"] <= 1


def test_p3_loads_every_expert_once_and_labels_what_is_extrapolated(
    repository: Path, tmp_path: Path
) -> None:
    result = _dry(repository, "p3", tmp_path / "p3.json")
    ours = result["ours"]
    assert ours["loads"] == ours["lower_bound_loads"] == 4
    assert result["in_order_sample"]["n_questions"] < result["n_questions"]
    assert result["in_order_extrapolated_s"] == pytest.approx(
        result["in_order_sample"]["wall_s"] * 12 / 3
    )


def test_p4_tells_what_is_seen_of_a_load(repository: Path, tmp_path: Path) -> None:
    result = _dry(repository, "p4", tmp_path / "p4.json")
    for row in (result["load"], result["wake"]):
        assert row["visible_s"] <= row["total_s"]
        assert row["tokens_per_s_beside_it"] > 0


def test_p5_counts_wrong_answers_and_measures_what_stays_held(
    repository: Path, tmp_path: Path
) -> None:
    result = _dry(repository, "p5", tmp_path / "p5.json")
    assert set(result["experts"]) == {"fake level 1", "fake level 2"}
    for row in result["experts"].values():
        assert row["n_wrong_answers"] == row["n_restarts"] == row["n_failed_sleeps"] == 0
        assert row["residue_gib"]["p50"] == pytest.approx(0.1)
