"""What goes around an engine: patience, retries, a circuit breaker, a bound, a recording.

From the inside out: patience, which ends one try; retries, which a breaker takes for one request;
the breaker; the bound, so that those who wait in its line fail fast once the breaker opens; the
recording of what came out.
"""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote

from coe.config import Config
from coe.engines.base import Engine
from coe.engines.breaking import BreakingEngine
from coe.engines.impatient import ImpatientEngine
from coe.engines.limited import LimitedEngine
from coe.engines.recording_engine import RecordingEngine
from coe.engines.retrying import RetryBudget, RetryingEngine
from coe.errors import ConfigError
from coe.experts import Expert
from coe.reliability import UNGUARDED, RetryRules


class Guards:
    """Puts around engines what their experts ask for. All share one budget of retries and
    failovers; whoever asks them tells it of requests.
    """

    def __init__(self, config: Config, records: Path | None = None) -> None:
        """`records`: the folder that answers are recorded in; None records nothing."""
        rules = config.reliability.retries or RetryRules()
        self._reliability = config.reliability
        self._file = config.file
        self.budget = RetryBudget(rules.budget_share, rules.budget_reserve, rules.failover_reserve)
        self._records = records

    def of(self, config: Config) -> Guards:
        """Those of a configuration read later: with the same budget if it has the same rules."""
        return self if config.reliability == self._reliability else Guards(config, self._records)

    def around(self, expert: Expert, engine: Engine, is_hosted: bool) -> Engine:
        """The engine as it is to be asked. Raises `ConfigError`.

        A hosted expert has its line at the scheduler, which also leaves it alone for a while when
        it cannot be loaded: it gets no bound here, and no breaker that would keep its turns away.
        """
        retries, breaker = expert.reliability.retries, expert.reliability.breaker
        if is_hosted and breaker is not None:
            raise ConfigError(
                f"expert {expert.id!r} is hosted here, and is left alone by its scheduler when it "
                "fails; leave `breaker` out of its `reliability`",
                file=str(self._file),
                key="experts",
            )
        if not is_hosted and expert.reliability != UNGUARDED:
            engine = ImpatientEngine(engine)
        if retries is not None and retries.max_retries:
            engine = RetryingEngine(engine, retries, self.budget)
        if breaker is not None:
            engine = BreakingEngine(engine, breaker)
        if expert.hosting.max_in_flight is not None and not is_hosted:
            engine = LimitedEngine(engine, expert.hosting.max_in_flight, expert.hosting.max_queued)
        return engine if self._records is None else self._recorded(expert, engine, self._records)

    def _recorded(self, expert: Expert, engine: Engine, folder: Path) -> Engine:
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"cannot be a folder: {error.strerror}", file=str(folder)) from None
        return RecordingEngine(engine, record_file(folder, expert.id))


def record_file(folder: Path, expert_id: str) -> Path:
    """Where an expert's answers are recorded, whatever is in its id."""
    return folder / f"{quote(expert_id, safe='')}.jsonl"
