"""Live benchmark runs, killed again and again: `python -m bench.live_eval`.

A run of `coe eval` is made once without a break, and once killed with SIGKILL at random moments
and gone on with by the same command. Both have to have the same results, one row for each question,
stage and expert, and no expert may be loaded more than once a stage and process. Two pools: the
zoo with room for two of its experts, and sixteen fake vLLM servers with room for four, three of
which answer each question before another one writes. Writes bench/results/live_eval.json.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.zoo_swaps import ROOM_GIB, ROOT

RESULTS = ROOT / "bench" / "results" / "live_eval.json"
N_EXPERTS = 16
N_ROOMS = 4
WRITER = "expert-00"


def fake_pool(folder: Path) -> Path:
    """Sixteen servers that answer with a letter each, of 1 GiB, with 4 GiB for all."""
    experts = "\n".join(_fake_expert(i) for i in range(N_EXPERTS))
    file = folder / "fake.yaml"
    file.write_text(
        f"experts:\n{experts}\n"
        "router:\n  scorer: random\n  policy: {kind: top-k, k: 3}\n"
        f"  aggregator: {{kind: llm, expert: {WRITER}}}\n"
        f"devices: {{gpu0: {N_ROOMS}}}\n",
        "utf-8",
    )
    return file


def _fake_expert(i: int) -> str:
    letter = "ABCDEFGHIJ"[i % 10]
    command = json.dumps([sys.executable, "-m", "coe.engines.fake_vllm"])
    flags = json.dumps(
        {"fake-answer": f"I think so. The answer is ({letter}).", "fake-tpot-s": 0.02}
    )
    return (
        f"  - {{id: expert-{i:02}, engine: {{kind: vllm, model: m{i}, canary_tokens: 0, "
        f"command: {command}, flags: {flags}}}, "
        "footprint: {gib: 1, watts: 100}, max_tokens: 32, context_tokens: 4096}"
    )


def zoo_pool(folder: Path) -> Path:
    """The shipped one with room for two."""
    text = (ROOT / "experts.yaml").read_text("utf-8")
    text = text.replace("coe/zoo/", f"{ROOT}/coe/zoo/")
    text = text.replace("local_memory_gib: 2.0", f"local_memory_gib: {ROOM_GIB}")
    file = folder / "zoo.yaml"
    file.write_text(text, "utf-8")
    return file


def through(command: Sequence[str], run: Path) -> float:
    """Seconds of a run that nobody disturbs."""
    began_s = time.perf_counter()
    subprocess.run([*command, "--run", str(run)], check=True, capture_output=True)
    return time.perf_counter() - began_s


def killed(command: Sequence[str], run: Path, times: int, n_bytes: int, seed: int) -> int:
    """Kills it at so many random sizes of its journal and lets it end; how often it was."""
    chance = random.Random(seed)
    journal = run / "answers.jsonl"
    n_kills = 0
    for size in sorted(chance.randrange(n_bytes) for _ in range(times)):
        process = _started(command, run)
        while process.poll() is None and not _has(journal, size):
            time.sleep(0.002)
        # What was reached before it started is a kill while experts are loaded.
        time.sleep(chance.uniform(0.0, 0.05) if process.poll() is None else 0.0)
        if process.poll() is None:
            os.kill(process.pid, signal.SIGKILL)
            n_kills += 1
        process.wait()
    process = _started(command, run)
    assert process.wait() == 0, f"the run failed with {process.returncode}"
    return n_kills


def _started(command: Sequence[str], run: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [*command, "--run", str(run)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def _has(journal: Path, size: int) -> bool:
    return journal.exists() and journal.stat().st_size >= size


def judged(whole: Path, broken: Path) -> dict[str, Any]:
    """What the two runs have in common."""
    rows = [json.loads(line) for line in (broken / "results.jsonl").read_text().splitlines()]
    counts = Counter((row["query_id"], row["stage"], row["expert"]) for row in rows)
    summary = json.loads((whole / "summary.json").read_text())
    same = (whole / "results.jsonl").read_bytes() == (broken / "results.jsonl").read_bytes()
    return {
        "identical": same,
        "rows": len(rows),
        "rows_twice": sum(n > 1 for n in counts.values()),
        "finals": sum(row["stage"] == "final" for row in rows),
        "failed": sum(row["error"] is not None for row in rows),
        "swaps": summary["swaps"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="Symbolic-MoE's splits")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--questions", type=int, default=200)
    parser.add_argument("--pools", default="fake,zoo")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        coe = [sys.executable, "-m", "coe.cli", "eval"]
        limit = str(options.questions)
        mmlu = ["mmlu-pro", "--live", "--data", str(options.data), "--limit", limit]
        scenes = {
            "fake": [*coe, *mmlu, "-c", str(fake_pool(folder))],
            "zoo": [*coe, "zoo", "-c", str(zoo_pool(folder))],
        }
        for scene in options.pools.split(","):
            whole, broken = folder / f"{scene}-whole", folder / f"{scene}-broken"
            wall_s = through(scenes[scene], whole)
            n_bytes = (whole / "answers.jsonl").stat().st_size
            n_kills = killed(scenes[scene], broken, options.kills, n_bytes, seed=0)
            rows.append(
                {
                    "pool": scene,
                    "kills": n_kills,
                    "wall_s": round(wall_s, 2),
                    **judged(whole, broken),
                }
            )
            print(rows[-1], flush=True)
    report = {"command": "python -m bench.live_eval", "rows": rows}
    options.out.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
