"""`coe eval beir` as a user types it, and the pool that it leaves served."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import httpx2 as httpx
import pytest

from coe.assembly import load_composition
from coe.cli import main
from coe.retrieval.adapter import LinearAdapter
from coe.service.app import create_app

pytest.importorskip("pyarrow")
pytest.importorskip("bm25s")

THINGS = {
    "ships": (
        "keel",
        "mast",
        "rudder",
        "anchor",
        "hull",
        "sail",
        "deck",
        "harbour",
        "tide",
        "crew",
    ),
    "bread": ("flour", "yeast", "oven", "crust", "dough", "salt", "loaf", "rye", "wheat", "baker"),
}


def _run(monkeypatch: pytest.MonkeyPatch, *arguments: str | Path) -> int:
    monkeypatch.setattr(sys, "argv", ["coe", "eval", "beir", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


def _write(folder: Path, things: tuple[str, ...]) -> None:
    """Documents that are hard to tell apart, so that no two experts rank them alike."""
    (folder / "qrels").mkdir(parents=True)
    documents = [
        {
            "_id": f"d{i}",
            "title": f"On the {things[i % 10]}",
            "text": f"The {things[i % 10]} stands by the {things[i // 3 % 10]}. Old books praise "
            f"the {things[i % 10]}. Every {things[(i // 10 + i + 1) % 10]} has its price {i}. "
            f"{things[i * i % 7].title()} and {things[i % 3]} are sold on days.",
        }
        for i in range(60)
    ]
    queries = [{"_id": f"q{i}", "text": f"a good {thing}"} for i, thing in enumerate(things)]
    for name, rows in (("corpus", documents), ("queries", queries)):
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{name}.jsonl").write_text(lines, encoding="utf-8")
    for split, asked in (("train", range(6)), ("test", range(6, 10))):
        judged = [f"q{q}\td{d}\t{1 + 7 * d % 5}" for q in asked for d in range(q, 60, 10)]
        lines = "\n".join(["query-id\tcorpus-id\tscore", *judged]) + "\n"
        (folder / "qrels" / f"{split}.tsv").write_text(lines, encoding="utf-8")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for name, things in THINGS.items():
        _write(tmp_path / "data" / f"beir_{name}", things)
    return tmp_path / "data"


async def test_run_prints_writes_and_leaves_a_pool_that_serves(
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    report, out = tmp_path / "beir.json", tmp_path / "pool"
    cache = tmp_path / "vectors"
    assert not _run(monkeypatch, "--data", data, "--json", report, "--out", out, "--cache", cache)
    printed = capsys.readouterr().out
    for system in ("BM25", "base encoder", "multi-task expert", "RouterRetriever", "oracle"):
        assert system in printed
    assert "in the paper +2.1" in printed
    assert "49.6" in printed
    told = json.loads(report.read_text())
    assert told["split"] == "test"
    assert told["fit_split"] == "train"
    assert told["systems"]["RouterRetriever"]["bread"]["ndcg@10"]["n"] == 4
    assert any(cache.iterdir())
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "beir.json",
        "data",
        "pool",
        "vectors",
    ]
    await _serve(out)


async def _serve(out: Path) -> None:
    """The pool embeds a query by the expert of its domain, in that expert's own space."""
    composition = load_composition(out / "experts.yaml")
    transport = httpx.ASGITransport(create_app(composition))
    async with httpx.AsyncClient(transport=transport, base_url="http://coe") as client:
        for name, ask in (("ships", "rudder and anchor of a deck"), ("bread", "salt in the dough")):
            body = {"model": "coe", "input": [ask]}
            routed = await client.post("/v1/embeddings", json=body)
            assert routed.headers["x-coe-expert"] == name
            assert routed.json()["model"] == name
            pinned = await client.post("/v1/embeddings", json={**body, "model": name})
            assert pinned.json()["data"] == routed.json()["data"]
        assert LinearAdapter.load(out / "adapters" / "ships").facts["domains"] == ["ships"]
    await composition.stop()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--collections", "ship"], "no collection 'ship' .*did you mean 'ships'"),
        (["--collections", "ships"], "one collection leaves nothing to route between"),
        (["--split", "tets"], "no split 'tets' .*did you mean 'test'"),
        (["--fit-split", "trian"], "no split 'trian' .*did you mean 'train'"),
        (["--fit-split", "test"], "judged on what they learnt from; name two"),
        (["--encoder", "onyx:folder"], "none of static, .*did you mean 'onnx'"),
        (["--encoder", "onnx"], "none of static, static:FOLDER, onnx:FOLDER"),
    ],
)
def test_wrong_options_are_told_before_anything_is_written(
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    told: str,
) -> None:
    out = tmp_path / "pool"
    assert _run(monkeypatch, "--data", data, "--out", out, *arguments) == 2
    error = " ".join(capsys.readouterr().err.split())
    assert re.search(told, error), error
    assert not out.exists()


def test_folder_that_is_not_empty_is_refused_before_training(
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "pool"
    out.mkdir()
    (out / "mine.txt").write_text("mine")
    assert _run(monkeypatch, "--data", data, "--out", out) == 2
    assert "name another folder or delete it" in " ".join(capsys.readouterr().err.split())
    assert [path.name for path in out.iterdir()] == ["mine.txt"]


def test_malformed_row_is_told_and_nothing_is_left(
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with (data / "beir_ships" / "corpus.jsonl").open("a") as corpus:
        corpus.write("{broken\n")
    out, report = tmp_path / "pool", tmp_path / "beir.json"
    assert _run(monkeypatch, "--data", data, "--out", out, "--json", report) == 2
    assert "line 61: is no JSON" in " ".join(capsys.readouterr().err.split())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data"]
