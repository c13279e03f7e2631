"""The folder of a run: what was asked, whom, what they answered, and what came out."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from coe.errors import ConfigError, DatasetError
from coe.eval.files import replace_file
from coe.eval.report import strict_json
from coe.routing import RoutingDecision

FORMAT = 1


@dataclass(frozen=True, slots=True)
class RunFolder:
    """Paths, and the files that are written whole."""

    path: Path

    @property
    def plan(self) -> Path:
        """What the run is: two runs of one plan have the same results."""
        return self.path / "run.json"

    @property
    def decisions(self) -> Path:
        """Whom the router chose, a line for each query."""
        return self.path / "plan.jsonl"

    @property
    def answers(self) -> Path:
        """The journal."""
        return self.path / "answers.jsonl"

    @property
    def results(self) -> Path:
        """One line for each query, stage and expert; there once the run is finished."""
        return self.path / "results.jsonl"

    @property
    def outcomes(self) -> Path:
        """What each expert's own answers were worth, as `coe fit` reads it."""
        return self.path / "outcomes.parquet"

    @property
    def summary(self) -> Path:
        return self.path / "summary.json"

    def begin(self, plan: Mapping[str, object], provenance: Mapping[str, object]) -> None:
        """Writes the plan, or checks that the one that is there is the same.

        Raises `ConfigError` naming what differs.
        """
        told = json.loads(json.dumps({"format": FORMAT, **plan}))
        if self.plan.exists():
            began = {k: v for k, v in self.read_plan().items() if k != "provenance"}
            for key in {**began, **told}:
                if began.get(key) != told.get(key):
                    raise ConfigError(
                        f"was begun with {key} {_short(began.get(key))}, not "
                        f"{_short(told.get(key))}; finish it as it was begun, or name another "
                        "--run",
                        file=str(self.path),
                    )
            return
        self.write(self.plan, {**told, "provenance": dict(provenance)})

    def read_plan(self) -> dict[str, Any]:
        """Raises `DatasetError` where there is no run, or one of another format."""
        try:
            plan = json.loads(self.plan.read_text("utf-8"))
        except (OSError, ValueError):
            raise DatasetError(
                f"{self.path}: is no run; `coe eval BENCHMARK --run {self.path}` makes one"
            ) from None
        if not isinstance(plan, dict) or plan.get("format") != FORMAT:
            raise DatasetError(f"{self.plan}: is of another format than {FORMAT}; run it again")
        return plan

    def write(self, file: Path, report: Mapping[str, object]) -> None:
        """Strict JSON, whole or not at all."""
        text = json.dumps(strict_json(report), indent=2, ensure_ascii=False) + "\n"
        replace_file(file, lambda part: part.write_text(text, "utf-8"))

    def write_lines(self, file: Path, rows: Iterable[Mapping[str, object]]) -> None:
        """One JSON object a line, whole or not at all."""
        # orjson writes what is not a number as null.
        lines = b"".join(orjson.dumps(row) + b"\n" for row in rows)
        replace_file(file, lambda part: part.write_bytes(lines))

    def save_decisions(self, decisions: Sequence[RoutingDecision]) -> None:
        self.write_lines(
            self.decisions,
            (
                {
                    "query_id": each.query_id,
                    "experts": each.experts,
                    "scores": dict(each.scores),
                    "router": each.router,
                }
                for each in decisions
            ),
        )

    def load_decisions(self) -> list[RoutingDecision] | None:
        """Those of the run as it was begun; None if nothing was decided yet."""
        if not self.decisions.exists():
            return None
        return [
            RoutingDecision(row["query_id"], tuple(row["experts"]), row["scores"], row["router"])
            for row in map(orjson.loads, self.decisions.read_bytes().splitlines())
        ]

    def read_results(self) -> list[dict[str, Any]]:
        """Raises `DatasetError` where the run is not finished."""
        self.read_plan()
        if not self.results.exists():
            raise DatasetError(
                f"{self.path}: the run is not finished; run the same command again to go on"
            )
        return [orjson.loads(line) for line in self.results.read_bytes().splitlines()]


def digest_of(plan: Mapping[str, object]) -> str:
    """A short name for all that decides the results of a run."""
    return hashlib.sha256(json.dumps(plan, sort_keys=True).encode()).hexdigest()[:16]


def _short(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}…"
