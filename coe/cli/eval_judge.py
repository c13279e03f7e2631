"""The judge that a command names, and against whom answers play."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urldefrag

from coe.assembly.engines import engine_for, local_memory
from coe.config import Config
from coe.engines.base import Engine
from coe.errors import ConfigError, UnknownExpert
from coe.eval.benchmarks.question import Benchmark
from coe.eval.judges.baselines import load_baseline
from coe.eval.runs.journal import Journal
from coe.eval.runs.running import Subject
from coe.experts import Expert, OpenAISpec


@dataclass(frozen=True, slots=True)
class JudgeOptions:
    """What the user asked for."""

    judge: str | None = None
    """An expert of the pool, or the address of an endpoint, as http://HOST/v1#MODEL."""
    key_env: str | None = None
    """Environment variable that holds the endpoint's key."""
    baseline: str | None = None
    """An expert of the pool, or a file of answers; None: answers are graded alone."""

    @property
    def is_endpoint(self) -> bool:
        return self.judge is not None and "://" in self.judge

    @property
    def name(self) -> str:
        """What the judge is called in the run."""
        return self.judge or ""

    def baseline_expert(self, config: Config) -> str | None:
        """None where there is no baseline, or a file of one. Raises `ConfigError`."""
        if self.baseline is None or self.baseline in config.pool.ids:
            return self.baseline
        if Path(self.baseline).exists():
            return None
        error = UnknownExpert(self.baseline, config.pool.ids)
        raise ConfigError(f"{error}, and no file of that name", key="baseline")

    def check(self, config: Config, benchmark: Benchmark) -> None:
        """What can be told wrong before anybody is asked is told then."""
        if self.judge is None:
            raise ConfigError(
                f"{benchmark.name} needs a judge: an expert of the pool, or an endpoint as "
                "http://HOST/v1#MODEL",
                key="judge",
            )
        if benchmark.name == "arena-hard" and self.baseline is None:
            raise ConfigError(
                "arena-hard compares with a baseline: an expert of the pool, or a file of answers",
                key="baseline",
            )
        if not self.is_endpoint:
            config.pool.expert(self.judge)
        elif not urldefrag(self.judge).fragment:
            raise ConfigError(
                f"{self.judge} names no model; write it behind the address, as in "
                "http://HOST/v1#MODEL",
                key="judge",
            )
        if self.baseline is not None and self.baseline_expert(config) is None:
            load_baseline(Path(self.baseline), benchmark)

    def engine(self, config: Config, engines: Mapping[str, Engine]) -> Engine:
        if not self.is_endpoint:
            return engines[self.name]
        url, model = urldefrag(self.name)
        spec = OpenAISpec(url, model, self.key_env)
        return engine_for(Expert(self.name, spec), local_memory(config), config)

    def answers(
        self, config: Config, benchmark: Benchmark, journal: Journal
    ) -> Mapping[str, str] | None:
        """Query id → the baseline's answer; a question that it failed on is left out."""
        if self.baseline is None:
            return None
        expert_id = self.baseline_expert(config)
        if expert_id is None:
            return load_baseline(Path(self.baseline), benchmark)
        spots = {q.id: journal.get(Subject(expert_id).spot(q.id)) for q in benchmark.queries}
        return {id_: r.text for id_, r in spots.items() if r is not None and r.text is not None}
