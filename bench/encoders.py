"""Compares encoders: `python -m bench.encoders`; writes bench/results/encoders.json.

Cost is measured in a fresh process for each encoder: p50, p99, and the processor's time a query,
which neighbours on the machine disturb least. Quality is what a nearest-neighbour router or
classifier makes of its vectors. What is not given on the command line is skipped, which is said,
and its row from an earlier run is kept.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.floating]
IntArray = NDArray[np.integer]

REPOSITORY = Path(__file__).resolve().parent.parent
RESULTS = REPOSITORY / "bench" / "results" / "encoders.json"
TOKEN_COUNTS = (9, 63, 128, 512)
NEIGHBORS = (10, 20, 40, 80, 160, 320, 640)
CLASSIFIER_K = 10
WORDS = "what is the capital of the country that lies north of the great river and why "
"""Every word of it is one token of MiniLM's vocabulary."""


def build(kind: str, folder: str) -> Any:
    from coe import encoders

    if kind == "static":
        return encoders.StaticEncoder(folder)
    if kind == "sentence-transformers":
        return encoders.SentenceTransformerEncoder(folder)
    return encoders.OnnxEncoder(folder)


def cost(kind: str, folder: str) -> dict[str, Any]:
    """Run alone in a fresh process: what one encoder costs to load and to ask."""
    import psutil

    process = psutil.Process()
    start = time.perf_counter()
    encoder = build(kind, folder)
    encoder.encode(["first"])
    load_s = time.perf_counter() - start
    rss_mb = process.memory_info().rss / 1e6
    words = WORDS.split()
    latency = {}
    for n_tokens in TOKEN_COUNTS:
        text = " ".join(words[i % len(words)] for i in range(n_tokens))
        latency[str(n_tokens)] = _percentiles(encoder.encode, text)
    heavy = [name for name in ("torch", "sklearn", "onnxruntime") if name in sys.modules]
    size_mb = sum(file.stat().st_size for file in Path(folder).glob("*")) / 1e6
    return {
        # Some encoders are named by the path they came from, which means nothing elsewhere.
        "name": Path(encoder.name).name,
        "dim": encoder.dim,
        "ms_per_query": latency,
        "rss_mb": round(rss_mb, 1),
        "import_and_load_s": round(load_s, 3),
        "size_mb": round(size_mb, 2),
        "imported": heavy,
    }


def _percentiles(encode: Callable[[list[str]], object], text: str) -> dict[str, float]:
    for _ in range(10):
        encode([text])
    times_ms: list[float] = []
    started, cpu = time.perf_counter(), time.process_time()
    while len(times_ms) < 50 or (len(times_ms) < 3000 and time.perf_counter() - started < 4):
        before = time.perf_counter()
        encode([text])
        times_ms.append(1e3 * (time.perf_counter() - before))
    cpu_ms = 1e3 * (time.process_time() - cpu) / len(times_ms)
    p50, p99 = (round(float(value), 3) for value in np.percentile(times_ms, (50, 99)))
    return {"p50": p50, "p99": p99, "cpu": round(cpu_ms, 3), "n": len(times_ms)}


def zoo_quality(encode: Callable[[list[str]], FloatArray]) -> dict[str, float]:
    """Share of the zoo's test questions whose 10 nearest train questions name its field."""
    from coe.zoo.questions import zoo_questions

    train, test = zoo_questions("train"), zoo_questions("test")
    near = _nearest(encode([q.text for q in train]), encode([q.text for q in test]), CLASSIFIER_K)
    quality = {}
    for label in ("field", "skill"):
        names = sorted({getattr(q, label) for q in train})
        one_hot = np.eye(len(names))[[names.index(getattr(q, label)) for q in train]]
        guessed = one_hot[near].sum(axis=1).argmax(axis=1)
        truth = np.array([names.index(getattr(q, label)) for q in test])
        quality[f"zoo_{label}"] = round(100 * float((guessed == truth).mean()), 2)
    return quality


