"""Which inner experts of a model fired: what a trace gives, and how vLLM tells it.

Inner experts are the feed-forward blocks of one sparse mixture-of-experts model, not the experts
of a pool. vLLM tells of them with `enable-return-routed-experts`, in answers that are not
streamed, on a GPU.
"""

from __future__ import annotations

import base64
import binascii
import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from coe.errors import UpstreamError
from coe.types import Usage

MAX_BYTES = 256 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class RoutedExperts:
    """The inner experts chosen in every pass of a token through the model, in every layer."""

    chosen: npt.NDArray[np.integer[Any]]
    """Expert numbers (n_tokens, n_layers, top_k); only layers that have inner experts."""

    def counts(self, n_experts: int) -> npt.NDArray[np.int64]:
        """How many tokens each inner expert was chosen for (n_layers, n_experts)."""
        n_layers = self.chosen.shape[1]
        counts = np.zeros((n_layers, n_experts), dtype=np.int64)
        layers = np.broadcast_to(np.arange(n_layers)[None, :, None], self.chosen.shape)
        np.add.at(counts, (layers, self.chosen), 1)
        return counts

    def load(self, n_experts: int) -> npt.NDArray[np.float64]:
        """Share of each layer's choices that fell on each expert (n_layers, n_experts)."""
        n_tokens, _, top_k = self.chosen.shape
        load: npt.NDArray[np.float64] = self.counts(n_experts) / max(1, n_tokens * top_k)
        return load


@dataclass(frozen=True, slots=True)
class Traced:
    """An answer together with the inner experts that produced it."""

    text: str
    usage: Usage
    routed_experts: RoutedExperts
    """Prompt and answer in the order they were read. The last token of an answer is never read,
    so there is one pass less than there are tokens."""
    n_experts: int
    """Inner experts in each layer. Where nobody tells, as many as the highest number chosen
    implies."""

    @property
    def completion(self) -> RoutedExperts:
        """One pass for each generated token: the pass that produced it."""
        return RoutedExperts(self.routed_experts.chosen[self._n_before :])

    @property
    def prompt(self) -> RoutedExperts:
        """The other passes: all tokens of the prompt but its last, which produces an answer."""
        return RoutedExperts(self.routed_experts.chosen[: self._n_before])

    @property
    def _n_before(self) -> int:
        return max(0, len(self.routed_experts.chosen) - self.usage.completion_tokens)


def read_routed_experts(expert_id: str, choice: Mapping[str, Any]) -> RoutedExperts | None:
    """From one choice of a response; None where the server tells nothing.

    Raises `UpstreamError` for what is no array of (tokens, layers, top_k).
    """
    text = choice.get("routed_experts")
    if text is None:
        return None
    try:
        if not isinstance(text, str) or len(text) > MAX_BYTES:
            raise ValueError("not a string of a sane length")
        # Never a pickle: what comes over the network is not to be run.
        array = np.load(io.BytesIO(base64.b64decode(text, validate=True)), allow_pickle=False)
    except (ValueError, EOFError, OSError, binascii.Error) as error:
        raise UpstreamError(expert_id, f"sent malformed routed_experts: {error}") from None
    if array.ndim != 3 or not np.issubdtype(array.dtype, np.integer):
        raise UpstreamError(
            expert_id,
            f"sent routed_experts of shape {array.shape} and type {array.dtype}; expected whole "
            "numbers by token, layer and rank",
        )
    if array.size and array.min() < 0:
        raise UpstreamError(expert_id, "sent routed_experts with numbers below 0")
    return RoutedExperts(array)
