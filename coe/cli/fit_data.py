"""What `coe fit` fits on: recorded outcomes, feedback, or both."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from coe.errors import ConfigError, DatasetError

if TYPE_CHECKING:
    from coe.config import Config
    from coe.outcomes import OutcomeTable


@dataclass(frozen=True, slots=True, eq=False)
class FitData:
    """A table, and where it comes from."""

    table: OutcomeTable
    n_recorded: int
    """So many of its rows come first and were recorded; the others are feedback's."""
    source: str
    notes: tuple[str, ...] = ()
    """What the user should know of it."""

    @property
    def n_rated(self) -> int:
        return self.table.n_queries - self.n_recorded


def fit_data(config: Config, outcomes: Path | None, split: str, feedback: Path | None) -> FitData:
    """Reads what is named. Without feedback it is the outcomes as they are."""
    from coe.eval.datasets import load_outcomes

    recorded = None
    if outcomes is not None:
        recorded = load_outcomes(outcomes, None if split == "all" else split)
    if feedback is not None:
        return _with_feedback(config, recorded, outcomes, feedback)
    if recorded is None:
        raise ConfigError(
            "no outcomes to fit on; pass --outcomes or set it", file=str(config.file), key="router"
        )
    return FitData(recorded, recorded.n_queries, str(outcomes))


def run_outcomes(run: Path, outcomes: Path | None) -> Path:
    """The outcomes of a finished run of `coe eval`. Raises `ConfigError`, `DatasetError`."""
    from coe.eval.runs.folder import RunFolder

    if outcomes is not None:
        raise ConfigError("--from-run and --outcomes both say what to fit on; leave one out")
    folder = RunFolder(run)
    folder.read_results()
    return folder.outcomes


def _with_feedback(
    config: Config, recorded: OutcomeTable | None, outcomes: Path | None, feedback: Path
) -> FitData:
    import numpy as np

    from coe.feedback import feedback_table, merged, read_feedback

    ratings, n_torn = read_feedback(feedback)
    rated = feedback_table(ratings, config.pool.ids)
    table = rated if recorded is None else merged(recorded, rated)
    if table.n_queries == 0:
        raise DatasetError(f"{feedback}: nobody has rated an answer of this pool yet")
    foreign = sum(rating.expert_id not in config.pool.ids for rating in ratings)
    means = dict(zip(table.expert_ids, table.means(), strict=True))
    unmeasured = [expert_id for expert_id, mean in means.items() if np.isnan(mean)]
    notes = [f"feedback: {len(ratings)} ratings of {rated.n_queries} queries, in {feedback}"]
    if foreign:
        notes.append(f"feedback: {foreign} ratings of experts that the pool lacks are left out")
    if n_torn:
        notes.append(f"feedback: {n_torn} lines that are no whole events are left out")
    if unmeasured:
        notes.append(f"never measured: {', '.join(unmeasured)}")
    source = str(feedback) if outcomes is None else f"{outcomes} and {feedback}"
    return FitData(table, table.n_queries - rated.n_queries, source, tuple(notes))
