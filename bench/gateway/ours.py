"""CoE as a user would have it: a pool of endpoints, and a kNN router that `coe fit` fitted.

All experts are the mock. The router is fitted on the zoo's outcomes, by the default encoder.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from itertools import cycle, islice
from pathlib import Path

from tokenizers import Tokenizer

from bench.gateway.loads import Figures, quantile_ms
from bench.gateway.mock import MODEL
from bench.serving import ROOT

COE = [sys.executable, "-m", "coe.cli"]
EXPERTS = ("arithmetic", "geography", "chemistry", "vocabulary", "text", "generalist")
_PROMPT_TOKENS = 512
_N_PROMPTS = 100
_ENOUGH = 200
"""Questions that have more tokens than that together."""
_N_DECISIONS = 2000


def prepared(folder: Path, expert_url: str) -> Path:
    """Writes the pool and fits its router; the file that `coe serve` takes."""
    folder.mkdir(parents=True)
    engine = {"kind": "openai", "base_url": f"{expert_url}/v1", "model": MODEL}
    experts = [{"id": id_, "engine": engine} for id_ in EXPERTS]
    outcomes = str(ROOT / "coe/zoo/outcomes.parquet")
    router = {"scorer": "knn", "artifact": str(folder / "router"), "outcomes": outcomes}
    config = folder / "experts.yaml"
    config.write_text(json.dumps({"experts": experts, "router": router}), encoding="utf-8")
    subprocess.run([*COE, "fit", "-c", str(config)], check=True, stdout=subprocess.DEVNULL)
    return config


def prompts() -> list[str]:
    """Texts of 512 tokens of the default encoder, cut from the zoo's test questions."""
    from coe.zoo.questions import zoo_questions

    tokenizer = Tokenizer.from_file(str(ROOT / "coe/encoders/minilm-static/tokenizer.json"))
    tokenizer.no_truncation()
    questions = [question.text for question in zoo_questions("test")]
    # Enough of them to be too long, from another question on each time.
    long = [" ".join(questions[start : start + _ENOUGH]) for start in range(_N_PROMPTS)]
    found = tokenizer.encode_batch(long, add_special_tokens=False)
    return [
        text[: encoding.offsets[_PROMPT_TOKENS - 1][1]]
        for text, encoding in zip(long, found, strict=True)
    ]


def routing_figures(config: Path) -> Figures:
    """Milliseconds that the gateway decides for, in its event loop, over prompts of 512 tokens."""
    from coe.assembly import load_composition
    from coe.types import GenerationRequest, Message

    composition = load_composition(config)
    requests = [GenerationRequest((Message("user", text),)) for text in prompts()]
    composition.decide(requests[0])
    times_s = []
    for request in islice(cycle(requests), _N_DECISIONS):
        started_s = time.perf_counter()
        composition.decide(request)
        times_s.append(time.perf_counter() - started_s)
    return {
        "p50_ms": quantile_ms(times_s, 0.50),
        "p99_ms": quantile_ms(times_s, 0.99),
        "max_ms": quantile_ms(times_s, 1.0),
        "decides_in_a_thread": float(composition.decides_slowly),
    }
