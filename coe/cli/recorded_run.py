"""The runs behind `coe eval mmlu-pro` and `coe eval llmrouter-mix`, on recorded answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from coe.assembly import ROUTERS, fit_scorer
from coe.cli.eval_options import check_routers, listed, specs_of
from coe.cli.fitting import fitted_entrants
from coe.cli.progress import progress_bar
from coe.encoders import default_encoder
from coe.errors import ConfigError
from coe.eval.costs import check_cost
from coe.eval.entrants import judge
from coe.eval.harness import Row, check_apart, evaluate
from coe.eval.judging import check_aggregator, comparable
from coe.eval.leaderboard import Board, leaderboard
from coe.eval.plot import check_plot_file, plot_boards
from coe.eval.provenance import Origin, provenance
from coe.eval.recorded import POOLS, RecordedBenchmark
from coe.eval.vectors import recorded_encoder
from coe.outcomes import FloatArray, OutcomeTable
from coe.routers.calibrated import reads_probabilities
from coe.routing import Encoder

Load = Callable[[Path, str, Sequence[str] | str], RecordedBenchmark]
"""Folder, split and pool → benchmark."""

_POOLS = "all,small,open"
_LEADING = [name for name in ROUTERS if name not in ("random", "best-single")]
"""Those two are references of every board."""


@dataclass(frozen=True, slots=True)
class RecordedOptions:
    """What the user asked for."""

    benchmark: str
    data: Path
    split: str
    pool: str | None
    routers: str | None
    policies: str | None
    """None is top-1."""
    aggregator: str | None
    """None is majority."""
    fit_data: Path | None
    fit_split: str
    encoder: str
    hide_category: bool
    cost: str | None
    """Of a leaderboard; None is `params_active_b`."""
    plot: Path | None
    seed: int
    arguments: tuple[str, ...]

    @property
    def traded(self) -> str:
        """The cost that a leaderboard trades against quality."""
        return self.cost or "params_active_b"


@dataclass(frozen=True, slots=True, eq=False)
class RecordedResult:
    rows: list[Row]
    pool: str
    told: str
    """Whether the category was given or hidden."""
    provenance: Mapping[str, object]


@dataclass(frozen=True, slots=True, eq=False)
class BoardsResult:
    boards: list[Board]
    provenance: Mapping[str, object]


def judge_recorded(options: RecordedOptions, load: Load) -> RecordedResult:
    """Every named router under every named policy."""
    names = listed(options.routers or "category,knn")
    check_routers(names)
    aggregator = options.aggregator or "majority"
    check_aggregator(aggregator)
    specs = specs_of(listed(options.policies or "top-1"))
    if options.plot is not None:
        raise ConfigError("--plot draws the curves of --leaderboard; add that option")
    if options.cost is not None:
        raise ConfigError(
            "--cost is that of --leaderboard; add that option, or name a policy's cost as in "
            "--policy top-1:cost=params_active_b:budget=20"
        )
    pool = options.pool or "all"
    benchmark, fitted_on = _read(options, load, pool)
    told = "hidden" if options.hide_category else "given"
    if options.hide_category:
        benchmark = benchmark.without_categories()
    check_apart(benchmark.table, fitted_on)
    encoder = _encoder(options.encoder, fitted_on, benchmark.table)
    tells = not options.hide_category
    entrants = fitted_entrants(names, fitted_on, benchmark, encoder, tells)
    answered = RecordedBenchmark(comparable(benchmark.table), benchmark.pool)
    trained = comparable(fitted_on)
    if any(reads_probabilities(spec, aggregator) for spec in specs):
        for entrant in entrants:
            entrant.chances()
    pairs = [(entrant, spec) for entrant in entrants for spec in specs]
    judged = []
    with progress_bar("judging", len(pairs)) as bar:
        for entrant, spec in pairs:
            judged.append(judge(entrant, spec, aggregator, answered, trained))
            bar.advance()
    rows = evaluate(benchmark, judged, fitted_on, pool, seed=options.seed)
    origin = _origin(options, benchmark, fitted_on, encoder)
    return RecordedResult(rows, pool, told, {**provenance(origin), "category": told})


def judge_leaderboard(options: RecordedOptions, load: Load) -> BoardsResult:
    """Every router on every pool, fitted once a pool, with the category given and hidden.

    Pools that turn out to be the same experts are judged once.
    """
    names = listed(options.routers) if options.routers else _LEADING
    check_routers(names)
    for option, value in (("--policy", options.policies), ("--aggregator", options.aggregator)):
        if value is not None:
            raise ConfigError(
                f"--leaderboard compares routers at one call a query, so {option} says nothing; "
                "leave one of the two out"
            )
    check_cost(options.traded)
    if options.plot is not None:
        check_plot_file(options.plot)
    boards: list[Board] = []
    seen: set[tuple[str, ...]] = set()
    origin: Origin | None = None
    for pool in _pools(options.pool):
        benchmark, fitted_on = _read(options, load, pool)
        if benchmark.pool.ids in seen:
            continue
        seen.add(benchmark.pool.ids)
        encoder = _encoder(options.encoder, fitted_on, benchmark.table)
        origin = origin or _origin(options, benchmark, fitted_on, encoder)
        boards += _boards(options, benchmark, fitted_on, encoder, names, pool)
    if options.plot is not None:
        plot_boards(boards, options.traded, options.plot)
    if origin is None:
        raise ConfigError("no pool was named")
    return BoardsResult(boards, provenance(origin))


def _boards(
    options: RecordedOptions,
    benchmark: RecordedBenchmark,
    fitted_on: OutcomeTable,
    encoder: Encoder,
    names: Sequence[str],
    pool: str,
) -> list[Board]:
    check_apart(benchmark.table, fitted_on)
    queries = {
        "given": benchmark.table.queries,
        "hidden": benchmark.without_categories().table.queries,
    }
    if options.hide_category:
        del queries["given"]
    scores: dict[str, dict[str, FloatArray]] = {told: {} for told in queries}
    with progress_bar(f"fitting for pool {pool}", len(names)) as bar:
        for name in names:
            scorer = fit_scorer(name, fitted_on, encoder)
            for told, asked in queries.items():
                scores[told][name] = scorer.score(asked)
            bar.advance()
    return [
        leaderboard(benchmark, fitted_on, each, (pool, told), options.traded, options.seed)
        for told, each in scores.items()
    ]


def _pools(text: str | None) -> list[str]:
    """Names of pools, each one of its own; a list of experts is one pool."""
    parts = listed(text or _POOLS)
    return parts if all(part in POOLS for part in parts) else [",".join(parts)]


def _read(
    options: RecordedOptions, load: Load, pool: str
) -> tuple[RecordedBenchmark, OutcomeTable]:
    chosen = pool if pool in POOLS else listed(pool)
    with progress_bar("reading answers", 2) as bar:
        judged = load(options.data, options.split, chosen)
        bar.advance()
        fitted_on = load(options.fit_data or options.data, options.fit_split, judged.pool.ids)
        bar.advance()
    return judged, fitted_on.table


def _encoder(named: str, fitted_on: OutcomeTable, judged: OutcomeTable) -> Encoder:
    if named == "default":
        return default_encoder()
    if named not in ("auto", "recorded"):
        raise ConfigError(f"unknown encoder {named!r} (known: auto, recorded, default)")
    both_recorded = fitted_on.vectors is not None and judged.vectors is not None
    if not both_recorded and named == "auto":
        return default_encoder()
    return recorded_encoder(fitted_on, judged)


def _origin(
    options: RecordedOptions,
    benchmark: RecordedBenchmark,
    fitted_on: OutcomeTable,
    encoder: Encoder,
) -> Origin:
    return Origin(
        options.benchmark,
        benchmark.digest(),
        fitted_on.digest(),
        options.split,
        options.fit_split,
        encoder.name,
        options.seed,
        options.arguments,
    )
