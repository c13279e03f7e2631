"""Artifacts on disk: what is written is read, older ones are, and nothing half-written is."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from coe.errors import ConfigError
from coe.routers.artifacts import FORMAT, Artifact, Manifest
from coe.routers.policies.guard import Verdict

ARTIFACT = Artifact(Manifest("knn", ("a", "b"), "d", 3), {"x": np.arange(3.0)})
VERDICT = Verdict(False, "a", -0.125, 60, {"a": 0.5, "b": 0.25})


def _rewrite(folder: Path, **changes: object) -> None:
    file = folder / "manifest.json"
    told = json.loads(file.read_text("utf-8")) | changes
    kept = {key: value for key, value in told.items() if value is not Ellipsis}
    file.write_text(json.dumps(kept), encoding="utf-8")


def test_artifact_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    ARTIFACT.save(tmp_path / "router")
    read = Artifact.load(tmp_path / "router")
    assert read.manifest == ARTIFACT.manifest
    assert read.manifest.guard is None
    np.testing.assert_array_equal(read.arrays["x"], [0.0, 1.0, 2.0])


def test_verdict_comes_back_with_its_artifact(tmp_path: Path) -> None:
    ARTIFACT.guarded(VERDICT.manifest()).save(tmp_path / "router")
    read = Artifact.load(tmp_path / "router")
    assert read.manifest.guard is not None
    assert Verdict.of_manifest(read.manifest.guard) == VERDICT
    assert read.guarded(None).manifest == ARTIFACT.manifest


def test_artifact_from_before_there_were_verdicts_is_read(tmp_path: Path) -> None:
    ARTIFACT.save(tmp_path / "router")
    _rewrite(tmp_path / "router", guard=...)
    assert Artifact.load(tmp_path / "router").manifest == ARTIFACT.manifest


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"format": FORMAT + 1}, f"format {FORMAT + 1}, this version reads {FORMAT}"),
        ({"verdicts": 1}, "damaged router artifact"),
        ({"expert_ids": ...}, "damaged router artifact"),
    ],
)
def test_artifact_of_another_making_says_to_fit_again(
    tmp_path: Path, changes: dict[str, object], words: str
) -> None:
    ARTIFACT.save(tmp_path / "router")
    _rewrite(tmp_path / "router", **changes)
    with pytest.raises(ConfigError, match=words) as caught:
        Artifact.load(tmp_path / "router")
    assert "coe fit" in str(caught.value)


@pytest.mark.parametrize("guard", [{}, {"is_kept": True, "best": "a"}])
def test_verdict_that_says_too_little_is_refused(guard: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="coe fit"):
        Verdict.of_manifest(guard)


def test_saving_again_replaces_the_whole_folder(tmp_path: Path) -> None:
    ARTIFACT.guarded(VERDICT.manifest()).save(tmp_path / "router")
    (tmp_path / "router" / "left over").touch()
    ARTIFACT.save(tmp_path / "router")
    assert Artifact.load(tmp_path / "router").manifest.guard is None
    assert sorted(path.name for path in (tmp_path / "router").iterdir()) == [
        "arrays.npz",
        "manifest.json",
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["router"]


def test_saving_onto_a_link_replaces_what_it_points_to(tmp_path: Path) -> None:
    (tmp_path / "fitted").mkdir()
    ARTIFACT.guarded(VERDICT.manifest()).save(tmp_path / "fitted" / "v1")
    (tmp_path / "router").symlink_to(Path("fitted") / "v1")
    ARTIFACT.save(tmp_path / "router")
    assert (tmp_path / "router").is_symlink()
    assert Artifact.load(tmp_path / "fitted" / "v1").manifest.guard is None
    assert sorted(path.name for path in tmp_path.iterdir()) == ["fitted", "router"]
    assert [path.name for path in (tmp_path / "fitted").iterdir()] == ["v1"]


@pytest.mark.parametrize("n_moved", [0, 1])
def test_saving_that_fails_leaves_the_earlier_one_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, n_moved: int
) -> None:
    """`n_moved`: how many folders are moved before one cannot be."""
    ARTIFACT.guarded(VERDICT.manifest()).save(tmp_path / "router")
    replace, moves = os.replace, [0]

    def fails_once(source: Path, target: Path) -> None:
        moves[0] += 1
        if moves[0] == n_moved + 1:
            raise OSError("busy")
        replace(source, target)

    monkeypatch.setattr(os, "replace", fails_once)
    with pytest.raises(OSError, match="busy"):
        ARTIFACT.save(tmp_path / "router")
    assert Artifact.load(tmp_path / "router").manifest.guard is not None
    assert [path.name for path in tmp_path.iterdir()] == ["router"]
