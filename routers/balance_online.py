"""Balance for live traffic: a bias per expert, added to the scores for the choice alone.

Auxiliary-loss-free balancing (arXiv 2408.15664, used in DeepSeek-V3): after each window the
bias of an expert that got more than its part falls by one step and that of one that got less rises
by one. The paper balances the experts of a layer over a training batch; here they are whole
models, a window is so many decisions, and the bias is bounded, so that balance never costs a
query more than twice the bound in score.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from threading import Lock

import numpy as np

from coe.errors import ConfigError
from coe.experts import ExpertPool
from coe.outcomes import FloatArray, IntArray
from coe.routing import Policy


@dataclass(frozen=True, slots=True)
class BiasState:
    """Where an online bias stands: values, never changed in place."""

    bias: tuple[float, ...]
    """What is added to each expert's score, in the pool's order."""
    loads: tuple[int, ...]
    """How often each was chosen in the window so far."""
    n_decisions: int = 0
    """In the window so far."""


@dataclass(frozen=True, slots=True)
class OnlineBias:
    """The rule of balancing. Pure: a state goes in and a state comes out."""

    step: float = 0.01
    """How far a bias moves after a window, in score."""
    window: int = 100
    """Decisions between two moves."""
    limit: float = 0.1
    """No bias leaves [-limit, limit]: a choice loses at most twice this against the best score."""
    targets: tuple[float, ...] | None = None
    """Each expert's part of the load, such as its capacity, in any unit; None means equal."""

    def __post_init__(self) -> None:
        if not (self.step > 0 and self.limit > 0 and self.window >= 1):
            raise ConfigError("step and limit must be above 0 and window at least 1")
        targets = self.targets
        if targets is not None and (min(targets, default=0.0) < 0 or sum(targets) <= 0):
            raise ConfigError("targets must not be negative, and one must be above 0")

    def start(self, n_experts: int) -> BiasState:
        """No bias and an empty window."""
        if self.targets is not None and len(self.targets) != n_experts:
            raise ConfigError(f"{len(self.targets)} targets for a pool of {n_experts} experts")
        return BiasState((0.0,) * n_experts, (0,) * n_experts)

    def after(self, state: BiasState, chosen: Sequence[int]) -> BiasState:
        """The state after one decision for the experts of these columns."""
        loads = list(state.loads)
        for column in chosen:
            loads[column] += 1
        if state.n_decisions + 1 < self.window:
            return BiasState(state.bias, tuple(loads), state.n_decisions + 1)
        bias = self.moved(np.array(state.bias), np.array(loads))
        return BiasState(tuple(bias.tolist()), (0,) * len(loads))

    def moved(self, bias: FloatArray, loads: IntArray) -> FloatArray:
        """The biases after a window of these loads: b + step · sign(due load − load)."""
        parts = np.ones(len(loads)) if self.targets is None else np.array(self.targets)
        due = parts / parts.sum() * loads.sum()
        moved: FloatArray = np.clip(
            bias + self.step * np.sign(due - loads), -self.limit, self.limit
        )
        return moved


class Balanced:
    """A policy over biased scores that learns its bias from its own decisions.

    The one policy with a memory: the same scores may be decided otherwise later. The scores
    that a routing decision records stay as the scorer gave them. May be called from several
    threads; each decision is counted once.
    """

    def __init__(self, policy: Policy, bias: OnlineBias, state: BiasState | None = None) -> None:
        """`state` carries on where another left off; None starts without bias."""
        self._policy = policy
        self._bias = bias
        self._state = state
        self._lock = Lock()

    @property
    def name(self) -> str:
        return f"balanced-{self._policy.name}"

    @property
    def state(self) -> BiasState | None:
        """For reports and for carrying on; None before the first decision."""
        return self._state

    def choose(self, scores: FloatArray, pool: ExpertPool) -> tuple[str, ...]:
        with self._lock:
            state = self._state or self._bias.start(len(pool))
            chosen = self._policy.choose(scores + np.array(state.bias), pool)
            columns = [pool.ids.index(expert_id) for expert_id in chosen]
            self._state = self._bias.after(state, columns)
            return chosen
