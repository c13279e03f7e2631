"""Which sparse experts inside a model fired, as vLLM tells with `enable-return-routed-experts`.

Not to be confused with the experts of a pool: these are the feed-forward blocks of one
mixture-of-experts model. vLLM tells of them in answers that are not streamed, on a GPU.
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

MAX_BYTES = 256 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class RoutedExperts:
    """The sparse experts chosen for every token in every layer."""

    chosen: npt.NDArray[np.integer[Any]]
    """Expert numbers (n_tokens, n_layers, top_k)."""

    def load(self, n_experts: int) -> npt.NDArray[np.float64]:
        """Share of each layer's choices that fell on each expert (n_layers, n_experts)."""
        n_tokens, n_layers, top_k = self.chosen.shape
        counts = np.zeros((n_layers, n_experts))
        layers = np.broadcast_to(np.arange(n_layers)[None, :, None], self.chosen.shape)
        np.add.at(counts, (layers, self.chosen), 1.0)
        counts /= max(1, n_tokens * top_k)
        return counts


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
    return RoutedExperts(array)
