r"""The benchmarks by name: how their rows look, what is told before a question, how it is read."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from coe.errors import ConfigError, DatasetError, nearest
from coe.eval.benchmarks.checking import Sandbox
from coe.eval.benchmarks.hub import hub_rows
from coe.eval.benchmarks.question import Benchmark, Question, ScorerName, Shot
from coe.eval.benchmarks.reading import Row, read_rows
from coe.eval.benchmarks.rows import questions_of, shots_of
from coe.eval.benchmarks.rules import Rule, boxed_rule, mmlu_pro_rule, symbolic_rule
from coe.eval.benchmarks.scoring import scorer_named
from coe.eval.benchmarks.shots import CONTEST, MEDICINE, SCIENCE

_CHOICE = (
    "The following {what} multiple-choice. Think step by step and end your answer with "
    '"The answer is (X)", X being the letter of the right option.'
)
_SCORERS: tuple[ScorerName, ...] = ("choice", "numeric", "exact", "contains", "python", "judge")


@dataclass(frozen=True, slots=True)
class Kind:
    """What all questions of a benchmark have in common."""

    name: str
    stems: tuple[str, ...]
    """What its files are named by: `<stem>_<split>.parquet`."""
    hub_id: str
    hub_config: str | None = None
    scorer: ScorerName = "choice"
    instruction: str = ""
    rule: Rule | None = None
    shots: tuple[Shot, ...] = ()
    n_shots: int = 2

    @property
    def fix(self) -> str:
        return (
            "--data takes a file or folder (Symbolic-MoE's own splits are in the GitHub "
            f"repository dinobby/Symbolic-MoE, test_data/), --hub {self.hub_id} fetches it"
        )


KINDS: Mapping[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind(
            "mmlu-pro",
            ("mmlu_pro", "mmlu-pro"),
            "TIGER-Lab/MMLU-Pro",
            instruction=_CHOICE.format(what="questions about {category} are"),
            rule=mmlu_pro_rule,
            shots=SCIENCE,
            n_shots=5,
        ),
        Kind(
            "gpqa",
            ("gpqa", "gpqa_diamond"),
            "Idavidrein/gpqa",
            "gpqa_diamond",
            instruction=_CHOICE.format(what="graduate-level science questions are"),
            rule=symbolic_rule,
            shots=SCIENCE,
        ),
        Kind(
            "aime",
            ("aime24", "aime"),
            "HuggingFaceH4/aime_2024",
            scorer="numeric",
            instruction=(
                "Solve the following competition problem. Its answer is an integer from 0 to 999. "
                r"Think step by step and end with the answer in \boxed{}."
            ),
            rule=boxed_rule,
            shots=CONTEST,
        ),
        Kind(
            "medmcqa",
            ("medmcqa",),
            "openlifescienceai/medmcqa",
            instruction=_CHOICE.format(what="questions from medical entrance exams are"),
            rule=symbolic_rule,
            shots=MEDICINE,
        ),
        Kind(
            "mt-bench",
            ("mt_bench", "question"),
            "HuggingFaceH4/mt_bench_prompts",
            scorer="judge",
            n_shots=0,
        ),
        Kind(
            "arena-hard",
            ("arena_hard", "question"),
            "lmarena-ai/arena-hard-auto",
            scorer="judge",
            n_shots=0,
        ),
    )
}
CUSTOM = Kind("custom", ("custom", "questions"), "OWNER/DATASET", scorer="exact", n_shots=0)


@dataclass(frozen=True, slots=True)
class Source:
    """Where questions are taken from."""

    data: Path | None = None
    hub: str | None = None
    splits: tuple[str, ...] = ("test",)
    n_shots: int | None = None
    """None: as many as is usual."""
    scorer: str | None = None
    """Of benchmarks of one's own; None: the usual one."""
    sandbox: Sandbox = field(default_factory=Sandbox)
    seed: int = 0


def load_benchmark(name: str, source: Source) -> Benchmark:
    """Reads and checks all of it. Raises `ConfigError`, `DatasetError`."""
    kind = CUSTOM if name == CUSTOM.name else KINDS.get(name)
    if kind is None:
        known = (*KINDS, CUSTOM.name)
        guess = nearest(name, known)
        hint = f"; did you mean {guess!r}?" if guess else ""
        raise ConfigError(f"unknown benchmark {name!r} (known: {', '.join(known)}){hint}")
    scorer = _scorer(kind, source.scorer)
    read = _reader(kind, source)
    questions: list[Question] = []
    for split in source.splits:
        questions += questions_of(read(split), split, scorer, source.seed)
    n_shots = kind.n_shots if source.n_shots is None else source.n_shots
    return Benchmark(
        name=name,
        questions=_apart(questions),
        scorer=scorer,
        score=scorer_named(scorer, kind.rule, source.sandbox),
        instruction=kind.instruction,
        shots=_shots(kind, read, scorer, source) if n_shots else (),
        n_shots=n_shots,
    )


def _scorer(kind: Kind, named: str | None) -> ScorerName:
    if named is None:
        return kind.scorer
    scorer_named(named)
    return next(scorer for scorer in _SCORERS if scorer == named)


def _reader(kind: Kind, source: Source) -> Callable[[str], Sequence[Row]]:
    if (source.data is None) == (source.hub is None):
        raise ConfigError(f"{kind.name}: say where its questions are: {kind.fix}", key="data")
    data, hub = source.data, source.hub
    if data is not None:
        return lambda split: read_rows(data, kind.stems, split, kind.fix)
    assert hub is not None, "one of the two is given"
    return lambda split: hub_rows(hub, kind.hub_config, split, kind.fix)


def _shots(
    kind: Kind, read: Callable[[str], Sequence[Row]], scorer: ScorerName, source: Source
) -> tuple[Shot, ...]:
    """Those that the data has for it, which MMLU-Pro's authors use; else our own."""
    if "validation" in source.splits:
        return kind.shots
    if source.data is not None and source.data.is_file():
        return kind.shots
    try:
        found = shots_of(read("validation"), scorer, source.seed)
    except DatasetError:
        return kind.shots
    return found or kind.shots


def _apart(questions: Sequence[Question]) -> tuple[Question, ...]:
    seen: dict[str, str] = {}
    for question in questions:
        before = seen.setdefault(question.query.id, question.split)
        if before != question.split:
            raise DatasetError(
                f"the id {question.query.id!r} is in the splits {before!r} and {question.split!r}; "
                "ask one of them, or give each question an id of its own"
            )
    return tuple(questions)