class MmluPro:
    """The recorded answers of complete models, as arrays."""

    def __init__(self, folder: Path) -> None:
        import pyarrow.parquet as pq

        questions = pq.read_table(folder / "questions.parquet").to_pylist()
        models = pq.read_table(folder / "models.parquet").to_pylist()
        models = [model for model in models if model["complete"]]
        rows = {q["question_id"]: i for i, q in enumerate(questions)}
        columns = {model["model"]: i for i, model in enumerate(models)}
        self.scores = np.zeros((len(rows), len(columns)), dtype=np.float32)
        table = pq.read_table(
            folder / "outcomes.parquet", columns=["question_id", "model", "correct"]
        )
        for outcome in table.to_pylist():
            if outcome["model"] in columns:
                cell = rows[outcome["question_id"]], columns[outcome["model"]]
                self.scores[cell] = outcome["correct"]
        self.texts = [q["question"] for q in questions]
        self._recorded = folder / "embeddings_minilm_question.npy"
        self.train = np.array([q["split"] == "train" for q in questions])
        categories = sorted({q["category"] for q in questions})
        self.category = np.array([categories.index(q["category"]) for q in questions])
        small = np.array([model["small_pool"] for model in models])
        self.pools = {"small": small, "all": np.ones_like(small)}

    def vectors(self, encode: Callable[[list[str]], FloatArray]) -> FloatArray:
        """The questions encoded; taken from the recording where a sample shows it is the same."""
        if self._recorded.is_file():
            recorded: FloatArray = np.load(self._recorded).astype(np.float32)
            sample = encode(self.texts[:20])
            if _same(sample, recorded[:20]):
                return recorded
        return encode(self.texts)

    def quality(self, vectors: FloatArray) -> dict[str, Any]:
        train, test = self.train, ~self.train
        quality: dict[str, Any] = {}
        folds = np.random.default_rng(0).permutation(np.arange(train.sum()) % 5)
        for pool, members in self.pools.items():
            scores = self.scores[:, members]
            k = _best_k(vectors[train], scores[train], folds)
            near = _nearest(vectors[train], vectors[test], k)
            hits = _routed(scores[train], near, scores[test], k)
            quality[f"mmlu_pro_{pool}"] = round(100 * float(hits.mean()), 2)
            quality[f"mmlu_pro_{pool}_k"] = k
        one_hot = np.eye(self.category.max() + 1)[self.category[train]]
        near = _nearest(vectors[train], vectors[test], CLASSIFIER_K)
        guessed = one_hot[near].sum(axis=1).argmax(axis=1)
        right = float((guessed == self.category[test]).mean())
        return {**quality, "mmlu_pro_category": round(100 * right, 2)}


def _same(some: FloatArray, others: FloatArray) -> bool:
    return some.shape == others.shape and bool((some * others).sum(axis=1).min() > 0.999)


def _nearest(vectors: FloatArray, queries: FloatArray, k: int) -> IntArray:
    from coe.index import NearestNeighbors

    return NearestNeighbors(vectors).search(queries, k)[1]


def _routed(known: FloatArray, near: IntArray, scores: FloatArray, k: int) -> FloatArray:
    """(n,) score of the expert with the best mean over the k nearest."""
    chosen = known[near[:, :k]].mean(axis=1).argmax(axis=1)
    routed: FloatArray = scores[np.arange(len(scores)), chosen]
    return routed


def _best_k(vectors: FloatArray, scores: FloatArray, folds: IntArray) -> int:
    """The k of the best 5-fold mean; the smallest of equals."""
    totals = dict.fromkeys(NEIGHBORS, 0.0)
    for fold in range(5):
        inside, outside = folds != fold, folds == fold
        near = _nearest(vectors[inside], vectors[outside], max(NEIGHBORS))
        for k in NEIGHBORS:
            totals[k] += float(_routed(scores[inside], near, scores[outside], k).sum())
    return max(NEIGHBORS, key=lambda k: totals[k])


def measure(kind: str, folder: str, data: MmluPro | None) -> dict[str, Any]:
    argv = [sys.executable, "-m", "bench.encoders", "--child", kind, folder]
    child = subprocess.run(argv, capture_output=True, text=True, check=True, cwd=REPOSITORY)
    row: dict[str, Any] = json.loads(child.stdout.splitlines()[-1])
    encoder = build(kind, folder)
    row.update(zoo_quality(encoder.encode))
    if data is not None:
        row.update(data.quality(data.vectors(encoder.encode)))
    return row


def _print_table(rows: Mapping[str, Mapping[str, Any]]) -> None:
    latency = [f"{n} tok ms" for n in TOKEN_COUNTS]
    keys = ["rss_mb", "import_and_load_s", "size_mb", "zoo_field", "zoo_skill"]
    keys += ["mmlu_pro_small", "mmlu_pro_all", "mmlu_pro_category"]
    print("| encoder |", " | ".join([*latency, *keys]), "|")
    print("|---|" + "---:|" * (len(latency) + len(keys)))
    for kind, row in rows.items():
        cells = [
            f"{t['p50']:.2f} / {t['p99']:.2f} / {t['cpu']:.2f}"
            for t in row["ms_per_query"].values()
        ]
        print(f"| {kind} |", " | ".join([*cells, *(str(row.get(key, "—")) for key in keys)]), "|")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=REPOSITORY.parent / "shared" / "data")
    parser.add_argument("--onnx-int8", help="folder made by coe.encoders.export_onnx")
    parser.add_argument("--onnx-fp32", help="folder made by coe.encoders.export_onnx --fp32")
    parser.add_argument("--sentence-transformers", help="folder of the original model")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        print(json.dumps(cost(*arguments.child)))
        return
    folder = arguments.data / "mmlu_pro"
    data = MmluPro(folder) if folder.is_dir() else None
    if data is None:
        print(f"skipped MMLU-Pro: no {folder}; give --data")
    table = REPOSITORY / "coe" / "encoders" / "minilm-static"
    folders = {"static": str(table), "onnx-int8": arguments.onnx_int8}
    folders["onnx-fp32"] = arguments.onnx_fp32
    folders["sentence-transformers"] = arguments.sentence_transformers
    rows = json.loads(arguments.out.read_text()) if arguments.out.is_file() else {}
    for kind, place in folders.items():
        if place is None:
            print(f"skipped {kind}: give --{kind} FOLDER")
            continue
        rows[kind] = measure(kind, place, data)
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
    _print_table(rows)


if __name__ == "__main__":
    main()
